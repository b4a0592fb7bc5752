"""The fingerprint of a student's initial weights: by content where there is a file. Loads without torch."""

from __future__ import annotations

from search_spaces.hyperparameters import content_key
from trainables.storage.checksums import file_sha256
from trainables.student.names import student_weights_file, tagged_name


def student_fingerprint(student: str, weights: str) -> str:
    """SHA-256 that names a student's initial weights; hub weights count by timm's full name, files by content.

    Raises:
        UserError: `weights` is neither `pretrained` nor `random` nor a file.
    """
    file = student_weights_file(student, weights)
    if file is not None:
        content = file_sha256(file)
    else:
        content = f"hub:{tagged_name(student)}" if weights == "pretrained" else weights
    return content_key({"kind": "student", "student": student, "weights": content})
