"""Whether a run is to stop: asked by a signal, a worker, another process or a lost storage."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(slots=True)
class StopRequest:
    """Whether to stop, and why; set by a signal, by a user's mistake that a worker found, or from another process."""

    wanted: bool = False
    """Stop now."""
    draining: bool = False
    """Start nothing new; what runs is finished."""
    user_error: str = ""

    def because(self, error: str) -> None:
        """Stop now, for a reason that the user is told."""
        self.wanted, self.user_error = True, error

    def after_running(self, error: str) -> None:
        """Start nothing new, for a reason that the user is told once what runs is finished."""
        self.draining, self.user_error = True, self.user_error or error

    @property
    def closing(self) -> bool:
        """Nothing new is started."""
        return self.wanted or self.draining


@contextmanager
def signals_stop(stop: StopRequest) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP (a lost terminal) end the run in order; a second one ends it at once.

    A signal that is ignored stays ignored: `nohup` asks for that.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in STOPPING if signal.getsignal(number) != signal.SIG_IGN}

    def request(number: int, frame: FrameType | None) -> None:
        if stop.wanted:
            raise KeyboardInterrupt
        stop.wanted = True

    for number in before:
        signal.signal(number, request)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
