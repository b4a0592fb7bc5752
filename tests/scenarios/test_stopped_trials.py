"""Folds stopped in the middle of a step that listens to nobody: within a minute what they held is free again."""

from __future__ import annotations

import hashlib
import itertools
import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import run
from orchestrator.execution.cluster import Cluster, connect
from orchestrator.execution.tune_trainables import nested_trainable
from orchestrator.run_options import WorkerFunctions
from search_spaces.folds import Fold
from tests.support import stub_worker
from tests.support.held_resources import held
from tests.support.nested_folds import one_fold
from tests.support.stub_sweep import command
from tests.support.stub_worker import starts
from tests.support.waiting import eventually
from trainables.jobs import job_from_mapping

# Ray warns of its own settings when a trainer is built in this process.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

FOLDS = 10


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A Ray that outlives the sweep, with room for ten folds."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with connect(address="local", cpus=FOLDS) as running:
        yield running


NESTED_FOLDS = 2
"""Each is four processes that load torch. The third kind of step is not for them: it would keep the report back too."""
WITHIN_S = 60.0
"""What a stopped fold held is free again after at most this long."""
START_S = 300.0
"""Ten processes that load torch on two cores take their time."""
HOURS_S = 7200.0
SWEEP = {"trials": 3, "seeds": 1}
"""Twelve folds of four groups, so that ten run side by side."""
FUNCTIONS = WorkerFunctions(
    run_job=f"{__name__}:run_job",
    torch_trainer=f"{__name__}:torch_trainer",
    preflight="tests.support.stub_worker:preflight",
)


def run_job(job: Mapping[str, Any], report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """The stub's fold; with the file TOGETHER so many folds report at once, and each goes into a step of hours."""
    out = Path(job_from_mapping(job).folder).parent.parent
    steps = out / "STEPS"

    def report_and_work(metrics: dict[str, Any]) -> None:
        number = _arrive(steps, int((out / "TOGETHER").read_text())) if (out / "TOGETHER").exists() else None
        report(metrics)
        if number is not None:
            (steps / str(number) / "begun").touch()
            LONG_STEPS[number % len(LONG_STEPS)]()

    return stub_worker.run_job(job, report_and_work)


def train_loop(job: dict[str, Any]) -> None:
    import ray.train

    run_job(job, lambda metrics: ray.train.report(metrics))


def torch_trainer(job: Mapping[str, Any], *, trainer: Any, **arguments: Any) -> Any:
    """The stub's trainer, whose worker has the long step."""
    return stub_worker.torch_trainer(job, trainer=lambda loop, **settings: trainer(train_loop, **settings), **arguments)


def _sleep() -> None:
    time.sleep(HOURS_S)


def _compute() -> None:
    """In C and without Python's lock, as torch computes."""
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)


def _compute_alone() -> None:
    """In C, and no other thread of the process ever runs again."""
    sum(itertools.repeat(0))


LONG_STEPS = (_sleep, _compute, _compute_alone)


def _arrive(steps: Path, folds: int) -> int:
    """This fold's number, once all have one: a folder is made by one process alone."""
    for number in itertools.count():
        with suppress(FileExistsError):
            (steps / str(number)).mkdir(parents=True)
            break
    while len(list(steps.iterdir())) < folds:
        time.sleep(0.1)
    return number


def living(processes: set[int]) -> set[int]:
    return {process for process in processes if Path(f"/proc/{process}").exists()}


def seconds_until_free(processes: set[int], since: float) -> float:
    """Seconds from `since` until nothing is held and no process lives; fails where that takes more than a minute."""
    while (left := held()) or living(processes):
        passed = time.monotonic() - since
        assert passed < WITHIN_S, f"after {passed:.0f} s: {left}, living processes {living(processes)}"
        time.sleep(0.1)
    return time.monotonic() - since


def in_their_steps(out: Path) -> set[int]:
    """The processes of ten folds, once all of them are in a long step."""
    assert eventually(lambda: len(list(out.glob("STEPS/*/begun"))) == FOLDS, START_S)
    # The last one has only just begun.
    time.sleep(1.0)
    assert held(), "ten folds run and hold nothing"
    processes = {int(start["process"]) for start in starts(out)}
    assert len(living(processes)) == FOLDS
    return processes


@pytest.mark.parametrize("way", ["cancel", "kill"])
def test_ten_stopped_folds_give_everything_back_and_the_same_sweep_goes_on(
    tmp_path: Path, cluster: Cluster, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "TOGETHER").write_text(str(FOLDS))
    arguments: dict[str, Any] = {"address": cluster.address, "functions": FUNCTIONS.to_mapping()}
    sweep = command(out, SWEEP, **arguments)
    processes = in_their_steps(out)
    asked = time.monotonic()
    # The command itself would wait for ever for a sweep that does not end.
    cancel = threading.Thread(target=run, args=(["cancel", "--out", str(out)],), daemon=True)
    if way == "cancel":
        cancel.start()
    else:
        sweep.kill()
    free_s = seconds_until_free(processes, asked)
    if way == "cancel":
        assert sweep.wait(WITHIN_S) == 130
        cancel.join(WITHIN_S)
        assert "0 done, 0 running" in capsys.readouterr().out
        assert not [path for name in ("running", "lease", "error") for path in out.rglob(f"{name}.json")]
    else:
        assert sweep.wait() == -signal.SIGKILL

    (out / "TOGETHER").unlink()
    again = command(out, SWEEP, max_concurrent=3, **arguments)
    assert again.wait(START_S) == 0, (tmp_path / "out.log").read_text()[-3000:]
    assert run(["status", "--out", str(out), "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)["counts"]
    assert (counts["done"], counts["failed"]) == (12, 0)
    assert sorted(Counter(start["key"] for start in starts(out)).values()) == [1, 1] + [2] * FOLDS
    assert eventually(lambda: not held(), WITHIN_S)
    print(f"{way}: everything was free after {free_s:.1f} s")


def test_nested_folds_that_tune_stops_give_everything_back(tmp_path: Path, cluster: Cluster) -> None:
    """As a pruner does: Tune stops a fold at its first report, while its worker is in the next step already."""
    from ray import tune

    first, storage = one_fold(tmp_path), str(tmp_path / "ray")
    (tmp_path / "TOGETHER").write_text(str(NESTED_FOLDS))
    folds = [Fold(benchmark="icons", test_domains=("line",), seed=seed) for seed in range(NESTED_FOLDS)]
    jobs = [replace(first, spec=replace(first.spec, fold=fold), folder=f"{first.folder}-{fold.seed}") for fold in folds]
    tuner = tune.Tuner(
        nested_trainable(cluster.driver_resources),
        param_space={
            "functions": FUNCTIONS.to_mapping(),
            "storage_path": storage,
            "key": tune.sample_from(lambda config: Path(json.loads(config["job"])["folder"]).name),
            "job": tune.grid_search([json.dumps(job.to_mapping()) for job in jobs]),
        },
        run_config=tune.RunConfig(name="stopped", storage_path=storage, verbose=0, stop={"training_iteration": 1}),
    )
    tuner.fit()
    begun = [file.stat().st_mtime for file in tmp_path.glob("STEPS/*/begun")]
    assert len(begun) == NESTED_FOLDS
    processes = {int(start["process"]) for start in starts(tmp_path)}
    free_s = seconds_until_free(processes, time.monotonic() - (time.time() - max(begun)))
    assert not list(tmp_path.rglob("result.json"))
    print(f"stopped by Tune: everything was free after {free_s:.1f} s")
