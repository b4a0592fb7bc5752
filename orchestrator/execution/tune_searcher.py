"""The dispatcher as Ray Tune knows it: a searcher to ask for folds, a stopper, and a callback that hears of deaths.

A Tune trial is one attempt at a fold. The dispatcher decides, the store remembers; a Tune experiment is disposable and
nothing is ever restored from one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ray.tune import Callback, Stopper
from ray.tune.search import Searcher

from orchestrator.execution.fold_jobs import FoldJobs
from orchestrator.execution.worker_deaths import death
from orchestrator.scheduler.dispatcher import Dispatcher
from orchestrator.scheduler.fold_queue import Attempt
from orchestrator.store.failures import Failure
from search_spaces.configuration import from_mapping


class FoldSearch(Searcher):
    """Hands the dispatcher's folds to Tune."""

    def __init__(self, dispatcher: Dispatcher, jobs: FoldJobs, settings: Mapping[str, Any]) -> None:
        """`settings` are further entries of every Tune trial's config."""
        super().__init__()
        self.dispatcher = dispatcher
        self._jobs, self._settings = jobs, dict(settings)
        self._attempts: dict[str, Attempt] = {}
        self._said: dict[str, Failure] = {}

    def set_search_properties(self, metric: Any, mode: Any, config: dict[str, Any], **spec: Any) -> bool:
        """The queue knows the objective by itself."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """The next fold; None while Tune has to wait; `FINISHED` at the end."""
        attempt = self.dispatcher.start()
        if attempt is None:
            return Searcher.FINISHED if self.dispatcher.is_over else None
        self._attempts[trial_id] = attempt
        # One text instead of a nested mapping: Tune copies, flattens and prints every entry of a config.
        job = json.dumps(self._jobs.job(attempt.spec).to_mapping())
        return {**self._settings, "key": attempt.planned.key, "job": job}

    def heard(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """A worker reported an evaluation, or what went wrong; True where its fold is to stop."""
        # At a function's end Tune passes on its last report once more, as `done`.
        if trial_id not in self._attempts or result.get("done"):
            return False
        if "failure" in result:
            self._said[trial_id] = from_mapping(Failure, json.loads(result["failure"]))
            return False
        return self.dispatcher.reported(self._attempts[trial_id], result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A fold ended; what Ray says of a worker that died is told right after this (`Deaths`)."""
        if not error:
            self.ended(trial_id)

    def ended(self, trial_id: str, died: Callable[[], Failure] | None = None) -> None:
        """Tell the dispatcher, once."""
        attempt = self._attempts.pop(trial_id, None)
        if attempt is not None:
            self.dispatcher.ended(attempt, self._said.pop(trial_id, None), died=died)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its searcher beside the experiment, and nobody ever reads that back."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the store is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: see `save`."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing to save: see `save`."""


class SearchStopper(Stopper):
    """Ends Tune's run when a stop is requested, and a fold when the dispatcher says so.

    Tune asks it of every report, and stops the trial at once: the worker's report raises SystemExit, or the nested
    trainer is ended (`orchestrator.execution.tune_trainables`), and the fold's checkpoint stays.
    """

    def __init__(self, search: FoldSearch) -> None:
        self._search = search

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return self._search.heard(trial_id, result)

    def stop_all(self) -> bool:
        return self._search.dispatcher.stop.wanted


class Deaths(Callback):
    """Passes on what Ray says of a worker that died; Tune tells its searcher only that it did."""

    def __init__(self, search: FoldSearch) -> None:
        self._search = search

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called right after the search's `on_trial_complete`."""
        path = Path(trial.error_file or "")
        self._search.ended(trial.trial_id, lambda: death(path.read_text() if path.is_file() else ""))
