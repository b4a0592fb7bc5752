"""Going on in mid-stage: everything the loop holds, in one file that loads with `weights_only=True`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from trainables.storage.atomic_files import aside_of


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values; the file appears whole or not at all.

    Straight to disk: a copy in memory would double what SWAD saves.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = aside_of(path)
    with aside.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def steps_left(path: Path, *, stage: str, num_steps: int) -> int:
    """Steps that a stage of `num_steps` still makes when it goes on from here; its weights are left on disk."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        return num_steps
    if state["stage"] != stage:
        return num_steps
    return 0 if state["ended_early"] else max(0, num_steps - int(state["next_step"]))


def load_checkpoint(path: Path, *, stage: str) -> dict[str, Any] | None:
    """Read the state of `stage`, or None where there is none (or it belongs to another stage)."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state if state["stage"] == stage else None
