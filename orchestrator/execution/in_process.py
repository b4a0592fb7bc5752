"""Folds one after the other in this process, without Ray: a `breakpoint()` inside a loss stops there.

What a crash of the process itself takes along (a segmentation fault, a kill) is the whole sweep; the same command
resumes it.
"""

from __future__ import annotations

import bdb
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.execution.executors import imported
from orchestrator.execution.failure_kinds import describe
from orchestrator.execution.fold_jobs import FoldJobs
from orchestrator.execution.preflight import CHECKING
from orchestrator.run_options import WorkerFunctions
from orchestrator.scheduler.dispatcher import Dispatcher
from orchestrator.scheduler.fold_queue import Attempt
from orchestrator.store.failures import Failure
from orchestrator.store.remote.mirrors import StoreMirrors
from search_spaces.errors import UserError
from search_spaces.hyperparameters import Resources
from trainables.jobs import FoldJob
from trainables.teacher.ledger import BudgetReached

LOOK_AGAIN_S = 0.5
"""Between two looks for a fold, while another sweep on the store makes what is left."""

DEBUGGER_LEFT = (bdb.BdbQuit, SystemExit)
"""What `q` at a breakpoint raises; from Python 3.14 on it is an exit."""


class FoldStopped(BaseException):
    """Leaves a fold from inside its report; no handler of ordinary errors takes it for one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InProcess:
    """Runs folds in the thread that asks for them."""

    resources: Resources
    functions: WorkerFunctions

    def check(self, folder: Path, *, mirrors: StoreMirrors, query_budget: int | None) -> None:
        """Raises `UserError` where a GPU was asked for and this process sees none."""
        if self.resources.gpus_per_worker == 0:
            return
        from trainables.fitting.gpu_memory import num_gpus

        if num_gpus() == 0:
            raise UserError(
                "executor inline runs folds in this process, which sees no GPU; leave --gpus-per-worker out"
            )

    def preflight(self, jobs: list[dict[str, Any]]) -> None:
        """Build teacher and student of every job; an error is one line, as on a cluster."""
        for job in jobs:
            try:
                imported(self.functions.preflight)(job)
            except (UserError, BudgetReached):
                raise
            except Exception as error:
                raise UserError(f"{CHECKING} failed: {describe(error).error}; the same command tries again") from error

    def at_once(self) -> int:
        """One: they share a process."""
        return 1

    def run(self, dispatcher: Dispatcher, jobs: FoldJobs) -> None:
        """Run folds until the dispatcher has no more, or stops."""
        while not dispatcher.is_over:
            attempt = dispatcher.start()
            if attempt is None:
                time.sleep(LOOK_AGAIN_S)
            else:
                dispatcher.ended(attempt, self._dispatched(dispatcher, attempt, jobs.job(attempt.spec)))

    def attempt(self, job: FoldJob, scratch: Path) -> Failure | None:
        """Run one fold once; returns what went wrong, if anything did."""
        try:
            return self._run(job, lambda metrics: None)
        except DEBUGGER_LEFT:
            raise KeyboardInterrupt from None

    def _dispatched(self, dispatcher: Dispatcher, attempt: Attempt, job: FoldJob) -> Failure | None:
        """Run a fold whose evaluations may end it; its checkpoint stays then, as when the debugger is left."""

        def report(metrics: dict[str, Any]) -> None:
            if dispatcher.reported(attempt, metrics):
                raise FoldStopped

        try:
            return self._run(job, report)
        except FoldStopped:
            return None
        except DEBUGGER_LEFT:
            dispatcher.stop.wanted = True
            return None

    def _run(self, job: FoldJob, report: Callable[[dict[str, Any]], None]) -> Failure | None:
        try:
            imported(self.functions.run_job)(job.to_mapping(), report)
        except DEBUGGER_LEFT:
            raise
        except Exception as error:
            return describe(error)
        return None
