"""The fingerprint of a teacher: by content where there is a file. Loads without torch.

Two runs that read the same weights share a fingerprint wherever the files lie; two that differ never do.
"""

from __future__ import annotations

from search_spaces.hyperparameters import content_key
from trainables.storage.checksums import file_sha256
from trainables.teacher.names import parse_open_clip, teacher_kind


def teacher_fingerprint(name: str) -> str:
    """SHA-256 that names a teacher's weights and architecture; `open_clip` tags count by name, files by content;
    a remote teacher by what its server says it serves, so this asks it.

    Raises:
        UserError: there is no such kind of teacher, a file that it names is missing, or its server cannot be reached.
    """
    kind = teacher_kind(name)
    if kind == "demo":
        from trainables.teacher.demo import CLASS_PROMPTS, TEACHER_WEIGHTS

        return content_key({"kind": kind, "files": [file_sha256(TEACHER_WEIGHTS), file_sha256(CLASS_PROMPTS)]})
    if kind == "remote":
        from trainables.teacher.http.connection import remote_fingerprint

        return remote_fingerprint(name.partition(":")[2])
    wanted = parse_open_clip(name)
    weights, architecture = wanted.weights_file, wanted.architecture_file
    return content_key(
        {
            "kind": kind,
            "architecture": wanted.architecture if architecture is None else file_sha256(architecture),
            "weights": wanted.weights if weights is None else file_sha256(weights),
        }
    )
