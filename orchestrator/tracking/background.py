"""The projection into MLflow while a sweep runs: one background thread, the latest state only."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import Protocol

from orchestrator.events import ChangedFold
from search_spaces.errors import UserError, first_line


class TrackingAwayError(UserError):
    """The tracking server does not answer now; its address may well be right."""

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(f"{reason}; {advice}")
        self.reason = reason


class Tracking(Protocol):
    """Projects the store somewhere else."""

    def look(self) -> None:
        """Ask its server for a sign of life, and open nothing; raises as `preflight` does."""

    def preflight(self) -> None:
        """Raises `TrackingAwayError` where the server cannot be reached, `UserError` where the address is none."""

    def sync(self, changed: Collection[ChangedFold] | None = None) -> object:
        """Bring the projection up to date with the store; doing it twice adds nothing.

        Args:
            changed: folds that ended since the last call, the only ones that are read again; None reads everything.
        """


class BackgroundSync:
    """Runs `sync` in one thread whenever it was asked for; requests that come in meanwhile count as one."""

    def __init__(self, tracking: Tracking | None, warn: Callable[[str], None]) -> None:
        self._tracking, self._warn = tracking, warn
        self._asked, self._ended = threading.Event(), threading.Event()
        self._changed: set[ChangedFold] = set()
        self._mutex = threading.Lock()
        self._thread: threading.Thread | None = None
        self.behind = ""
        """Why the projection is behind the store, in one line; empty where it is not."""

    def start(self) -> None:
        if self._tracking is not None:
            self._thread = threading.Thread(target=self._loop, name="tracking", daemon=True)
            self._thread.start()

    def ask(self, group: str, key: str) -> None:
        """Have the projection brought up to date soon: a fold of a group has ended."""
        with self._mutex:
            self._changed.add((group, key))
        self._asked.set()

    def is_away(self, reason: str) -> None:
        """Say once that the projection is behind, until it has caught up."""
        if not self.behind:
            self._warn(
                f"tracking is behind ({reason}); the store is complete, and the next sync fills it in "
                "(`vl2v-orchestrate sync`)"
            )
        self.behind = reason

    def finish(self) -> None:
        """Wait for the thread, then bring the projection up to date once more."""
        self._ended.set()
        self._asked.set()
        if self._thread is not None:
            self._thread.join()
        self._sync(None)

    def _loop(self) -> None:
        while not self._ended.is_set():
            self._asked.wait()
            self._asked.clear()
            if not self._ended.is_set():
                with self._mutex:
                    changed, self._changed = self._changed, set()
                self._sync(changed)

    def _sync(self, changed: Collection[ChangedFold] | None) -> None:
        if self._tracking is None:
            return
        try:
            # What could not be brought up to date is read again with everything else.
            self._tracking.sync(None if self.behind else changed)
        except Exception as error:
            # Training does not depend on tracking: the store is whole, and a later sync fills everything in.
            self.is_away(first_line(error))
        else:
            self.behind = ""
