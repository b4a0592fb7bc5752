"""One run of Ray Tune over an agenda's folds. Its own files are scratch; nothing is restored from them."""

from __future__ import annotations

import json
import math
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.execution.cluster import Cluster
from orchestrator.execution.executors import inline_trainable, nested_trainable
from orchestrator.execution.failure_kinds import describe
from orchestrator.execution.worker_deaths import death, orphans_given_back
from orchestrator.scheduler.stopping import StopRequest
from orchestrator.store.failures import Attempt
from search_spaces.configuration import from_mapping
from search_spaces.hyperparameters import Resources

if TYPE_CHECKING:
    from orchestrator.execution.tune_searcher import FoldSearch

LOOK_AGAIN_S = 5.0


def run_tune(
    search: FoldSearch,
    stop: StopRequest,
    *,
    cluster: Cluster,
    executor: Literal["tune", "train"],
    resources: Resources,
    scratch: Path,
) -> None:
    """Run folds until the search has no more, or a stop is requested."""
    from ray import tune

    from orchestrator.execution.tune_searcher import Deaths, SearchStopper

    inline = executor == "tune"
    tuner = tune.Tuner(
        inline_trainable(resources) if inline else nested_trainable(cluster.driver_resources),
        tune_config=tune.TuneConfig(
            search_alg=search,
            num_samples=-1,
            reuse_actors=inline,
            trial_name_creator=lambda trial: str(trial.config["key"])[:12],
            trial_dirname_creator=lambda trial: f"{str(trial.config['key'])[:12]}-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name=f"tune-{time.time_ns()}",
            storage_path=str(scratch),
            verbose=0,
            stop=SearchStopper(stop, search),
            callbacks=[Deaths(search)],
        ),
    )
    with nullcontext() if inline else orphans_given_back():
        tuner.fit()
    search.drop_running()


def run_one(config: dict[str, Any], *, resources: Resources, scratch: Path) -> Attempt | None:
    """Run a single fold in a Tune actor; returns what went wrong, if anything did."""
    from ray import tune

    tuner = tune.Tuner(
        inline_trainable(resources),
        param_space=config,
        tune_config=tune.TuneConfig(trial_dirname_creator=lambda trial: str(trial.trial_id)),
        run_config=tune.RunConfig(name="fold", storage_path=str(scratch), verbose=0),
    )
    result = tuner.fit()[0]
    failure = (result.metrics or {}).get("failure")
    if failure is not None:
        return from_mapping(Attempt, json.loads(failure))
    error: Any = result.error
    if error is None:
        return None
    # What is no error of a task or an actor, Tune gives back as text.
    return describe(error) if isinstance(error, BaseException) else death(str(error))


def folds_at_once(cluster: Cluster, resources: Resources, most: int | None) -> Callable[[], int]:
    """The limit that a search asks for before every start; a cluster that may grow is looked at again and again."""
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


@contextmanager
def signals_stop(stop: StopRequest) -> Iterator[None]:
    """SIGINT and SIGTERM end the run in order; a second one ends it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def request(number: int, frame: FrameType | None) -> None:
        if stop.wanted:
            raise KeyboardInterrupt
        stop.wanted = True

    for number in before:
        signal.signal(number, request)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
