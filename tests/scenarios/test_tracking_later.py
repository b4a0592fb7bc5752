"""MLflow equals the store in the end, whatever was down or killed: a real server, real syncs, real kills."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from orchestrator.store.records import PlannedFold, SelectedTrial
from orchestrator.store.sweep_folder import SweepFolder, open_store
from orchestrator.tracking.mlflow_tracker import Tracker
from search_spaces.folds import Fold
from search_spaces.sweeps import Sweep
from tests.chaos.tracking_server import TrackingServer
from tests.support.stub_sweep import started, stub_sweep
from tests.support.stub_worker import starts
from tests.support.tracked_store import GROUP, START, group, small_sweep, spec, write_fold, write_trial
from trainables.storage.json_files import write_json

FOLDS = 8


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def larger_store(out: Path) -> tuple[SweepFolder, Sweep]:
    """Several trials on seed 0, the last one chosen."""
    sweep, store = small_sweep(), open_store(out)
    store.claim(sweep, [group()], {"icons": "manifest-of-icons"})
    for number in range(FOLDS):
        write_trial(store, number, (_fold(store, sweep, number),))
    chosen = store.records.trials(GROUP)[-1]
    store.records.write_selected(SelectedTrial(group=GROUP, number=chosen.number, folds=chosen.folds))
    return store, sweep


def _fold(store: SweepFolder, sweep: Sweep, number: int) -> PlannedFold:
    wanted = spec(sweep, seed=0, trainer=f"trainer {number}")
    return write_fold(store, wanted, accuracy=0.5 + 0.01 * number, finished=START + 100 * number)


def runs_of(uri: str, sweep: Sweep) -> dict[tuple[str, str], Run]:
    """Every active run of a sweep by kind and key, found by a client that knows nothing of the tracker."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("vl2v")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], filter_string=f"tags.sweep = '{sweep.key[:12]}'")
    counted = Counter((run.data.tags["kind"], run.data.tags["key"]) for run in found)
    assert set(counted.values()) == {1}, "a run is there twice"
    return {(run.data.tags["kind"], run.data.tags["key"]): run for run in found}


def points_of(uri: str, run: Run) -> dict[tuple[str, int], float]:
    """Every point of a run, each of them once."""
    client = MlflowClient(uri)
    points = [
        ((name, point.step), point.value)
        for name in run.data.metrics
        for point in client.get_metric_history(run.info.run_id, name)
    ]
    assert len(points) == len(dict(points)), "a step is there twice"
    return dict(points)


def expected_points(store: SweepFolder, key: str) -> dict[tuple[str, int], float]:
    """What a fold's files say, worked out without the tracker's code."""
    stored = store.folds.spec(key)
    assert stored is not None
    journals = [store.folds.align(stored.align_key).read_journal(), store.folds.fold(key).read_journal()]
    lines = [line for journal in journals for line in journal]
    points: dict[tuple[str, int], float] = {}
    losses: dict[str, list[float]] = {}
    for line in lines:
        stage, step = line["stage"], line["step"]
        if line["kind"] == "step":
            losses.setdefault(stage, []).append(line["loss"])
            continue
        points[f"{stage}/source_validation_accuracy", step] = line["accuracy"]
        if stage in losses:
            since = losses.pop(stage)
            points[f"{stage}/loss", step] = sum(since) / len(since)
    return points


def assert_equal_to_store(uri: str, store: SweepFolder, sweep: Sweep) -> None:
    """One whole run for the sweep, for every group and for every fold, with the store's numbers and nothing else."""
    runs = runs_of(uri, sweep)
    planned = [fold.key for about in store.groups() for fold in store.records.planned_folds(about.name)]
    wanted = {("sweep", sweep.key), *(("group", about.name) for about in store.groups())}
    assert set(runs) == wanted | {("trial", key) for key in planned}
    for key in planned:
        run, result, stored = runs["trial", key], store.folds.fold(key).read_result(), store.folds.spec(key)
        assert result is not None
        assert stored is not None
        points, expected = points_of(uri, run), expected_points(store, key)
        watched = [name for name in points if name[0].endswith(("/source_validation_accuracy", "/loss"))]
        assert {name: points[name] for name in watched} == pytest.approx(expected)
        assert run.data.metrics["source_validation_accuracy"] == result["source_validation"]["accuracy"]
        assert run.data.metrics["teacher/image_queries"] == result["teacher_queries"]["images"]
        assert run.data.params["distill.lr"] == str(stored.hyperparameters.distill.lr)
        assert run.data.params["seed"] == str(stored.fold.seed)
        assert run.info.status == "FINISHED"
        assert run.data.tags["record_version"]
    (top,) = (run for (kind, _), run in runs.items() if kind == "sweep")
    accuracies = [(store.folds.fold(key).read_result() or {})["source_validation"]["accuracy"] for key in planned]
    assert top.data.metrics["source_validation_accuracy"] == max(accuracies)
    assert top.data.metrics["finished_folds"] == len(planned)


def test_a_run_that_the_server_made_twice_is_kept_once(out: Path) -> None:
    store, sweep = larger_store(out)
    tracker = Tracker(store=store, sweep=sweep)
    tracker.sync()
    client = MlflowClient(tracker.uri)
    for run in runs_of(tracker.uri, sweep).values():
        tags = {name: run.data.tags[name] for name in ("kind", "group", "key", "sweep")}
        client.create_run(run.info.experiment_id, tags=tags)
    Tracker(store=store, sweep=sweep).sync()
    assert_equal_to_store(tracker.uri, store, sweep)


def test_two_trackers_that_remember_different_things_double_nothing(out: Path) -> None:
    sweep, store = small_sweep(), open_store(out)
    store.claim(sweep, [group()], {"icons": "manifest-of-icons"})
    trackers = [Tracker(store=store, sweep=sweep) for _ in range(2)]
    for number in range(6):
        write_trial(store, number, (_fold(store, sweep, number),))
        assert trackers[number % 2].sync() == 3
        if number == 3:
            assert trackers[0].sync() == 0, "the other one wrote it"
    store.records.write_selected(SelectedTrial(group=GROUP, number=5, folds=store.records.trials(GROUP)[5].folds))
    trackers[0].sync()
    trackers[1].sync()
    assert_equal_to_store(trackers[0].uri, store, sweep)


def test_a_pruned_fold_is_a_killed_run(out: Path) -> None:
    store, sweep = larger_store(out)
    key = store.records.trials(GROUP)[0].folds[0].key
    store.folds.fold(key).result.unlink()
    tracker = Tracker(store=store, sweep=sweep)
    tracker.sync()
    assert ("trial", key) not in runs_of(tracker.uri, sweep), "it is neither finished nor pruned"
    write_json(store.folds.fold(key).path / "pruned.json", {"step": 3, "rule": "median", "sweeps": [sweep.key]})
    assert tracker.sync() > 0
    run = runs_of(tracker.uri, sweep)["trial", key]
    assert (run.info.status, run.data.tags["pruned"]) == ("KILLED", "true")
    assert run.data.params["distill.lr"]
    assert ("distill/source_validation_accuracy", 3) in points_of(tracker.uri, run)
    assert tracker.sync() == 0
    assert runs_of(tracker.uri, sweep)["sweep", sweep.key].info.status == "FINISHED"


def test_a_fold_that_was_pruned_before_it_began_is_a_run_too(out: Path) -> None:
    store, sweep = larger_store(out)
    never = Fold(benchmark="icons", test_domains=("line",), seed=0)
    planned = PlannedFold(fold=never, key="f" * 64)
    record = replace(store.records.trials(GROUP)[0], number=FOLDS, folds=(planned,), point={"distill.lr": 0.01})
    store.records.write_trial(record)
    store.folds.mark_pruned(planned.key, {"rule": "median"}, sweep.key)
    store.folds.mark_pruned(store.records.trials(GROUP)[1].folds[0].key, {"rule": "median"}, "another sweep")
    tracker = Tracker(store=store, sweep=sweep)
    tracker.sync()
    runs = runs_of(tracker.uri, sweep)
    run = runs["trial", planned.key]
    assert (run.info.status, run.data.params["distill.lr"], run.data.params["seed"]) == ("KILLED", "0.01", "0")
    assert [run.info.status for run in runs.values()].count("KILLED") == 1
    store.folds.mark_pruned(planned.key, {"rule": "median"}, "another sweep")
    assert tracker.sync() == 0


def _environment() -> dict[str, str]:
    return {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def _sync_command(out: Path, uri: str) -> subprocess.Popen[str]:
    """`Tracker.sync` as a process; it says `go` when it begins and how many runs it wrote at its end."""
    script = (
        "import sys; from orchestrator.store.sweep_folder import open_store;"
        "from orchestrator.tracking.mlflow_tracker import Tracker;"
        "store = open_store(sys.argv[1]); tracker = Tracker(store=store, sweep=store.sweep(), uri=sys.argv[2]);"
        "tracker.preflight(); print('go', flush=True); print(tracker.sync(), flush=True)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(out), uri], stdout=subprocess.PIPE, text=True, env=_environment()
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "go\n"
    return process


@pytest.mark.slow
def test_syncs_that_are_killed_or_run_side_by_side_end_in_the_store(out: Path, tmp_path: Path) -> None:
    store, sweep = larger_store(out)
    server, chance = TrackingServer(tmp_path / "server", _environment()), random.Random(0)
    try:
        server.wait_until_ready()
        for _ in range(3):
            process = _sync_command(out, server.uri)
            time.sleep(chance.uniform(0.0, 0.6))
            process.kill()
            process.communicate()
        pair = [_sync_command(out, server.uri) for _ in range(2)]
        written = [int(process.communicate(timeout=120)[0]) for process in pair]
        assert 0 in written, "the second one found everything done"
        assert_equal_to_store(server.uri, store, sweep)
        assert Tracker(store=store, sweep=sweep, uri=server.uri).sync() == 0
    finally:
        server.kill()
    assert not list(out.rglob("tracking-*"))


@pytest.mark.slow
def test_a_server_that_is_down_for_the_whole_sweep_is_filled_in_afterwards(out: Path, tmp_path: Path) -> None:
    fields = {"trials": 1, "seeds": 1, "space": "paper"}
    server = TrackingServer(tmp_path / "server", _environment())
    try:
        server.wait_until_ready()
        write_json(out / "BEHAVIOUR", {"pause": 0.3})
        arguments = {"max_concurrent": 1, "address": "local", "tracking": server.uri}
        command = [sys.executable, "-m", "tests.support.stub_sweep", str(out)]
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(
                [*command, json.dumps(fields), json.dumps(arguments)], stdout=log, stderr=log, env=_environment()
            )
        while not starts(out):
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.05)
        server.kill()
        assert process.wait(timeout=240) == 0, (tmp_path / "log").read_text()
        assert (tmp_path / "log").read_text().count("tracking is behind") == 1
        server.restart()
        server.wait_until_ready()
        sweep = stub_sweep(**fields)
        assert Tracker(store=open_store(out), sweep=sweep, uri=server.uri).sync() > 0
        assert_equal_to_store(server.uri, open_store(out), sweep)
    finally:
        server.kill()


@pytest.mark.slow
def test_a_sweep_that_is_started_again_while_the_server_is_away_goes_on_and_is_caught_up_with(
    out: Path, tmp_path: Path
) -> None:
    fields = {"trials": 1, "seeds": 1, "space": "paper"}
    server, log = TrackingServer(tmp_path / "server", _environment()), tmp_path / "log"
    arguments = {"max_concurrent": 1, "address": "local", "tracking": server.uri}
    words = ["-m", "tests.support.stub_sweep", str(out), json.dumps(fields), json.dumps(arguments)]
    try:
        server.wait_until_ready()
        write_json(out / "BEHAVIOUR", {"user": "flat/seed0", "pause": 0.3})
        begun = started(log, sys.executable, *words)
        assert begun.wait(timeout=240) == 2, log.read_text()
        assert starts(out)
        server.kill()
        write_json(out / "BEHAVIOUR", {"pause": 1.0})
        before = len(starts(out))
        again = started(log, sys.executable, *words)
        while len(starts(out)) == before:
            assert again.poll() is None, log.read_text()
            time.sleep(0.05)
        assert log.read_text().count("tracking is behind (tracking server http") == 1
        server.restart()
        server.wait_until_ready()
        assert again.wait(timeout=240) == 0, log.read_text()
        # A cold server may take longer than the folds: then the sweep ends behind it.
        Tracker(store=open_store(out), sweep=stub_sweep(**fields), uri=server.uri).sync()
        assert_equal_to_store(server.uri, open_store(out), stub_sweep(**fields))
    finally:
        server.kill()
