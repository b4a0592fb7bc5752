"""Every private or semi-private use of Ray, behind a name of ours: where a new Ray breaks something, it breaks here.

A part that is gone is one line: what it is, which Ray is pinned (`pyproject.toml`), and what stops working. The parts
that an executor needs are looked for before anything starts (`check_parts`).
`tests/orchestrator/execution/test_ray_compat.py` takes each away in turn, and compares each with the installed Ray.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import reduce
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from search_spaces.errors import UserError

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

PINNED = "2.60"

ABORT_TIMEOUT_S = 20.0

T = TypeVar("T")


DEATHS = "a dead worker is told from a lost machine"
GROWTH = "a cluster that may grow gets folds to grow for"
LAST_WORDS = "the last lines of a dead worker's stderr are kept"
CREDENTIALS = "Tune's actors are sent no credentials"
ORPHANS = "what a killed trainer still holds is given back"
EARLY_ENDS = "a trainer that is stopped early is ended, and gives its machines back"
OWN_MACHINES = "a fold's machines are told from the cluster's others"
LAST_REPORTS = "the last reports of a trainer arrive before Tune ends its trial"

CLUSTER_PARTS = {
    "ray._private.state:actors": DEATHS,
    "ray._private.state:state": GROWTH,
    "ray._private.state:GlobalState.get_max_resources_from_cluster_config": GROWTH,
    "ray._private.worker:global_worker": LAST_WORDS,
    "ray._private.node:Node.get_logs_dir_path": LAST_WORDS,
}
"""What every connection needs, as `module:name` or `module:Class.name`, and what stops working without it."""

ACTOR_PARTS = {"ray.tune.execution.class_cache:ENV_VARS_TO_PROPAGATE": CREDENTIALS}
"""What folds in Tune actors need besides."""

TRAINER_PARTS = {
    **ACTOR_PARTS,
    "ray._private.state:GlobalState._connect_and_get_accessor": ORPHANS,
    "ray._raylet:GlobalStateAccessor.get_placement_group_table": ORPHANS,
    "ray.core.generated.gcs_pb2:PlacementGroupTableData": ORPHANS,
    "ray._raylet:RAY_NODE_ID_KEY": "a trainer's controller stays beside its driver",
    "ray.tune.trainable.function_trainable:wrap_function": EARLY_ENDS,
    "ray.train.torch:TorchTrainer._initialize_and_run_controller": EARLY_ENDS,
    "ray.train.v2._internal.execution.controller:TrainController": EARLY_ENDS,
    "ray.train.v2._internal.constants:get_env_vars_to_propagate": "a trainer's settings reach its controller",
    "ray.train.v2._internal.callbacks.placement_group_callback:PlacementGroupCleanerCallback": ORPHANS,
    "ray.actor:ActorHandle._actor_id": OWN_MACHINES,
    "ray.train._internal.session:get_session": LAST_REPORTS,
    "ray.train._internal.session:_TrainSession._get_or_create_inter_actor_queue": LAST_REPORTS,
}
"""What folds in trainers need, that Tune actors drive."""

PARTS = {**CLUSTER_PARTS, **TRAINER_PARTS}


class RayChangedError(UserError):
    """The installed Ray lacks a part that no release promises to keep."""


def inside(place: str) -> Any:
    """What lies at one of the `PARTS`; raises `RayChangedError` where nothing does."""
    module, _, names = place.partition(":")
    try:
        return reduce(getattr, names.split("."), importlib.import_module(module))
    except (ImportError, AttributeError):
        raise RayChangedError(
            f"Ray {version('ray')} has no {place.replace(':', '.')}; Ray {PINNED}, which is pinned, has it; without it "
            f"this stops working: {PARTS[place]}"
        ) from None


def check_parts(places: Iterable[str]) -> None:
    """Look for parts of Ray before they are needed; raises `RayChangedError` for the first that is gone."""
    for place in places:
        inside(place)


def most_resources() -> Mapping[str, float] | None:
    """What the cluster may grow to, where its autoscaler says so: the public API tells what it holds now."""
    stated: Mapping[str, float] | None = inside("ray._private.state:state").get_max_resources_from_cluster_config()
    return stated


def actor_record(actor: str) -> Mapping[str, Any]:
    """Ray's entry of an actor, dead or alive: the public one needs the dashboard.

    Empty where Ray knows none; else with State, Address and DeathCause (a protobuf message).
    """
    record: Mapping[str, Any] = inside("ray._private.state:actors")(actor)
    return record


def actor_records() -> list[Mapping[str, Any]]:
    """Ray's entries of all actors of this job, dead ones too; besides what `actor_record` names, OwnerAddress."""
    import ray

    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
    return list(inside("ray._private.state:actors")(job_id=job).values())


def logs_folder(address: str) -> Path | None:
    """Where the logs of workers at an IP address lie, if that is this machine: Ray tells nobody else."""
    node = inside("ray._private.worker:global_worker").node
    if node is None or node.node_ip_address != address:
        return None
    return Path(node.get_logs_dir_path())


def placement_groups() -> list[Any]:
    """Ray's entries of all placement groups that stand (protobuf messages): the public table hides who made a group."""
    kind = inside("ray.core.generated.gcs_pb2:PlacementGroupTableData")
    table = inside("ray._private.state:state")._connect_and_get_accessor().get_placement_group_table()
    return [entry for entry in map(kind.FromString, table) if entry.state != kind.REMOVED]


def send_no_credentials() -> None:
    """Keep credentials out of Tune's actors.

    Tune copies the driver's AWS credentials into an actor's environment, and Ray writes that environment into the
    command line that sets the actor up, where the whole machine can read it. Every machine has its own credentials.
    """
    copied: set[str] = inside("ray.tune.execution.class_cache:ENV_VARS_TO_PROPAGATE")
    copied.difference_update([name for name in copied if name.startswith("AWS_")])


def trainable_with_cleanup(function: Callable[[dict[str, Any]], None], name: str) -> Any:
    """A function as Tune's trainable, whose end also ends the trainer that it drives, if that still runs."""
    base: Any = inside("ray.tune.trainable.function_trainable:wrap_function")(function)

    def cleanup(self: Any) -> None:
        end_trainer()
        base.cleanup(self)

    return type(name, (base,), {"cleanup": cleanup})


def replace_report_queue(wrap: Callable[[Any], T]) -> tuple[T, threading.Event]:
    """Inside a Tune function: put something around the queue that a nested trainer's reports take to Tune.

    Returns it, and the event that says that nobody fetches from the queue any more.
    """
    session = inside("ray.train._internal.session:get_session")()
    session._inter_actor_queue = queue = wrap(session._get_or_create_inter_actor_queue())
    stopped: threading.Event = session.stop_event
    return queue, stopped


_controllers: list[Any] = []
"""The controller of the trainer that this process drives; one trial per actor."""


def stoppable_trainer() -> type[TorchTrainer]:
    """`TorchTrainer` that keeps its controller's handle, so that `end_trainer` can end it."""
    import ray
    from ray.train.torch import TorchTrainer

    label = inside("ray._raylet:RAY_NODE_ID_KEY")
    controller_class = inside("ray.train.v2._internal.execution.controller:TrainController")
    cleaner = inside("ray.train.v2._internal.callbacks.placement_group_callback:PlacementGroupCleanerCallback")
    environment = {"env_vars": inside("ray.train.v2._internal.constants:get_env_vars_to_propagate")()}

    class StoppableTorchTrainer(TorchTrainer):
        def _initialize_and_run_controller(self, **arguments: Any) -> Any:
            place: Any = {label: ray.get_runtime_context().get_node_id()}
            actor: Any = ray.remote(num_cpus=0, label_selector=place, runtime_env=environment)(controller_class)
            # Ray's own cleaner outlives a killed driver, and without a dashboard finds nothing to clean.
            callbacks = [one for one in arguments["callbacks"] if not isinstance(one, cleaner)]
            controller = actor.remote(**{**arguments, "callbacks": callbacks})
            _controllers[:] = [controller]
            ray.get(controller.run.remote())
            result = ray.get(controller.get_result.remote())
            _controllers.clear()
            return result

    return StoppableTorchTrainer


def driven_controller() -> str | None:
    """Id of the controller of the trainer that this process drives; None where it drives none."""
    return _controllers[-1]._actor_id.hex() if _controllers else None


def end_trainer() -> None:
    """End a nested trainer that still runs: its workers stop and its placement group is given back."""
    import ray

    if not _controllers:
        return
    queue = getattr(inside("ray.train._internal.session:get_session")(), "_inter_actor_queue", None)
    if queue is not None:
        # A controller that waits for room in the queue cannot be aborted; the queue may be gone already.
        with suppress(Exception):
            queue.shutdown(force=True)
    # The normal end of `abort` is the controller's own death.
    with suppress(ray.exceptions.RayError):
        ray.get(_controllers.pop().abort.remote(), timeout=ABORT_TIMEOUT_S)


def in_folder(folder: Path) -> dict[str, Any]:
    """Arguments of `ray.init` that put a local Ray's sessions into a folder; the public ones know /tmp/ray alone."""
    return {"_temp_dir": str(folder)}


PATIENCE = {
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_gcs_server_port_wait_time_s": "120",
    "RAY_health_check_failure_threshold": "60",
    "RAY_worker_register_timeout_seconds": "300",
}
"""Of a Ray on this machine alone. Nobody takes over from it, so being slow for half a minute must not end it: Ray ends
a raylet whose helpers are late, and with it, without a word and with exit code 1, the process that started it."""


def engine_environment(*, spot: bool) -> dict[str, str]:
    """Environment of Ray's processes: quick polling, patience with slow ends of a fold, no files elsewhere.

    Args:
        spot: machines may be taken away, and say so before.
    """
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
        # The dispatcher tells of a worker that died, once and with its fold.
        "RAY_DEDUP_LOGS_SKIP_REGEX": "A worker died or was killed",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def set_default_environment(values: Mapping[str, str]) -> None:
    """Set what the user has not set."""
    for name, value in values.items():
        os.environ.setdefault(name, value)
