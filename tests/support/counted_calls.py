"""The cost of a piece of Python that no clock is needed for."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from types import FrameType


def counted_calls(work: Callable[[], object]) -> int:
    """How many functions, of Python or in C, this thread calls while it does the work; the work is done once before.

    The first time pays for imports and caches. What is garbage is collected outside, for it calls functions too.
    """
    work()
    count = 0

    def note(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    before = sys.getprofile()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
        if was_enabled:
            gc.enable()
    return count
