"""Going on in mid-stage: everything the loop holds, in one file that loads with `weights_only=True`.

The file is a zip archive, whose CRC-32 of every record torch writes and does not compare: `checkpoint_flaw` does.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from trainables.storage.atomic_files import written_whole

STATE = frozenset(
    ("stage", "next_step", "ended_early", "seconds", "teacher_embeddings", "weights", "optimizer", "averager", "best")
)
"""What a checkpoint holds."""

DAMAGE = (
    *(OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError),
    *(NotImplementedError, pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, struct.error),
)
"""What zipfile and torch raise on bytes that are no archive of theirs."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values; the file appears whole or not at all.

    Straight to disk: a copy in memory would double what SWAD saves.
    """
    with written_whole(path) as file:
        torch.save(state, file)


def checkpoint_flaw(path: Path) -> str:
    """What is wrong with a checkpoint, in one phrase; empty where it is whole, or there is none.

    Reads the whole file, so it is for whoever loads it.
    """
    if not path.exists():
        return ""
    if not path.is_file():
        return "is no file"
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        # Names and sizes stand outside the records.
        state = torch.load(path, map_location="meta", weights_only=True)
    except DAMAGE as error:
        return f"is damaged ({type(error).__name__})"
    if damaged is not None:
        return "is damaged (a checksum does not agree)"
    return "" if isinstance(state, dict) and state.keys() >= STATE else "is no checkpoint of this program"


def steps_left(path: Path, *, stage: str, num_steps: int) -> int:
    """Steps that a stage of `num_steps` still makes from here; its weights are left on disk."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except DAMAGE:
        # There is none, or the fold will find that it is damaged and begin the stage again.
        return num_steps
    if not isinstance(state, dict) or not state.keys() >= STATE or state["stage"] != stage:
        return num_steps
    return 0 if state["ended_early"] else max(0, num_steps - int(state["next_step"]))


def load_checkpoint(path: Path, *, stage: str) -> dict[str, Any] | None:
    """Read the state of `stage`, or None where there is none (or it belongs to another stage)."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state if state["stage"] == stage else None
