"""Folds on Ray: side by side through one run of Tune, or one by itself. Ray's own files are scratch."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from orchestrator.execution.cluster import Cluster, call_on_cluster, check_resources
from orchestrator.execution.executors import imported
from orchestrator.execution.failure_kinds import describe
from orchestrator.execution.fold_jobs import FoldJobs
from orchestrator.execution.preflight import CHECKING, check_budget_can_be_kept, check_shared
from orchestrator.execution.tune_trainables import actor_trainable, nested_trainable
from orchestrator.execution.worker_deaths import blamed_on_nodes, death, new_actors_nodes, orphans_given_back
from orchestrator.run_options import WorkerFunctions
from orchestrator.scheduler.dispatcher import Dispatcher
from orchestrator.store.failures import Failure
from orchestrator.store.remote.mirrors import StoreMirrors
from search_spaces.configuration import from_mapping
from search_spaces.hyperparameters import Resources
from trainables.jobs import FoldJob

LOOK_AGAIN_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class OnRay:
    """Runs folds on a cluster: in reused Tune actors (`tune`), or each in a `TorchTrainer` (`train`)."""

    cluster: Cluster
    executor: Literal["tune", "train"]
    resources: Resources
    functions: WorkerFunctions = field(default_factory=WorkerFunctions)
    at_once: Callable[[], int] = lambda: 1
    """Folds that fit side by side now."""

    def check(self, folder: Path, *, mirrors: StoreMirrors, query_budget: int | None) -> None:
        """Raises `UserError` where the cluster has too little, or its machines do not see the folder."""
        check_resources(self.cluster, self.resources)
        if not self.cluster.is_local:
            check_shared(folder, mirrored=mirrors.addresses)
        check_budget_can_be_kept(query_budget, mirrors, self.cluster)

    def preflight(self, jobs: list[dict[str, Any]]) -> None:
        """Build teacher and student of every job, in a task each."""
        call_on_cluster(self.functions.preflight, jobs, self.resources, doing=CHECKING)

    def run(self, dispatcher: Dispatcher, jobs: FoldJobs) -> None:
        """Run folds until the dispatcher has no more, or stops."""
        from ray import tune

        from orchestrator.execution.tune_searcher import Deaths, FoldSearch, SearchStopper

        in_actors = self.executor == "tune"
        with scratch_folder(jobs.store.ray_folder) as scratch:
            search = FoldSearch(dispatcher, jobs, self._settings(scratch))
            tuner = tune.Tuner(
                actor_trainable(self.resources) if in_actors else nested_trainable(self.cluster.driver_resources),
                tune_config=tune.TuneConfig(
                    search_alg=search,
                    num_samples=-1,
                    reuse_actors=in_actors,
                    trial_name_creator=lambda trial: str(trial.config["key"])[:12],
                    trial_dirname_creator=lambda trial: f"{str(trial.config['key'])[:12]}-{trial.trial_id}",
                ),
                run_config=tune.RunConfig(
                    name=f"tune-{time.time_ns()}",
                    storage_path=str(scratch),
                    verbose=0,
                    stop=SearchStopper(search),
                    callbacks=[Deaths(search)],
                ),
            )
            with nullcontext() if in_actors else orphans_given_back():
                tuner.fit()
            dispatcher.drop_running()

    def attempt(self, job: FoldJob, scratch: Path) -> Failure | None:
        """Run one fold once; returns what went wrong, if anything did."""
        # Ray Train would go on in the folder of an earlier run.
        place, nodes = scratch / str(time.time_ns()), new_actors_nodes()
        failure = self._in_actor(job, place) if self.executor == "tune" else self._in_trainer(job, place)
        return failure if failure is None else blamed_on_nodes(failure, nodes)

    def _in_actor(self, job: FoldJob, place: Path) -> Failure | None:
        from ray import tune

        tuner = tune.Tuner(
            actor_trainable(self.resources),
            param_space={**self._settings(place), "key": job.spec.key, "job": json.dumps(job.to_mapping())},
            tune_config=tune.TuneConfig(trial_dirname_creator=lambda trial: str(trial.trial_id)),
            run_config=tune.RunConfig(name="fold", storage_path=str(place), verbose=0),
        )
        result = tuner.fit()[0]
        failure = (result.metrics or {}).get("failure")
        if failure is not None:
            return from_mapping(Failure, json.loads(failure))
        error: Any = result.error
        if error is None:
            return None
        # What is no error of a task or an actor, Tune gives back as text.
        return describe(error) if isinstance(error, BaseException) else death(str(error))

    def _in_trainer(self, job: FoldJob, place: Path) -> Failure | None:
        try:
            with orphans_given_back():
                imported(self.functions.torch_trainer)(job.to_mapping(), name="fold", storage_path=str(place)).fit()
        except Exception as error:
            return describe(error)
        return None

    def _settings(self, scratch: Path) -> dict[str, Any]:
        """What a trial's config holds besides its fold."""
        return {"functions": self.functions.to_mapping(), "storage_path": str(scratch)}


def folds_at_once(cluster: Cluster, resources: Resources, most: int | None) -> Callable[[], int]:
    """The limit that is asked for before every start; a cluster that may grow is looked at again and again."""
    looked, limit = -math.inf, 1

    def current() -> int:
        nonlocal looked, limit
        if looked == -math.inf or (not cluster.is_local and time.monotonic() - looked > LOOK_AGAIN_S):
            looked, limit = time.monotonic(), cluster.folds_at_once(resources)
        return limit if most is None else min(limit, most)

    return current


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """A folder for the engines' own files that is gone afterwards, and that an earlier crash may have left."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
