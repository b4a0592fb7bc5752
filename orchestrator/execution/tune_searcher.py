"""Ray Tune's searcher over the agenda: Tune asks for a fold to run, and tells how it ended.

A Tune trial is one fold. The agenda decides which, the store remembers; a Tune experiment is disposable and nothing is
ever restored from one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray.tune import Callback, Stopper
from ray.tune.search import Searcher

from orchestrator.events import EventKind, FoldEvent, Progress, ProgressEvent
from orchestrator.execution.fold_jobs import FoldJobs
from orchestrator.execution.worker_deaths import death
from orchestrator.scheduler.crashes import CrashesInARow
from orchestrator.scheduler.fold_queue import Agenda, Ticket
from orchestrator.scheduler.stopping import StopRequest
from orchestrator.search.pruning import Decision
from orchestrator.store.failures import Attempt
from search_spaces.configuration import from_mapping
from search_spaces.methods import method_facts
from trainables.storage.fold_folder import FoldFolder
from trainables.storage.object_storage import reason


class SearchStopper(Stopper):
    """Ends Tune's run when a stop is requested, and a fold when the pruner says so.

    Tune asks it before it tells the searcher of a result, and stops the trial at once: the worker's report raises
    SystemExit, or the nested trainer is ended (`orchestrator.execution.executors`), and the fold's checkpoint stays.
    """

    def __init__(self, request: StopRequest, search: FoldSearch) -> None:
        self._request, self._search = request, search

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return self._search.prunes(trial_id, result)

    def stop_all(self) -> bool:
        return self._request.wanted


class Deaths(Callback):
    """Passes on what Ray says of a worker that died; Tune tells its searcher only that it did."""

    def __init__(self, search: FoldSearch) -> None:
        self._search = search

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called right after the search's `on_trial_complete`."""
        path = Path(trial.error_file or "")
        self._search.explain(trial.trial_id, path.read_text() if path.is_file() else "")


@dataclass(kw_only=True, slots=True)
class _Running:
    ticket: Ticket
    started: float = field(default_factory=time.time)
    attempt: Attempt | None = None
    """What a worker said went wrong."""
    pruned: Decision | None = None
    """Why it is being stopped early."""


class FoldSearch(Searcher):
    """Hands folds to Tune, at most `limit()` at a time."""

    def __init__(
        self,
        agenda: Agenda,
        *,
        jobs: FoldJobs,
        owner: str,
        limit: Callable[[], int],
        stop: StopRequest,
        progress: Progress,
        settings: Mapping[str, Any],
    ) -> None:
        """Remember what to ask and whom to tell.

        Args:
            jobs: what a worker needs to run a fold, and the store.
            owner: identity of the lease under which folds are marked as running.
            limit: most folds at a time, asked before every start.
            settings: further entries of every Tune trial's config.
        """
        super().__init__()
        self._agenda, self._store, self._owner = agenda, jobs.store, owner
        self._jobs, self._limit, self._stop, self._progress = jobs, limit, stop, progress
        self._settings = dict(settings)
        self._running: dict[str, _Running] = {}
        self._died: dict[str, _Running] = {}
        self._crashes = CrashesInARow()
        self._told_of: set[str] = set()

    def set_search_properties(self, metric: Any, mode: Any, config: dict[str, Any], **spec: Any) -> bool:
        """The agenda knows the objective by itself."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """The next fold; None while Tune has to wait; `FINISHED` at the end."""
        if self._stop.closing or self._agenda.is_finished or self._agenda.is_out_of_budget:
            return Searcher.FINISHED
        if len(self._running) >= self._limit():
            return None
        ticket = self._agenda.next()
        if ticket is None:
            self._tell_of_others()
            return None
        self._store.folds.mark_running(ticket.planned.key, self._owner)
        if not self._sent(ticket):
            return None
        self._running[trial_id] = _Running(ticket=ticket)
        self._tell("fold_started", ticket)
        # One text instead of a nested mapping: Tune copies, flattens and prints every entry of a config.
        job = json.dumps(self._jobs.job(ticket.spec).to_mapping())
        return {**self._settings, "key": ticket.planned.key, "job": job}

    def prunes(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether a fold that just reported is to be stopped; if it is, Tune does not call `on_trial_result`."""
        running = self._running.get(trial_id)
        if running is None or "stage" not in result or result.get("final"):
            return False
        self._fetch_journals(running.ticket)
        running.pruned = running.pruned or self._agenda.reported(running.ticket)
        return running.pruned is not None

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A worker reported an evaluation, or what went wrong."""
        running = self._running.get(trial_id)
        if running is None:
            return
        if "failure" in result:
            running.attempt = from_mapping(Attempt, json.loads(result["failure"]))
        elif "stage" in result:
            self._tell("fold_reported", running.ticket, metrics=_reported(result))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A fold ended: with a result, with a failure, or because everything stops."""
        running = self._running.pop(trial_id, None)
        if running is None:
            return
        ticket = running.ticket
        self._store.folds.unmark_running(ticket.planned.key)
        self._fetch(ticket)
        if running.attempt is not None and running.attempt.kind == "user":
            self._agenda.dropped(ticket)
            self._stop.because(running.attempt.error)
        elif running.attempt is not None and running.attempt.kind == "budget":
            self._agenda.met_budget(ticket)
        elif running.attempt is not None and running.attempt.kind == "overtaken":
            # What the other one makes of the fold counts; nothing here may be written beside it.
            self._agenda.dropped(ticket)
        elif running.attempt is not None:
            self._fail(ticket, running.attempt)
        elif self._store.folds.fold(ticket.planned.key).is_done:
            self._finish(running)
        elif running.pruned is not None:
            self._crashes.went_well()
            self._agenda.pruned(ticket)
            self._tell("fold_pruned", ticket, error=running.pruned.line)
        elif self._stop.wanted:
            self._agenda.dropped(ticket)
        elif not error:
            self._fail(ticket, Attempt(time=time.time(), kind="crash", error=self._no_result(ticket)))
        else:
            self._died[trial_id] = running

    def explain(self, trial_id: str, text: str) -> None:
        """What Ray says of a worker that died without a word of its own."""
        running = self._died.pop(trial_id, None)
        if running is not None:
            self._fail(running.ticket, death(text))

    def drop_running(self) -> None:
        """Tune was ended from outside: what still ran waits again."""
        for running in (*self._running.values(), *self._died.values()):
            self._store.folds.unmark_running(running.ticket.planned.key)
            self._agenda.dropped(running.ticket)
        self._running.clear()
        self._died.clear()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its searcher beside the experiment, and nobody ever reads that back."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the store is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: see `save`."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing to save: see `save`."""

    def _sent(self, ticket: Ticket) -> bool:
        """Send what was decided, to go on from if this machine is lost; where that fails, the sweep stops."""
        mirrors = self._store.mirrors
        try:
            mirrors.send_noted()
        except OSError as error:
            self._stop.because(f"the storage does not take what was decided: {reason(error)}")
            self._store.folds.unmark_running(ticket.planned.key)
            self._agenda.dropped(ticket)
            return False
        if mirrors and method_facts(ticket.spec.method).aligns:
            mirrors.awaited.add(self._store.folds.align(ticket.spec.align_key).path)
        return True

    def _fetch_journals(self, ticket: Ticket) -> None:
        """What a fold has evaluated, for who decides by it; what cannot be had now is had at its next report."""
        folders = self._folders(ticket)
        with suppress(OSError):
            self._store.mirrors.fetch_files(folder.journal for folder in folders)

    def _fetch(self, ticket: Ticket) -> None:
        """Fetch what a fold that is over has left elsewhere; where that fails, the sweep stops."""
        mirrors, paths = self._store.mirrors, [folder.path for folder in self._folders(ticket)]
        try:
            mirrors.fetch_folds(paths)
        except OSError as error:
            self._stop.because(f"the storage does not answer: {reason(error)}")
        mirrors.awaited.difference_update(paths)
        for path in paths:
            mirrors.note(path)

    def _folders(self, ticket: Ticket) -> list[FoldFolder]:
        fold, align = self._store.folds.fold(ticket.planned.key), self._store.folds.align(ticket.spec.align_key)
        return [align, fold] if method_facts(ticket.spec.method).aligns else [fold]

    def _tell_of_others(self) -> None:
        """Say once why nothing runs here while another sweep on the store makes what is left."""
        owners = {} if self._running else self._agenda.elsewhere()
        for owner in owners.values():
            if owner.identity not in self._told_of:
                self._told_of.add(owner.identity)
                text = f"process {owner.process} on {owner.host} is at work on folds of this sweep; waiting for them"
                self._progress(ProgressEvent(kind="message", counts=self._agenda.counts(), text=text))

    def _no_result(self, ticket: Ticket) -> str:
        """What is said of a fold whose worker is content, and which has no result here."""
        folder = self._store.folds.fold(ticket.planned.key).path.parent
        if any(folder.is_relative_to(place) for place in self._store.mirrors.addresses):
            return "the worker ended, and left no result in the storage; look at the worker's log on its machine"
        return (
            f"the worker ended, and this machine sees no result in {folder}; if the worker ran on another one, give "
            "--out (and --store) on a disk that all machines share, or an address (s3://BUCKET/FOLDER)"
        )

    def _finish(self, running: _Running) -> None:
        ticket = running.ticket
        if not self._agenda.finished(ticket):
            self._tell("fold_failed", ticket, error=self._store.folds.attempts(ticket.planned.key).error)
            return
        self._crashes.went_well()
        result = self._store.folds.result(ticket.planned.key)
        assert result is not None, "a fold that is finished has a result"
        self._tell("fold_done", ticket, accuracy=result.accuracy, seconds=time.time() - running.started)

    def _fail(self, ticket: Ticket, attempt: Attempt) -> None:
        again = self._agenda.failed(ticket, attempt)
        self._tell("fold_retried" if again else "fold_failed", ticket, error=attempt.error)
        enough = self._crashes.crashed(ticket.planned.key, attempt)
        if enough and not self._stop.closing:
            self._progress(ProgressEvent(kind="message", counts=self._agenda.counts(), text=enough))
            self._stop.after_running(enough)

    def _tell(self, kind: EventKind, ticket: Ticket, *, metrics: Mapping[str, Any] | None = None, **about: Any) -> None:
        event = FoldEvent(
            key=ticket.planned.key,
            group=ticket.group,
            number=ticket.number,
            fold=ticket.planned.fold,
            method=ticket.spec.method,
            attempt=ticket.attempt,
            **about,
        )
        self._progress(ProgressEvent(kind=kind, counts=self._agenda.counts(), fold=event, metrics=metrics or {}))


REPORTED = ("stage", "step", "source_validation_accuracy", "source_validation_cross_entropy", "final")


def _reported(result: Mapping[str, Any]) -> dict[str, Any]:
    return {name: result[name] for name in REPORTED if name in result}
