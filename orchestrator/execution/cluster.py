"""Ray: an own local one, or the cluster at RAY_ADDRESS; what it holds, and whether that is enough.

A local Ray lives in its own temporary folder, writes nothing into the user's home, and ends with the context. A cluster
that was there before is only disconnected from.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from typing import Any

from orchestrator.execution.executors import imported
from orchestrator.execution.failure_kinds import describe
from orchestrator.execution.local_ray import check_ray_folder, ray_folder, start_in, take_own_token
from orchestrator.execution.ray_compat import (
    CLUSTER_PARTS,
    PATIENCE,
    check_parts,
    engine_environment,
    most_resources,
    set_default_environment,
)
from orchestrator.store.failures import LOST_NODES_WITHOUT_PROGRESS
from search_spaces.errors import UserError, first_line
from search_spaces.hyperparameters import Resources
from trainables.teacher.ledger import BudgetReached

OBJECT_STORE_BYTES = 256 * 2**20
"""Only plain values cross process borders; Ray would take 30% of the memory."""

DRIVER_RESOURCE = "driver"
"""Custom resource of the machine that drivers of nested trainers run on, so that they take no CPU from workers."""

LOCAL_DRIVERS = 16.0
"""Drivers of nested trainers that a local Ray may run at a time; they take no CPU from the workers."""

ANSWER_TIMEOUT_S = 10.0

MACHINE_TIMEOUT_S = 120.0
"""How long a machine of the cluster may take to start a process and answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """What is connected to."""

    is_local: bool
    """Started here, and ended with the context."""
    address: str

    def resources(self) -> dict[str, float]:
        """What the cluster holds right now."""
        import ray

        held: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        return dict(held)

    def most_resources(self) -> dict[str, float]:
        """What the cluster may grow to, where its autoscaler says so; else what it holds."""
        stated, now = most_resources(), self.resources()
        return now if not stated else {name: max(now.get(name, 0.0), float(stated.get(name, 0.0))) for name in stated}

    @property
    def driver_resources(self) -> dict[str, float]:
        """What the driver of a nested trainer reserves: nothing that a worker needs, where the cluster allows it."""
        return {DRIVER_RESOURCE: 1.0} if DRIVER_RESOURCE in self.resources() else {"CPU": 0.01}

    def folds_at_once(self, resources: Resources) -> int:
        """Folds that fit side by side; one more is let wait where a cluster may grow, so that it does."""
        fitting = _fitting(self.resources(), resources)
        return max(1, fitting if self.is_local else min(_fitting(self.most_resources(), resources), fitting + 1))


@contextmanager
def connect(*, address: str | None = None, dashboard: bool = False, cpus: int | None = None) -> Iterator[Cluster]:
    """Connect to `address`, to RAY_ADDRESS, or to a Ray started for this context alone.

    Raises:
        UserError: no cluster answers at the address, or Ray ended in the middle of the work.
    """
    wanted = _wanted(address)
    set_default_environment(engine_environment(spot=wanted != "local"))
    if wanted == "local":
        set_default_environment(PATIENCE)
    # After the settings above: Ray reads some of them when it is imported.
    check_parts(CLUSTER_PARTS)
    found = _local(dashboard=dashboard, cpus=cpus) if wanted == "local" else _existing(wanted)
    with engines_told(), found as cluster:
        yield cluster


def check_answers(address: str | None) -> None:
    """Raises `UserError` where nothing listens at the address that `connect` would use; a look, without Ray."""
    _check_answers(_wanted(address))


def check_machine(resources: Resources, address: str | None) -> None:
    """Raises `UserError` where an own Ray has no place, or fewer CPUs than one fold asks for; arithmetic, without Ray.

    Ray counts no more CPUs than the system does. GPUs are counted by Ray alone.
    """
    if _wanted(address) == "local":
        check_ray_folder()
        _check_enough({"CPU": float(os.cpu_count() or math.inf), "GPU": math.inf}, resources, place="machine")


def _wanted(address: str | None) -> str:
    return address or os.environ.get("RAY_ADDRESS") or "local"


@contextmanager
def engines_told() -> Iterator[None]:
    """Say in one line why Ray or Tune ended; raises `UserError` then."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        from ray.exceptions import RayError
        from ray.tune import TuneError

        if not isinstance(error, RayError | TuneError):
            raise
        raise UserError(f"Ray ended: {describe(error).error}; run the same command to resume") from None


def check_resources(cluster: Cluster, resources: Resources) -> None:
    """Raise `UserError` where one fold asks for more than the cluster has."""
    _check_enough(cluster.most_resources(), resources, place="machine" if cluster.is_local else "cluster")


def _check_enough(available: Mapping[str, float], resources: Resources, *, place: str) -> None:
    for name, unit, per_worker in (
        ("CPU", "CPUs", resources.cpus_per_worker),
        ("GPU", "GPUs", resources.gpus_per_worker),
    ):
        wanted, there = resources.workers * per_worker, available.get(name, 0.0)
        if wanted > there:
            raise UserError(
                f"{resources.workers} workers of {per_worker:g} {unit} need {wanted:g}, and the "
                f"{place} has {there:g}; ask for fewer workers (--workers) or {unit} "
                f"(resources.{name.lower()}s_per_worker)"
            )


def call_on_cluster(
    function_path: str, arguments: list[Any], resources: Resources, *, doing: str
) -> list[dict[str, Any]]:
    """Call a function in one Ray task per argument, side by side as far as they fit; lost machines do not count.

    Args:
        doing: what the tasks do, for who reads that one of them failed.

    Raises:
        UserError: the first mistake of the user's that a task found, or a task that failed.
        BudgetReached: a task may not ask the teacher any more.
    """
    import ray

    task = ray.remote(num_cpus=resources.cpus_per_worker, num_gpus=resources.gpus_per_worker, max_retries=1)(_call)
    running = {task.remote(function_path, argument): place for place, argument in enumerate(arguments)}
    found: dict[int, dict[str, Any]] = {}
    lost = 0
    while running:
        (done,), _ = ray.wait(list(running), num_returns=1)
        place = running.pop(done)
        try:
            found[place] = ray.get(done)
        except ray.exceptions.RayError as error:
            failure = describe(error)
            lost += 1
            if failure.kind != "lost_node" or lost >= LOST_NODES_WITHOUT_PROGRESS:
                raise UserError(f"{doing} failed: {failure.error}; the same command tries again") from None
            running[task.remote(function_path, arguments[place])] = place
    answers = [found[place] for place in range(len(arguments))]
    for answer in answers:
        if "user_error" in answer:
            raise UserError(answer["user_error"])
        if "budget" in answer:
            raise BudgetReached(**answer["budget"])
    return [answer["value"] for answer in answers]


def call_on_every_machine(function_path: str, argument: Any, *, of: str = "CPU") -> list[dict[str, Any]]:
    """Call a function once on every living machine that has some of a resource; one that is lost meanwhile is left out.

    Raises:
        UserError: the first mistake of the user's that a machine found.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    places = [node["NodeID"] for node in nodes if node["Alive"] and node["Resources"].get(of)]
    task = ray.remote(num_cpus=0, max_retries=1)(_call)
    asked = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(place, soft=False)).remote(
            function_path, argument
        )
        for place in places
    ]
    answers: list[dict[str, Any]] = []
    for one in asked:
        with suppress(ray.exceptions.RayError):
            answers.append(ray.get(one, timeout=MACHINE_TIMEOUT_S))
    for answer in answers:
        if "user_error" in answer:
            raise UserError(answer["user_error"])
    return [answer["value"] for answer in answers]


def _call(function_path: str, argument: Any) -> dict[str, Any]:
    try:
        return {"value": imported(function_path)(argument)}
    except UserError as error:
        return {"user_error": str(error)}
    except BudgetReached as error:
        return {"budget": {"budget": error.budget, "asked": error.asked, "wanted": error.wanted}}


@contextmanager
def _local(*, dashboard: bool, cpus: int | None) -> Iterator[Cluster]:
    take_own_token()
    with quiet_engines(), ray_folder() as folder:
        try:
            context = start_in(
                folder,
                num_cpus=cpus,
                resources={DRIVER_RESOURCE: LOCAL_DRIVERS},
                include_dashboard=dashboard,
                object_store_memory=OBJECT_STORE_BYTES,
                **_common(spot=False),
            )
            yield Cluster(is_local=True, address=str(context.address_info["address"]))
        finally:
            # The next Ray of this process then shares no port and no folder with one that is still ending.
            _leave(wait_for_processes=True)


@contextmanager
def _existing(address: str) -> Iterator[Cluster]:
    import ray

    _check_answers(address)
    with quiet_engines():
        try:
            ray.init(address=address, **_common(spot=True))
        except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            raise _no_cluster(address, error) from None
        try:
            yield Cluster(is_local=False, address=address)
        finally:
            _leave(wait_for_processes=False)


def _leave(*, wait_for_processes: bool) -> None:
    """Shut Ray down while Python collects no garbage.

    Tune leaves cycles that hold object references. Where another thread (tracking) happens to collect them while Ray's
    core is going down, Ray ends the whole process with exit code 1. So what is garbage goes before, the rest after.
    """
    import ray

    was_enabled = gc.isenabled()
    gc.disable()
    try:
        gc.collect()
        ray.shutdown(wait_for_processes=wait_for_processes)
    finally:
        if was_enabled:
            gc.enable()


def _check_answers(address: str) -> None:
    """Ray itself waits many minutes for an address where nothing listens."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if not separator or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_TIMEOUT_S).close()
    except OSError as error:
        raise _no_cluster(address, error) from None


def _no_cluster(address: str, error: Exception) -> UserError:
    reason = first_line(error).rstrip(".")
    return UserError(
        f"no Ray cluster answers at {address} ({reason}); check RAY_ADDRESS, or unset it to use this machine"
    )


def _common(*, spot: bool) -> dict[str, Any]:
    return {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "runtime_env": {"env_vars": engine_environment(spot=spot)},
    }


def _fitting(there: Mapping[str, float], resources: Resources) -> int:
    wanted = {"CPU": resources.cpus_per_worker, "GPU": resources.gpus_per_worker}
    # A tenth of a GPU is stored with rounding: ten of them fit.
    fits = [
        math.floor(there.get(name, 0.0) / (resources.workers * each) + 1e-6) for name, each in wanted.items() if each
    ]
    return min(fits, default=1)


@contextmanager
def quiet_engines() -> Iterator[None]:
    """Keep Ray's own log lines off the terminal: what went wrong with a fold is in its folder.

    What Ray still prints, a dead raylet's last lines say, goes to stderr: stdout is for the command's answer.
    """
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.train", "ray.data")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
