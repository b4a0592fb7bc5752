"""How a fold gets into a process: directly in a (reused) Tune actor, or through a `TorchTrainer` driven from one.

The second is for folds with several workers. A nested trainer that is stopped early leaks its placement group
(ray-project/ray#65443), so the actor that drives it ends it in `cleanup`; where that actor is killed, the sweep gives
the group back (`orchestrator.execution.worker_deaths`).
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.execution.failure_kinds import describe
from orchestrator.execution.tune_reports import reports_heard
from orchestrator.execution.worker_deaths import blamed_on_nodes, living_nodes
from orchestrator.store.failures import Attempt
from search_spaces.errors import UserError
from search_spaces.hyperparameters import Resources

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

Executor = Literal["auto", "tune", "train"]

DRIVER_RESOURCE = "driver"
"""Custom resource of the machine that drivers of nested trainers run on, so that they take no CPU from workers."""

FRESH_PROCESS = frozenset({"crash", "lost", "lost_node", "out_of_memory"})
"""After these the process itself is in doubt and is not used again."""

ABORT_TIMEOUT_S = 20.0


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerFunctions:
    """The functions that run in workers, as import paths `module:function`."""

    run_job: str = "trainables.worker:run_job"
    """`(job, report) -> result`: one fold in this process."""
    torch_trainer: str = "trainables.worker:torch_trainer"
    """`(job, *, name, storage_path, callbacks, trainer) -> TorchTrainer` for one fold."""
    preflight: str = "trainables.worker:preflight"
    """`(job) -> facts`: builds teacher and student; raises `UserError` where they do not fit."""

    def to_mapping(self) -> dict[str, str]:
        return asdict(self)


def imported(path: str) -> Callable[..., Any]:
    """The function that an import path names."""
    module, _, name = path.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def chosen_executor(executor: Executor, resources: Resources) -> Literal["tune", "train"]:
    """`auto` is `tune` for one worker and `train` for several.

    Raises:
        UserError: several workers inside one Tune actor.
    """
    if executor == "auto":
        return "tune" if resources.workers == 1 else "train"
    if executor == "tune" and resources.workers > 1:
        raise UserError(f"executor tune runs a fold in one process, got {resources.workers} workers; use train or auto")
    if executor not in ("tune", "train"):
        raise UserError(f"executor is auto, tune or train, got {executor!r}")
    return executor


def run_in_actor(config: dict[str, Any]) -> None:
    """Tune's function trainable: one fold in this actor."""
    from ray import tune

    run_job = imported(config["functions"]["run_job"])
    with failures_reported(tune.report):
        run_job(json.loads(config["job"]), tune.report)


def drive_trainer(config: dict[str, Any]) -> None:
    """Tune's function trainable: one fold in a `TorchTrainer`, driven from this actor."""
    from ray import tune
    from ray.tune.integration.ray_train import TuneReportCallback

    build = imported(config["functions"]["torch_trainer"])
    job = json.loads(config["job"])
    before = living_nodes()
    with failures_reported(tune.report, judge=lambda attempt: blamed_on_nodes(attempt, before)):
        callback = TuneReportCallback()  # type: ignore[no-untyped-call]
        with reports_heard():
            build(
                job,
                name=config["key"],
                storage_path=config["storage_path"],
                callbacks=[callback],
                trainer=stoppable_trainer(),
            ).fit()


@contextmanager
def failures_reported(
    report: Callable[[dict[str, Any]], None], judge: Callable[[Attempt], Attempt] | None = None
) -> Iterator[None]:
    """Report what went wrong; raise it on where the process is in doubt, so that the next fold gets a fresh one."""
    try:
        yield
    except Exception as error:
        attempt = describe(error)
        if judge is not None:
            attempt = judge(attempt)
        report({"failure": json.dumps(asdict(attempt))})
        if attempt.kind in FRESH_PROCESS:
            raise


def inline_trainable(resources: Resources) -> Any:
    """The trainable of one-worker folds, with what Ray reserves for each."""
    reserved: dict[str, float] = {"CPU": resources.cpus_per_worker}
    if resources.gpus_per_worker:
        reserved["GPU"] = resources.gpus_per_worker
    return _reserving(run_in_actor, reserved)


def nested_trainable(driver_resources: Mapping[str, float]) -> Any:
    """The trainable of folds in a `TorchTrainer`; its `cleanup` ends a trainer that still runs."""
    from ray.tune.trainable.function_trainable import wrap_function

    base: Any = wrap_function(drive_trainer)

    class DriveTrainer(base):  # type: ignore[misc]
        def cleanup(self) -> None:
            end_trainer()
            super().cleanup()

    return _reserving(DriveTrainer, driver_resources)


def _reserving(trainable: Any, reserved: Mapping[str, float]) -> Any:
    """A trainable with what Ray reserves for it, in an actor that is sent no credentials.

    Tune copies the driver's AWS credentials into an actor's environment, and Ray writes that environment into the
    command line that sets the actor up, where the whole machine can read it. Every machine has its own credentials.
    """
    from ray import tune
    from ray.tune.execution.class_cache import ENV_VARS_TO_PROPAGATE

    ENV_VARS_TO_PROPAGATE.difference_update([name for name in ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")])
    return tune.with_resources(trainable, dict(reserved))


_controllers: list[Any] = []
"""The controller of the trainer that this process drives; one trial per actor."""


def stoppable_trainer() -> type[TorchTrainer]:
    """`TorchTrainer` that keeps its controller's handle, so that `end_trainer` can end it.

    Overrides one private method of Ray 2.60 (pinned); `tests/orchestrator/execution/test_nested.py` guards it.
    """
    import ray
    from ray._raylet import RAY_NODE_ID_KEY  # type: ignore[attr-defined]
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
    from ray.train.v2._internal.constants import get_env_vars_to_propagate
    from ray.train.v2._internal.execution.controller import TrainController

    class StoppableTorchTrainer(TorchTrainer):
        def _initialize_and_run_controller(self, **arguments: Any) -> Any:
            node: Any = {RAY_NODE_ID_KEY: ray.get_runtime_context().get_node_id()}
            environment = {"env_vars": get_env_vars_to_propagate()}
            actor: Any = ray.remote(num_cpus=0, label_selector=node, runtime_env=environment)(TrainController)
            # Ray's own cleaner outlives a killed driver, and without a dashboard finds nothing to clean.
            callbacks = [one for one in arguments["callbacks"] if not isinstance(one, PlacementGroupCleanerCallback)]
            controller = actor.remote(**{**arguments, "callbacks": callbacks})
            _controllers[:] = [controller]
            ray.get(controller.run.remote())
            result = ray.get(controller.get_result.remote())
            _controllers.clear()
            return result

    return StoppableTorchTrainer


def end_trainer() -> None:
    """End a nested trainer that still runs: its workers stop and its placement group is given back."""
    import ray
    from ray.train._internal.session import get_session

    if not _controllers:
        return
    queue = getattr(get_session(), "_inter_actor_queue", None)
    if queue is not None:
        # A controller that waits for room in the queue cannot be aborted; the queue may be gone already.
        with suppress(Exception):
            queue.shutdown(force=True)
    # The normal end of `abort` is the controller's own death.
    with suppress(ray.exceptions.RayError):
        ray.get(_controllers.pop().abort.remote(), timeout=ABORT_TIMEOUT_S)


def fast_engine_environment(*, spot: bool) -> dict[str, str]:
    """Environment of the workers: quick polling, patience with slow ends of a fold, no files elsewhere."""
    return {
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5" if spot else "0.1",
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1" if spot else "0",
        "TUNE_FUNCTION_THREAD_TIMEOUT_S": "120",
        "TUNE_FORCE_TRIAL_CLEANUP_S": "60",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        # Tune's newer output prints tables even when it is told to be silent.
        "RAY_AIR_NEW_OUTPUT": "0",
        # The searcher tells of a worker that died, once and with its fold.
        "RAY_DEDUP_LOGS_SKIP_REGEX": "A worker died or was killed",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def set_default_environment(values: Mapping[str, str]) -> None:
    """Set what the user has not set."""
    for name, value in values.items():
        os.environ.setdefault(name, value)
