"""The way of a nested trainer's reports to Tune, so that the last ones arrive before the trial's function returns.

Tune's function trainable has two threads: one runs the function, the other fetches a report of the trainer's controller
from Ray's queue and then puts it where the function's own reports go, which has room for one. A function that returns
between the two puts its end there first, and both threads wait for each other for ever (Ray 2.60; found by
`tests.chaos`). So the function waits until the queue was looked into again after the trainer's end, and was empty.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LOOK_AGAIN_S = 0.1


class HeardQueue:
    """Ray's queue as the fetching thread uses it."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue
        self._complete, self._heard = threading.Event(), threading.Event()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """The next report; raises `ray.util.queue.Empty`."""
        from ray.util.queue import Empty

        is_complete = self._complete.is_set()
        try:
            return self._queue.get(block=block, timeout=timeout)
        except Empty:
            # Whoever asks again is done with what came before.
            if is_complete:
                self._heard.set()
            raise

    def shutdown(self, *, force: bool) -> None:
        """End the queue's actor."""
        self._queue.shutdown(force=force)

    def wait(self, given_up: threading.Event) -> None:
        """Nothing more is put in: return once everything was fetched, or nobody fetches any more."""
        self._complete.set()
        while not self._heard.wait(LOOK_AGAIN_S):
            if given_up.is_set():
                return


@contextmanager
def reports_heard() -> Iterator[None]:
    """Inside a Tune function: leave only when Tune has every report that a nested trainer sent."""
    from ray.train._internal.session import get_session

    session: Any = get_session()
    session._inter_actor_queue = queue = HeardQueue(session._get_or_create_inter_actor_queue())
    try:
        yield
    finally:
        queue.wait(session.stop_event)
