"""The state of every fold of a sweep, as the store shows it: done, failed, pruned, running or waiting."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable

from orchestrator.store.failures import Failure, allow_again, give_up, read_failures, record_and_decide, record_failure
from orchestrator.store.fold_store import FoldState, FoldStore
from orchestrator.store.leases import FoldLeases
from orchestrator.store.results import FoldResult
from orchestrator.store.sweep_folder import SweepFolder
from trainables.storage.leases import Owner, this_process


class FoldStates:
    """The state of every fold, remembered once it cannot change any more."""

    def __init__(
        self,
        store: SweepFolder,
        *,
        max_failures: int = 1,
        retry_failed: bool = False,
        leases: FoldLeases | None = None,
    ) -> None:
        """Remember where to look.

        Args:
            max_failures: most further attempts at a fold after crashes and worker processes that died.
            retry_failed: give failed folds their attempts back, once each.
            leases: of this sweep; None makes them for this process.
        """
        self._store, self._max_failures, self._retry_failed = store, max_failures, retry_failed
        self.leases = leases or FoldLeases(this_process())
        self._allowed: set[str] = set()
        self._accuracy: dict[str, float] = {}
        self._seconds: dict[str, float] = {}
        self._failed: set[str] = set()
        self._pruned: set[str] = set()
        self._looked: set[str] = set()
        self.running: set[str] = set()

    def objective(self, key: str) -> float | None:
        """Mean source validation accuracy of a finished fold; None while it is not finished, or failed."""
        self._look(key)
        return self._accuracy.get(key)

    def seconds(self, key: str) -> float | None:
        """What a finished fold took; None while it is not finished."""
        self._look(key)
        return self._seconds.get(key)

    def failed(self, key: str) -> bool:
        self._look(key)
        return key in self._failed

    def pruned(self, key: str) -> bool:
        """Pruned by this sweep; where somebody else finished the fold, its result counts."""
        return key in self._pruned and self.objective(key) is None

    def prune(self, keys: Iterable[str]) -> None:
        """Never run these again."""
        self._pruned.update(keys)

    def look_at_pruned(self) -> None:
        """The workers of folds that were stopped have ended: one may have come to its result before that."""
        self._looked -= self._pruned - self.running

    def settled(self, key: str) -> bool:
        return self.objective(key) is not None or self.failed(key) or key in self._pruned

    def waiting(self, key: str) -> bool:
        return key not in self.running and not self.settled(key)

    def is_running(self, key: str) -> bool:
        return key in self.running

    def elsewhere(self, key: str) -> Owner | None:
        """Who else ran a waiting fold when it was last tried."""
        return self.leases.elsewhere(self._store.folds.fold(key)) if self.waiting(key) else None

    def take(self, key: str) -> bool:
        """Hold a waiting fold; False where another sweep does, or has settled it meanwhile."""
        folder = self._store.folds.fold(key)
        if not self.leases.take(folder):
            return False
        self._looked.discard(key)
        if self.waiting(key):
            return True
        self.leases.release(folder)
        return False

    def finish(self, key: str) -> bool:
        """Take a finished fold's result over; False where it has none, or none that can be compared."""
        self.running.discard(key)
        self._looked.discard(key)
        self._look(key)
        return key in self._accuracy

    def fail(self, key: str, failure: Failure) -> bool:
        """Record a failed attempt; True where another one follows."""
        self.running.discard(key)
        spec = self._store.folds.spec(key)
        align = None if spec is None else self._store.folds.align(spec.align_key)
        if record_and_decide(self._store.folds.fold(key), failure, align=align, max_failures=self._max_failures):
            return True
        self._failed.add(key)
        return False

    def _look(self, key: str) -> None:
        if key in self._looked or key in self.running:
            return
        self._looked.add(key)
        folder = self._store.folds.fold(key)
        if self._retry_failed and key not in self._allowed:
            # Once: what fails from now on counts.
            self._allowed.add(key)
            allow_again(folder)
        if read_failures(folder).failed:
            self._failed.add(key)
            return
        result = self._store.folds.result(key, by_content=True)
        if result is None:
            return
        self._store.folds.tidy_done(key)
        self._seconds[key], accuracy = result.seconds, result.accuracy
        if math.isfinite(accuracy):
            self._accuracy[key] = accuracy
        else:
            error = f"the mean source validation accuracy is {accuracy}, which no trial can be judged by"
            record_failure(folder, Failure(time=time.time(), kind="no_metric", error=error))
            give_up(folder)
            self._failed.add(key)


class StoredStates:
    """The same as the store shows it at one moment, each looked up once."""

    def __init__(self, folds: FoldStore, *, living_owner: str | None = None) -> None:
        """Remember what to read.

        Args:
            living_owner: identity of the process that runs the sweep; without one, its folds wait.
        """
        self._folds, self._owner = folds, living_owner
        self._standings: dict[str, tuple[FoldState, FoldResult | None]] = {}

    def state(self, key: str) -> FoldState:
        return self._standing(key)[0]

    def result(self, key: str) -> FoldResult | None:
        """What a finished fold came to; None for any other."""
        return self._standing(key)[1]

    def objective(self, key: str) -> float | None:
        """Mean source validation accuracy of a finished fold; None while it is not finished, or failed."""
        result = self.result(key)
        return None if result is None or not math.isfinite(result.accuracy) else result.accuracy

    def failed(self, key: str) -> bool:
        return self.state(key) == "failed"

    def pruned(self, key: str) -> bool:
        return self.state(key) == "pruned"

    def settled(self, key: str) -> bool:
        return self.state(key) in ("done", "failed", "pruned")

    def is_running(self, key: str) -> bool:
        return self.state(key) == "running"

    def _standing(self, key: str) -> tuple[FoldState, FoldResult | None]:
        if key not in self._standings:
            self._standings[key] = self._folds.standing(key, self._owner)
        return self._standings[key]
