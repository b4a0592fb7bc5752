"""A student on disk: one safetensors file with the evaluated weights, whole or not there at all."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from trainables.storage.json_files import write_atomically
from trainables.weights import load_strictly, read_weights


def student_bytes(student: nn.Module) -> bytes:
    """The safetensors file of a student's state dict; equal weights give equal bytes."""
    from safetensors.torch import save

    return save({name: value.detach().cpu().contiguous().clone() for name, value in student.state_dict().items()})


def save_student(student: nn.Module, path: Path) -> None:
    """Write a student's weights, whole or not at all."""
    write_atomically(path, student_bytes(student))


def load_student(student: nn.Module, path: Path) -> None:
    """Load saved weights into a student of the same architecture, strictly and in place.

    Raises:
        UserError: the file is missing, damaged, or belongs to another architecture.
    """
    load_strictly(student, read_weights(path), what=f"student weights {path}")
