"""A student on disk: one safetensors file with the evaluated weights, whole or not there at all."""

from __future__ import annotations

import hashlib
from pathlib import Path

from torch import nn

from trainables.state_dicts import load_strictly
from trainables.storage.fold_folder import FoldFolder
from trainables.storage.json_files import damaged, write_atomically
from trainables.weights import read_weights


def student_bytes(student: nn.Module) -> bytes:
    """The safetensors file of a student's state dict; equal weights give equal bytes."""
    from safetensors.torch import save

    return save({name: value.detach().cpu().contiguous().clone() for name, value in student.state_dict().items()})


def save_student(student: nn.Module, path: Path) -> None:
    """Write a student's weights, whole or not at all."""
    write_atomically(path, student_bytes(student))


def load_student(student: nn.Module, path: Path) -> None:
    """Load saved weights into a student of the same architecture, strictly and in place.

    Where they lie in a fold's folder, they have to be those that its result was computed with.

    Raises:
        UserError: the file is missing, damaged, or belongs to another architecture.
    """
    weights = read_weights(path)
    stated = (FoldFolder(path.parent).read_result() or {}).get("student_sha256", "")
    if stated and hashlib.sha256(path.read_bytes()).hexdigest() != stated:
        raise damaged(path, "its SHA-256 is not the one in result.json")
    load_strictly(student, weights, what=f"student weights {path}")
