"""Waiting for what happens in another thread or process: a deadline, and nothing that measures."""

from __future__ import annotations

import time
from collections.abc import Callable

GENEROUS_S = 60.0


def eventually(true: Callable[[], object], seconds: float = GENEROUS_S) -> bool:
    """Whether a function becomes true in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if true():
            return True
        time.sleep(0.05)
    return bool(true())
