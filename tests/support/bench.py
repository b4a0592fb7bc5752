"""A sweep's parts in one process, with stub folds that end in whatever order chance says; no Ray."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from orchestrator.events import Progress, ProgressEvent, no_progress
from orchestrator.execution.fold_jobs import FoldJobs
from orchestrator.plan.plan import make_plan
from orchestrator.scheduler.dispatcher import Dispatcher
from orchestrator.scheduler.fold_queue import Attempt, FoldQueue, build_fold_queue
from orchestrator.scheduler.stopping import StopRequest
from orchestrator.search.specs import FoldSpecs
from orchestrator.store.failures import Failure
from orchestrator.store.fold_states import FoldStates
from orchestrator.store.leases import FoldLeases
from orchestrator.store.sweep_folder import open_store
from search_spaces.benchmarks import benchmark
from search_spaces.hyperparameters import Resources
from search_spaces.sweeps import Sweep
from tests.support.stub_sweep import stub_sweep
from tests.support.stub_worker import run_job
from trainables.jobs import NOTE
from trainables.storage.leases import this_process

CRASH = Failure(time=0.0, kind="crash", error="RuntimeError: no")


class Bench:
    """A sweep's parts, with workers that are function calls."""

    def __init__(
        self,
        out: Path,
        sweep: Sweep | None = None,
        *,
        shared: Path | None = None,
        manifest: str = "0" * 64,
        max_failures: int = 1,
        retry_failed: bool = False,
        **options: Any,
    ) -> None:
        """Stand where the store stands.

        Args:
            manifest: of the images, which a stub fold never looks at.
            max_failures: of the folds' states, as `retry_failed`.
            options: of `build_fold_queue`.
        """
        self.store, self.sweep = open_store(out, shared=shared), sweep or stub_sweep()
        self.leases = FoldLeases(this_process())
        benchmarks = {name: benchmark(name) for name in self.sweep.benchmarks}
        manifests = dict.fromkeys(benchmarks, manifest)
        self.groups = make_plan(self.sweep, benchmarks).groups
        self.store.claim(self.sweep, self.groups, manifests)
        self.jobs = FoldJobs(store=self.store, benchmarks=benchmarks, data_root=None, resources=Resources())
        specs = FoldSpecs(sweep=self.sweep, benchmarks=benchmarks, manifests=manifests)
        states = FoldStates(self.store, max_failures=max_failures, retry_failed=retry_failed, leases=self.leases)
        self.follow(build_fold_queue(self.groups, specs=specs, store=self.store, states=states, **options))

    def follow(self, queue: FoldQueue) -> None:
        """Run the folds of a queue."""
        self.queue, self.slots, self.events = queue, 1, list[ProgressEvent]()
        self.listen: Progress = no_progress
        self.dispatcher = Dispatcher(
            queue,
            store=self.store,
            owner=self.leases.owner.identity,
            stop=StopRequest(),
            progress=self._tell,
            limit=lambda: self.slots,
        )

    def _tell(self, event: ProgressEvent) -> None:
        self.events.append(event)
        self.listen(event)

    def die(self) -> None:
        """Stand in for the end of a process: whoever looks finds its leases free."""
        self.leases.close()

    def run(self, attempt: Attempt) -> None:
        """Run a fold to its end; nobody stops it early."""
        run_job(self.jobs.job(attempt.spec).to_mapping(), lambda metrics: self._note(attempt, metrics))
        self.dispatcher.ended(attempt)

    def _note(self, attempt: Attempt, metrics: dict[str, Any]) -> None:
        if NOTE in metrics:
            self.dispatcher.reported(attempt, metrics)

    def run_all(self, *, slots: int = 1, seed: int = 0, most: int = 10_000) -> list[Attempt]:
        """Keep `slots` folds running; whichever of them chance says ends next."""
        self.slots = slots
        chance, running, ended = random.Random(seed), list[Attempt](), list[Attempt]()
        while len(ended) < most:
            while (attempt := self.dispatcher.start()) is not None:
                running.append(attempt)
            if not running:
                assert self.queue.is_finished, "nothing runs, nothing can start, and the sweep is not finished"
                return ended
            ended.append(running.pop(chance.randrange(len(running))))
            self.run(ended[-1])
        return ended

    def points(self) -> dict[str, list[dict[str, Any]]]:
        """The points of every group's trials."""
        return {group.name: [trial.point for trial in self.store.records.trials(group.name)] for group in self.groups}

    def choices(self) -> dict[str, Any]:
        """What every group chose."""
        return {group.name: self.store.records.selected(group.name) for group in self.groups}
