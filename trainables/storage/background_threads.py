"""Something that runs in a thread: beside a block of code until the block ends, or until it has an answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


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


def in_thread(name: str, work: Callable[[], T]) -> Future[T]:
    """Begin the work in a thread of its own; the process may end before it does, as it may not with an executor's."""
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(work())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return answer
