"""The ways a fold gets into a process, behind one door: Tune actors, a `TorchTrainer` driven from one, this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from orchestrator.execution.cluster import check_machine, connect
from orchestrator.execution.executors import ChosenExecutor
from orchestrator.execution.fold_jobs import FoldJobs
from orchestrator.execution.in_process import InProcess
from orchestrator.execution.tune_run import OnRay, folds_at_once
from orchestrator.run_options import WorkerFunctions
from orchestrator.scheduler.dispatcher import Dispatcher
from orchestrator.store.failures import Failure
from orchestrator.store.remote.mirrors import StoreMirrors
from search_spaces.hyperparameters import Resources
from trainables.jobs import FoldJob


class BackEnd(Protocol):
    """Runs folds; `tests/orchestrator/execution/test_contract.py` holds every one to the same results and failures."""

    @property
    def at_once(self) -> Callable[[], int]:
        """Tells how many folds fit side by side now."""

    def check(self, folder: Path, *, mirrors: StoreMirrors, query_budget: int | None) -> None:
        """Look whether folds can run here and leave their results in a folder; raises `UserError` where not."""

    def preflight(self, jobs: list[dict[str, Any]]) -> None:
        """Build teacher and student of these jobs; raises `UserError`, or `BudgetReached`."""

    def run(self, dispatcher: Dispatcher, jobs: FoldJobs) -> None:
        """Run folds until the dispatcher has no more, or stops."""

    def attempt(self, job: FoldJob, scratch: Path) -> Failure | None:
        """Run one fold once; returns what went wrong, if anything did."""


@contextmanager
def open_back_end(
    executor: ChosenExecutor,
    *,
    resources: Resources,
    functions: WorkerFunctions,
    address: str | None = None,
    most: int | None = None,
) -> Iterator[BackEnd]:
    """What an executor names; Ray is connected to for `tune` and `train`.

    Args:
        most: folds at a time; None is what fits.

    Raises:
        UserError: no cluster answers at the address, or Ray ended in the middle of the work.
    """
    if executor == "inline":
        yield InProcess(resources=resources, functions=functions)
        return
    check_machine(resources, address)
    with connect(address=address) as cluster:
        at_once = folds_at_once(cluster, resources, most)
        yield OnRay(cluster=cluster, executor=executor, resources=resources, functions=functions, at_once=at_once)
