"""What runs inside Tune's actors: one fold, or the `TorchTrainer` of a fold with several workers.

A nested trainer that is stopped early leaks its placement group (ray-project/ray#65443), so the actor that drives it
ends it in `cleanup`; where that actor is killed, the sweep gives the group back
(`orchestrator.execution.worker_deaths`).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from orchestrator.execution.executors import imported
from orchestrator.execution.failure_kinds import describe
from orchestrator.execution.ray_compat import (
    TRAINER_PARTS,
    check_parts,
    replace_report_queue,
    send_no_credentials,
    stoppable_trainer,
    trainable_with_cleanup,
)
from orchestrator.execution.worker_deaths import blamed_on_nodes, trainer_nodes
from orchestrator.store.failures import Failure
from search_spaces.hyperparameters import Resources

FRESH_PROCESS = frozenset({"crash", "lost", "lost_node", "out_of_memory"})
"""After these the process itself is in doubt and is not used again."""

LOOK_AGAIN_S = 0.1


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
    with failures_reported(tune.report, judge=lambda failure: blamed_on_nodes(failure, trainer_nodes)):
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
    report: Callable[[dict[str, Any]], None], judge: Callable[[Failure], Failure] | None = None
) -> Iterator[None]:
    """Report what went wrong; raise it on where the process is in doubt, so that the next fold gets a fresh one."""
    try:
        yield
    except Exception as error:
        failure = describe(error)
        if judge is not None:
            failure = judge(failure)
        report({"failure": json.dumps(asdict(failure))})
        if failure.kind in FRESH_PROCESS:
            raise


def actor_trainable(resources: Resources) -> Any:
    """The trainable of one-worker folds, with what Ray reserves for each."""
    reserved: dict[str, float] = {"CPU": resources.cpus_per_worker}
    if resources.gpus_per_worker:
        reserved["GPU"] = resources.gpus_per_worker
    return _reserving(run_in_actor, reserved)


def nested_trainable(driver_resources: Mapping[str, float]) -> Any:
    """The trainable of folds in a `TorchTrainer`; its `cleanup` ends a trainer that still runs."""
    check_parts(TRAINER_PARTS)
    return _reserving(trainable_with_cleanup(drive_trainer, "DriveTrainer"), driver_resources)


def _reserving(trainable: Any, reserved: Mapping[str, float]) -> Any:
    """A trainable with what Ray reserves for it, in an actor that is sent no credentials."""
    from ray import tune

    send_no_credentials()
    return tune.with_resources(trainable, dict(reserved))


class HeardQueue:
    """Ray's queue as the thread uses it that fetches a nested trainer's reports for Tune.

    Tune's function trainable has two threads: one runs the function, the other fetches a report of the trainer's
    controller from Ray's queue and then puts it where the function's own reports go, which has room for one. A function
    that returns between the two puts its end there first, and both threads wait for each other without end (Ray 2.60;
    found by `tests.chaos`). So the function waits until the queue was looked into again after the trainer's end, and
    was empty.
    """

    def __init__(self, queue: Any) -> None:
        self._queue = queue
        self._complete, self._heard = threading.Event(), threading.Event()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """The next report; raises `ray.util.queue.Empty`."""
        from ray.util.queue import Empty

        is_complete = self._complete.is_set()
        try:
            return self._queue.get(block=block, timeout=timeout)
        except Empty:
            # Whoever asks again is done with what came before.
            if is_complete:
                self._heard.set()
            raise

    def shutdown(self, *, force: bool) -> None:
        """End the queue's actor."""
        self._queue.shutdown(force=force)

    def wait(self, given_up: threading.Event) -> None:
        """Nothing more is put in: return once everything was fetched, or nobody fetches any more."""
        self._complete.set()
        while not self._heard.wait(LOOK_AGAIN_S):
            if given_up.is_set():
                return


@contextmanager
def reports_heard() -> Iterator[None]:
    """Inside a Tune function: leave only when Tune has every report that a nested trainer sent."""
    queue, given_up = replace_report_queue(HeardQueue)
    try:
        yield
    finally:
        queue.wait(given_up)
