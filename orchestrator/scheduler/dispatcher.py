"""What becomes of every attempt at a fold: it is handed out, told of, stopped early, and judged when it ends. No Ray.

A back end (`orchestrator.execution.back_ends`) runs the attempts. It asks for the next one, passes on what the worker
reports, and says how the worker ended; everything else is decided here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from orchestrator.events import EventKind, FoldEvent, Progress, ProgressEvent
from orchestrator.scheduler.crashes import CrashesInARow
from orchestrator.scheduler.fold_queue import Attempt, FoldQueue
from orchestrator.scheduler.stopping import StopRequest
from orchestrator.search.pruning import Decision
from orchestrator.store.failures import Failure
from orchestrator.store.sweep_folder import SweepFolder
from search_spaces.methods import method_facts
from trainables.jobs import NOTE
from trainables.storage.fold_folder import FoldFolder
from trainables.storage.object_storage import reason

REPORTED = ("stage", "step", "source_validation_accuracy", "source_validation_cross_entropy", "final")
"""What is passed on of a worker's report."""


@dataclass(kw_only=True, slots=True)
class _Running:
    attempt: Attempt
    started: float = field(default_factory=time.time)
    pruned: Decision | None = None
    """Why it is being stopped early."""


class Dispatcher:
    """Hands out a queue's folds, at most `limit()` at a time, and decides what becomes of them."""

    def __init__(
        self,
        queue: FoldQueue,
        *,
        store: SweepFolder,
        owner: str,
        stop: StopRequest,
        progress: Progress,
        limit: Callable[[], int],
    ) -> None:
        """Remember what to ask and whom to tell.

        Args:
            owner: identity of the lease under which folds are marked as running.
            limit: most folds at a time, asked before every start.
        """
        self.stop = stop
        self._queue, self._folds, self._mirrors, self._owner = queue, store.folds, store.mirrors, owner
        self._limit, self._progress = limit, progress
        self._running: dict[str, _Running] = {}
        self._crashes = CrashesInARow()
        self._told_of: set[str] = set()

    @property
    def is_over(self) -> bool:
        """Nothing is started any more."""
        return self.stop.closing or self._queue.is_finished or self._queue.is_out_of_budget

    def start(self) -> Attempt | None:
        """Hand out the next fold; None where a running fold, here or elsewhere, has to end first, or all `is_over`."""
        if self.is_over or len(self._running) >= self._limit():
            return None
        attempt = self._queue.next()
        if attempt is None:
            self._tell_of_others()
            return None
        self._folds.mark_running(attempt.planned.key, self._owner)
        self._running[attempt.planned.key] = _Running(attempt=attempt)
        if not self._sent(attempt):
            self._drop(attempt)
            return None
        self._tell("fold_started", attempt)
        return attempt

    def reported(self, attempt: Attempt, metrics: Mapping[str, Any]) -> bool:
        """A fold's worker has evaluated; True where it is to stop: the pruner says so, or everything stops.

        A worker's note about a damaged file is told as it is.
        """
        running = self._running.get(attempt.planned.key)
        if NOTE in metrics:
            self._message(str(metrics[NOTE]))
        if running is None or "stage" not in metrics:
            return False
        is_final = bool(metrics.get("final"))
        if not is_final:
            self._fetch_journals(attempt)
            running.pruned = running.pruned or self._queue.reported(attempt)
        if running.pruned is None:
            passed_on = {name: metrics[name] for name in REPORTED if name in metrics}
            self._tell("fold_reported", attempt, metrics=passed_on)
        return not is_final and (running.pruned is not None or self.stop.wanted)

    def ended(
        self, attempt: Attempt, failure: Failure | None = None, *, died: Callable[[], Failure] | None = None
    ) -> None:
        """A fold's worker has ended: with a result, with a failure, or because it was told to stop.

        Args:
            failure: what the worker said went wrong.
            died: tells why the worker died without saying so; asked only where nothing else explains the end.
        """
        key = attempt.planned.key
        running = self._running.pop(key, None) or _Running(attempt=attempt)
        self._folds.unmark_running(key)
        self._fetch(attempt)
        kind = None if failure is None else failure.kind
        if failure is not None and kind == "user":
            self._queue.dropped(attempt)
            self.stop.because(failure.error)
        elif kind == "budget":
            self._queue.met_budget(attempt)
        elif kind == "overtaken":
            # What the other one makes of the fold counts; nothing here may be written beside it.
            self._queue.dropped(attempt)
        elif failure is not None:
            self._fail(attempt, failure)
        elif self._folds.result(key) is not None:
            self._finish(running)
        elif running.pruned is not None:
            self._crashes.went_well()
            self._queue.pruned(attempt)
            self._tell("fold_pruned", attempt, error=running.pruned.line)
        elif self.stop.wanted:
            self._queue.dropped(attempt)
        elif died is not None:
            self._fail(attempt, died())
        else:
            self._fail(attempt, Failure(time=time.time(), kind="crash", error=self._no_result(attempt)))

    def drop_running(self) -> None:
        """The back end was ended from outside: what still ran waits again."""
        for key in list(self._running):
            self._drop(self._running[key].attempt)

    def _drop(self, attempt: Attempt) -> None:
        del self._running[attempt.planned.key]
        self._folds.unmark_running(attempt.planned.key)
        self._queue.dropped(attempt)

    def _finish(self, running: _Running) -> None:
        attempt = running.attempt
        if not self._queue.finished(attempt):
            self._tell("fold_failed", attempt, error=self._folds.failures(attempt.planned.key).error)
            return
        self._crashes.went_well()
        result = self._folds.result(attempt.planned.key)
        assert result is not None, "a fold that is finished has a result"
        self._tell("fold_done", attempt, accuracy=result.accuracy, seconds=time.time() - running.started)

    def _fail(self, attempt: Attempt, failure: Failure) -> None:
        again = self._queue.failed(attempt, failure)
        self._tell("fold_retried" if again else "fold_failed", attempt, error=failure.error)
        enough = self._crashes.crashed(attempt.planned.key, failure)
        if enough and not self.stop.closing:
            self._message(enough)
            self.stop.after_running(enough)

    def _sent(self, attempt: Attempt) -> bool:
        """Send what was decided, to go on from if this machine is lost; where that fails, the sweep stops."""
        try:
            self._mirrors.send_noted()
        except OSError as error:
            self.stop.because(f"the storage does not take what was decided: {reason(error)}")
            return False
        if self._mirrors and method_facts(attempt.spec.method).aligns:
            self._mirrors.awaited.add(self._folds.align(attempt.spec.align_key).path)
        return True

    def _fetch_journals(self, attempt: Attempt) -> None:
        """Fetch what a fold has evaluated, for the pruner; what cannot be had now is had at its next report."""
        with suppress(OSError):
            self._mirrors.fetch_files(folder.journal for folder in self._folders(attempt))

    def _fetch(self, attempt: Attempt) -> None:
        """Fetch what a fold that is over has left elsewhere; where that fails, the sweep stops."""
        paths = [folder.path for folder in self._folders(attempt)]
        try:
            self._mirrors.fetch_folds(paths)
        except OSError as error:
            self.stop.because(f"the storage does not answer: {reason(error)}")
        self._mirrors.awaited.difference_update(paths)
        for path in paths:
            self._mirrors.note(path)

    def _folders(self, attempt: Attempt) -> list[FoldFolder]:
        fold, align = self._folds.fold(attempt.planned.key), self._folds.align(attempt.spec.align_key)
        return [align, fold] if method_facts(attempt.spec.method).aligns else [fold]

    def _no_result(self, attempt: Attempt) -> str:
        """What is said of a fold whose worker is content, and which has no result here."""
        folder = self._folds.fold(attempt.planned.key).path.parent
        if any(folder.is_relative_to(place) for place in self._mirrors.addresses):
            return "the worker ended, and left no result in the storage; look at the worker's log on its machine"
        return (
            f"the worker ended, and this machine sees no result in {folder}; if the worker ran on another one, give "
            "--out (and --store) on a disk that all machines share, or an address (s3://BUCKET/FOLDER)"
        )

    def _tell_of_others(self) -> None:
        """Say once why nothing runs here while another sweep on the store makes what is left."""
        owners = {} if self._running else self._queue.elsewhere()
        for owner in owners.values():
            if owner.identity not in self._told_of:
                self._told_of.add(owner.identity)
                where = f"process {owner.process} on {owner.host}"
                self._message(f"{where} runs folds of this sweep; waiting for them")

    def _message(self, text: str) -> None:
        self._progress(ProgressEvent(kind="message", counts=self._queue.counts(), text=text))

    def _tell(
        self, kind: EventKind, attempt: Attempt, *, metrics: Mapping[str, Any] | None = None, **about: Any
    ) -> None:
        event = FoldEvent(
            key=attempt.planned.key,
            group=attempt.group,
            number=attempt.number,
            fold=attempt.planned.fold,
            method=attempt.spec.method,
            attempt=attempt.attempt,
            **about,
        )
        self._progress(ProgressEvent(kind=kind, counts=self._queue.counts(), fold=event, metrics=metrics or {}))
