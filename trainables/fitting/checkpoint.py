"""Going on in mid-stage: everything the loop holds, in one file that loads with `weights_only=True`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from trainables.record import write_atomically


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values; the file appears whole or not at all."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, buffer.getvalue())


def load_checkpoint(path: Path, *, stage: str) -> dict[str, Any] | None:
    """Read the state of `stage`, or None where there is none (or it belongs to another stage)."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state if state["stage"] == stage else None
