"""Something that goes on in a thread beside a block of code, until the block ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def beside(name: str, follow: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run `follow` in a thread; the event that it gets is set at the block's end, which then waits for it to return."""
    ended = threading.Event()
    thread = threading.Thread(target=follow, args=(ended,), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
