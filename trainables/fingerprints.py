"""Fingerprints of teachers and of a student's initial weights: by content where there is a file. Loads without torch.

Two runs that read the same weights share a fingerprint wherever the files lie; two that differ never do.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from search_spaces.hyperparameters import content_key
from trainables.student.names import student_weights_file, tagged_name
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
        from trainables.teacher.connection import remote_fingerprint

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


def student_fingerprint(student: str, weights: str) -> str:
    """SHA-256 that names a student's initial weights; hub weights count by timm's full name, files by content;
    a remote teacher by what its server says it serves, so this asks it.

    Raises:
        UserError: `weights` is neither `pretrained` nor `random` nor a file.
    """
    file = student_weights_file(student, weights)
    if file is not None:
        content = file_sha256(file)
    else:
        content = f"hub:{tagged_name(student)}" if weights == "pretrained" else weights
    return content_key({"kind": "student", "student": student, "weights": content})


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, read once per version of the file (path, size, time of change)."""
    status = path.stat()
    return _file_sha256(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _file_sha256(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
