"""The projection into MLflow, against a real SQLite file and a real server: found by tags, written once, no secrets."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from orchestrator.run_options import RunOptions
from orchestrator.store.failures import Failure, give_up, record_failure
from orchestrator.store.records import PlannedFold, SelectedTrial
from orchestrator.store.sweep_folder import open_store
from orchestrator.tracking.background import TrackingAwayError
from orchestrator.tracking.mlflow_client import TrackingError, find_runs
from orchestrator.tracking.mlflow_tracker import Tracker
from orchestrator.tracking.mlflow_ui import free_port, mlflow_server
from search_spaces.errors import UserError
from search_spaces.sweeps import Sweep
from tests.support.tracked_store import (
    GROUP,
    START,
    finished_store,
    group,
    small_sweep,
    spec,
    write_fold,
    write_trial,
)
from trainables.storage.json_files import write_json


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database: making one takes seconds."""
    path = tmp_path_factory.mktemp("migrated") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def out(tmp_path: Path, migrated: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "mlflow.db").write_bytes(migrated.read_bytes())
    return folder


def runs_of(tracker: Tracker) -> list[Run]:
    """What a client that knows nothing of the tracker finds by tags."""
    client = MlflowClient(tracker.uri)
    experiment = client.get_experiment_by_name(tracker.experiment)
    assert experiment is not None
    return find_runs(client, experiment.experiment_id, tracker.sweep_tag)


def by_kind(runs: list[Run], kind: str) -> list[Run]:
    return [run for run in runs if run.data.tags["kind"] == kind]


def everything(tracker: Tracker) -> dict[str, Any]:
    """All that MLflow holds of the sweep, for comparing before and after."""
    client = MlflowClient(tracker.uri)
    content = {}
    for run in runs_of(tracker):
        points = [
            (point.key, point.step, point.timestamp, point.value)
            for name in run.data.metrics
            for point in client.get_metric_history(run.info.run_id, name)
        ]
        files = sorted(item.path for item in client.list_artifacts(run.info.run_id))
        info = (run.info.run_name, run.info.status, run.info.start_time, run.info.end_time)
        content[run.info.run_id] = (info, run.data.params, run.data.tags, sorted(points), files)
    return content


def test_runs_nest_and_carry_tags(out: Path) -> None:
    store, sweep = finished_store(out)
    tracker = Tracker(store=store, sweep=sweep, documents={"plan.json": {"folds": 3}})
    tracker.sync()
    runs = runs_of(tracker)
    (top,) = by_kind(runs, "sweep")
    (middle,) = by_kind(runs, "group")
    trials = by_kind(runs, "trial")
    assert len(runs) == 5
    assert middle.data.tags["mlflow.parentRunId"] == top.info.run_id
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {middle.info.run_id}
    assert {run.data.tags["key"] for run in trials} == {planned.key for planned in store.records.planned_folds(GROUP)}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert sorted(run.info.run_name for run in trials) == [
        "t0.s0 vl2v_adip line",
        "t1.s0 vl2v_adip line",
        "t1.s1 vl2v_adip line",
    ]
    assert all(run.data.tags["data_manifest"] == "manifest-of-icons" for run in trials)


def test_every_run_has_the_summary_and_trials_have_flat_parameters(out: Path) -> None:
    store, sweep = finished_store(out)
    tracker = Tracker(store=store, sweep=sweep)
    tracker.sync()
    runs = runs_of(tracker)
    assert all("source_validation_accuracy" in run.data.metrics for run in runs)
    (top,) = by_kind(runs, "sweep")
    assert top.data.metrics["source_validation_accuracy"] == 0.7
    trials = by_kind(runs, "trial")
    assert len({tuple(sorted(run.data.params)) for run in trials}) == 1
    parameters = trials[0].data.params
    assert parameters["align.lr"] == "0.01"
    assert parameters["align.lr_log10"] == "-2.0"
    assert parameters["test_domains"] == "line"


def test_metrics_follow_the_journal(out: Path) -> None:
    store, sweep = finished_store(out)
    tracker = Tracker(store=store, sweep=sweep)
    tracker.sync()
    (run,) = (run for run in runs_of(tracker) if run.info.run_name == "t1.s1 vl2v_adip line")
    client = MlflowClient(tracker.uri)
    loss = client.get_metric_history(run.info.run_id, "distill/loss")
    # Losses are 1, .9, .8, .7; evaluations come after steps 1 and 3.
    assert [(point.step, pytest.approx(point.value)) for point in loss] == [(1, 0.95), (3, 0.75)]
    assert [point.timestamp for point in loss] == [round((START + 300 - 10 + step) * 1000) for step in (1, 3)]
    assert {"align/loss", "align/source_validation_accuracy", "distill/domain/clip art _1_"} <= set(run.data.metrics)
    assert run.data.metrics["teacher/image_queries"] == 96


def test_a_replay_adds_nothing(out: Path) -> None:
    store, sweep = finished_store(out)
    Tracker(store=store, sweep=sweep).sync()
    tracker = Tracker(store=store, sweep=sweep)
    before = everything(tracker)
    tracker.sync()
    tracker.sync()
    Tracker(store=store, sweep=sweep).sync()
    assert everything(tracker) == before


def test_a_replay_writes_not_even_the_same_again(out: Path) -> None:
    store, sweep = finished_store(out)
    Tracker(store=store, sweep=sweep).sync()

    def on_disk() -> dict[str, tuple[int, bytes]]:
        files = [out / "mlflow.db", *(path for path in (out / "mlartifacts").rglob("*") if path.is_file())]
        return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    before = on_disk()
    Tracker(store=store, sweep=sweep).sync()
    assert on_disk() == before


def points_by_name(tracker: Tracker) -> dict[str, list[tuple[str, int, float]]]:
    """Every metric point of every run, by the run's name."""
    client = MlflowClient(tracker.uri)
    return {
        str(run.info.run_name): sorted(
            (point.key, point.step, point.value)
            for name in run.data.metrics
            for point in client.get_metric_history(run.info.run_id, name)
        )
        for run in runs_of(tracker)
    }


def test_a_fold_that_comes_late_doubles_no_step_and_leaves_none_behind(
    out: Path, migrated: Path, tmp_path: Path
) -> None:
    """Another machine's clock may be behind, or an older fold of another sweep joins."""
    sweep, store = small_sweep(), open_store(out)
    store.claim(sweep, [group()], {"icons": "manifest-of-icons"})
    write_trial(store, 0, (write_fold(store, spec(sweep, seed=0, trainer="a"), accuracy=0.5, finished=START + 100),))
    Tracker(store=store, sweep=sweep).sync()
    write_trial(store, 1, (write_fold(store, spec(sweep, seed=0, trainer="b"), accuracy=0.6, finished=START + 50),))
    tracker = Tracker(store=store, sweep=sweep)
    tracker.sync()
    (top,) = by_kind(runs_of(tracker), "sweep")
    history = MlflowClient(tracker.uri).get_metric_history(top.info.run_id, "source_validation_accuracy")
    assert sorted((point.step, point.value) for point in history) == [(0, 0.5), (1, 0.6)]
    (tmp_path / "anew.db").write_bytes(migrated.read_bytes())
    anew = Tracker(store=store, sweep=sweep, uri=f"sqlite:///{tmp_path / 'anew.db'}")
    anew.sync()
    assert points_by_name(anew) == points_by_name(tracker)


def test_the_further_seeds_of_a_choice_that_was_made_anew_keep_their_places(out: Path) -> None:
    store, sweep = finished_store(out)
    Tracker(store=store, sweep=sweep).sync()
    (first,) = store.records.trials(GROUP)[0].folds
    other = write_fold(store, spec(sweep, seed=1, trainer="a"), accuracy=0.8, finished=START + 400)
    store.records.write_selected(SelectedTrial(group=GROUP, number=0, folds=(first, other)))
    tracker = Tracker(store=store, sweep=sweep)
    tracker.sync()
    (top,) = by_kind(runs_of(tracker), "sweep")
    history = MlflowClient(tracker.uri).get_metric_history(top.info.run_id, "source_validation_accuracy")
    assert [(point.step, point.value) for point in history] == [(0, 0.5), (1, 0.7), (2, 0.7), (3, 0.8)]


def test_a_price_that_is_given_anew_replaces_the_one_before(out: Path) -> None:
    store, sweep = finished_store(out)
    for price in (1.0, 2.0):
        store.remember_run(RunOptions(price_per_1000=price))
        tracker = Tracker(store=store, sweep=sweep)
        tracker.sync()
    prices = {run.info.run_name: run.data.tags["teacher_price"] for run in runs_of(tracker)}
    # A fold asks for 96 images and 13 texts.
    assert prices.pop("tracked") == prices.pop(GROUP) == "0.654"
    assert set(prices.values()) == {"0.218"}


def test_an_interrupted_projection_is_completed_without_doubles(out: Path) -> None:
    store, sweep = finished_store(out)
    tracker = Tracker(store=store, sweep=sweep)
    tracker.sync()
    whole = everything(tracker)
    client = MlflowClient(tracker.uri)
    for run in runs_of(tracker):
        client.delete_tag(run.info.run_id, "record_version")
        client.update_run(run.info.run_id, status="RUNNING")
    Tracker(store=store, sweep=sweep).sync()
    assert everything(tracker) == whole


def test_a_growing_sweep_is_followed(out: Path) -> None:
    sweep, store = small_sweep(), open_store(out)
    store.claim(sweep, [group()], {"icons": "manifest-of-icons"})
    tracker = Tracker(store=store, sweep=sweep)
    tracker.sync()
    assert [run.info.status for run in runs_of(tracker)] == ["RUNNING", "RUNNING"]
    first = write_fold(store, spec(sweep, seed=0, trainer="a"), accuracy=0.5, finished=START + 100)
    write_trial(store, 0, (first,))
    tracker.sync()
    assert len(by_kind(runs_of(tracker), "trial")) == 1
    second = write_fold(store, spec(sweep, seed=1, trainer="a"), accuracy=0.4, finished=START + 200)
    store.records.write_selected(SelectedTrial(group=GROUP, number=0, folds=(first, second)))
    tracker.sync()
    runs = runs_of(tracker)
    assert {run.info.status for run in runs} == {"FINISHED"}
    (top,) = by_kind(runs, "sweep")
    history = MlflowClient(tracker.uri).get_metric_history(top.info.run_id, "source_validation_accuracy")
    assert [(point.step, point.value) for point in history] == [(0, 0.5), (1, 0.5)]


def test_a_failed_fold_is_a_failed_run(out: Path) -> None:
    store, sweep = finished_store(out)
    wanted = spec(sweep, seed=0, trainer="c")
    folder = store.folds.fold(wanted.key)
    folder.path.mkdir(parents=True)
    folder.spec.write_text(json.dumps(wanted.to_mapping()))
    for ended in (1.0, 2.0):
        record_failure(folder, Failure(time=ended, kind="crash", error="it broke", details="Traceback"))
    give_up(folder)
    write_trial(store, 2, (PlannedFold(fold=wanted.fold, key=wanted.key),))
    assert store.folds.failures(wanted.key).failed
    tracker = Tracker(store=store, sweep=sweep)
    tracker.sync()
    (run,) = (run for run in runs_of(tracker) if run.data.tags["key"] == wanted.key)
    assert run.info.status == "FAILED"
    assert not run.data.metrics
    evaluation = {"kind": "evaluation", "stage": "distill", "step": 7, "accuracy": 0.25, "cross_entropy": 1.0}
    folder.append_journal([{**evaluation, "time": START}])
    tracker.sync()
    (run,) = (run for run in runs_of(tracker) if run.data.tags["key"] == wanted.key)
    assert run.data.metrics["distill/source_validation_accuracy"] == 0.25, "a retry came further, and failed too"


def test_a_sweep_in_which_every_fold_failed_is_over(out: Path) -> None:
    sweep, store = small_sweep(), open_store(out)
    store.claim(sweep, [group()], {"icons": "manifest-of-icons"})
    for number, trainer in enumerate("ab"):
        wanted = spec(sweep, seed=0, trainer=trainer)
        folder = store.folds.fold(wanted.key)
        write_json(folder.spec, wanted.to_mapping())
        record_failure(folder, Failure(time=START, kind="crash", error="it broke"))
        tracker = Tracker(store=store, sweep=sweep)
        tracker.sync()
        assert {run.info.status for run in runs_of(tracker)} == {"RUNNING"} | ({"FAILED"} if number else set())
        give_up(folder)
        write_trial(store, number, (PlannedFold(fold=wanted.fold, key=wanted.key),))
    tracker.sync()
    status = {run.data.tags["kind"]: run.info.status for run in runs_of(tracker)}
    assert status == {"sweep": "FINISHED", "group": "FINISHED", "trial": "FAILED"}


def test_artifacts_and_no_test_numbers(out: Path) -> None:
    store, sweep = finished_store(out)
    tracker = Tracker(store=store, sweep=sweep, documents={"plan.json": {"folds": 3}})
    tracker.sync()
    client = MlflowClient(tracker.uri)
    files = {
        run.info.run_name: {item.path for item in client.list_artifacts(run.info.run_id)} for run in runs_of(tracker)
    }
    wanted = {"plan.json", "config.json", "git.json", "environment.json", "data_manifests.json"}
    assert files["tracked"] == wanted
    assert files["t1.s1 vl2v_adip line"] == {"spec.json", "result.json", "student.safetensors"}
    assert not store.documents_folder.exists()
    assert "student.safetensors" not in files["t0.s0 vl2v_adip line"]
    logged = [path for path in (out / "mlartifacts").rglob("*") if path.is_file()]
    assert not any(b"0.123456" in path.read_bytes() for path in [*logged, out / "mlflow.db"])
    manifests = next(path for path in logged if path.name == "data_manifests.json")
    assert json.loads(manifests.read_text()) == {"icons": "manifest-of-icons"}


def test_secrets_stay_out(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_verysecretvalue")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "another-secret")
    store, _ = finished_store(out)
    sweep = Sweep(name="x hf_verysecretvalue", benchmarks=("icons",), methods=("erm",))
    documents = {"plan.json": {"teacher": "open_clip:A:https://me:pw1234@host/x", "token": "another-secret"}}
    tracker = Tracker(store=store, sweep=sweep, documents=documents)
    tracker.sync()
    files = [path for path in out.rglob("*") if path.is_file()]
    assert any(path.name == "plan.json" for path in files)
    for path in files:
        content = path.read_bytes()
        for secret in (b"hf_verysecretvalue", b"another-secret", b"pw1234"):
            assert secret not in content, path.name


def test_an_unreachable_server_is_one_line(out: Path) -> None:
    store, sweep = finished_store(out)
    tracker = Tracker(store=store, sweep=sweep, uri=f"http://me:pw1234@127.0.0.1:{free_port()}")
    with pytest.raises(TrackingAwayError, match="does not answer") as caught:
        tracker.preflight()
    assert "\n" not in str(caught.value)
    assert "pw1234" not in str(caught.value)


@pytest.mark.parametrize("uri", ["http://", "http://host:port", "http://me:pw1234@two words:1"])
def test_what_cannot_be_a_servers_address_is_told_from_a_server_that_is_away(out: Path, uri: str) -> None:
    store, sweep = finished_store(out)
    with pytest.raises(UserError, match="is no address of a tracking server") as caught:
        Tracker(store=store, sweep=sweep, uri=uri).preflight()
    assert not isinstance(caught.value, TrackingAwayError)
    assert "\n" not in str(caught.value)
    assert "pw1234" not in str(caught.value)


@pytest.mark.parametrize("uri", ["foo://x", "sqlite:////dev/null/x/mlflow.db", "postgresql://me:pw1234@127.0.0.1:1/x"])
def test_an_address_of_no_use_is_one_line(out: Path, uri: str) -> None:
    store, sweep = finished_store(out)
    with pytest.raises(UserError, match="cannot use tracking address") as caught:
        Tracker(store=store, sweep=sweep, uri=uri).preflight()
    assert "\n" not in str(caught.value)
    assert "pw1234" not in str(caught.value)


def test_the_environments_address_is_respected(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, sweep = finished_store(out)
    assert Tracker(store=store, sweep=sweep).uri == f"sqlite:///{out.resolve()}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere:5000")
    assert Tracker(store=store, sweep=sweep).uri == "http://elsewhere:5000"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "mlflow.db").write_bytes(migrated.read_bytes())
    uri, log = f"sqlite:///{folder / 'mlflow.db'}", folder / "server.log"
    with mlflow_server(uri, folder / "artifacts", port=free_port(), log=log) as base:
        yield base


@pytest.mark.slow
def test_a_real_server_gets_the_same_runs_once(out: Path, server: str) -> None:
    store, sweep = finished_store(out)
    tracker = Tracker(store=store, sweep=sweep, uri=server)
    tracker.preflight()
    tracker.sync()
    first = everything(tracker)
    assert len(first) == 5
    local = Tracker(store=store, sweep=sweep)
    local.sync()

    def named(content: dict[str, Any]) -> dict[str, Any]:
        return {info[0]: (params, points, files) for info, params, _, points, files in content.values()}

    assert named(everything(local)) == named(first)
    Tracker(store=store, sweep=sweep, uri=server).sync()
    assert everything(tracker) == first
    address = tracker.comparison_address(server)
    assert address.startswith(f"{server}/#/experiments/")
    assert f"tags.sweep%20%3D%20%27{tracker.sweep_tag}%27" in address


@pytest.mark.slow
def test_a_server_that_dies_costs_no_fold(out: Path, tmp_path: Path, migrated: Path) -> None:
    store, sweep = finished_store(out)
    database = tmp_path / "mlflow.db"
    database.write_bytes(migrated.read_bytes())
    with mlflow_server(f"sqlite:///{database}", tmp_path / "artifacts", port=free_port(), log=tmp_path / "log") as base:
        tracker = Tracker(store=store, sweep=sweep, uri=base)
        tracker.preflight()
    with pytest.raises(TrackingError):
        tracker.sync()


def test_a_domain_may_have_both_kinds_of_quotes_in_its_name(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.tracked_store.GROUP", "icons/vl2v_adip/12\" vinyl 'live'")
    store, sweep = finished_store(out)
    tracker = Tracker(store=store, sweep=sweep)
    assert tracker.sync() == 1 + 1 + 3
    assert Tracker(store=store, sweep=sweep).sync() == 0
    assert len(runs_of(tracker)) == 5


def test_a_record_that_is_refused_holds_up_no_other(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, sweep = finished_store(out)
    tracker, write, refused = Tracker(store=store, sweep=sweep), Tracker._write, list[str]()

    def refuse_one(self: Tracker, run: Run, record: Any) -> None:
        if record.kind == "trial" and record.key in refused + ([] if refused else [record.key]):
            refused[:] = [record.key]
            raise MlflowException("INVALID_PARAMETER_VALUE: no\nlong text")
        write(self, run, record)

    monkeypatch.setattr(Tracker, "_write", refuse_one)
    with pytest.raises(TrackingError, match=r"^1 runs were refused, the first of them trial t0.s0 .*INVALID_PARAM"):
        tracker.sync()
    whole = [run for run in runs_of(tracker) if run.data.tags.get("record_version")]
    assert sorted(run.data.tags["kind"] for run in whole) == ["group", "sweep", "trial", "trial"]
    monkeypatch.setattr(Tracker, "_write", write)
    assert tracker.sync() == 1


@pytest.mark.parametrize("name", ["feature%2Fx", "q?x", "a#b c"])
def test_a_folder_may_be_called_anything(tmp_path: Path, out: Path, name: str) -> None:
    folder = out.rename(tmp_path / name)
    store, sweep = finished_store(folder)
    tracker = Tracker(store=store, sweep=sweep)
    tracker.sync()
    assert Tracker(store=store, sweep=sweep).sync() == 0
    assert [item.name for item in tmp_path.iterdir()] == [name], "nothing was written beside it"
    assert len(list(folder.glob("mlartifacts/*/artifacts/spec.json"))) == 3


def test_a_damaged_database_of_the_folders_own_is_made_again(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, sweep = finished_store(out)
    store.tracking_database.write_bytes(b"\x07" * 100)
    assert Tracker(store=store, sweep=sweep).sync() == 5
    said = capsys.readouterr().err.splitlines()
    assert len([line for line in said if "file is not a database: it is made again" in line]) == 1
    assert Tracker(store=store, sweep=sweep).sync() == 0


def test_artifacts_that_were_deleted_are_written_again(out: Path) -> None:
    store, sweep = finished_store(out)
    Tracker(store=store, sweep=sweep).sync()
    before = sorted(file.name for file in store.tracking_artifacts.rglob("*.*") if file.is_file())
    shutil.rmtree(store.tracking_artifacts)
    assert Tracker(store=store, sweep=sweep).sync() == 5
    assert sorted(file.name for file in store.tracking_artifacts.rglob("*.*") if file.is_file()) == before


def test_a_local_database_that_cannot_be_opened_fails_at_once(out: Path) -> None:
    store, sweep = finished_store(out)
    store.tracking_database.unlink()
    store.tracking_database.mkdir()
    began = time.monotonic()
    with pytest.raises(UserError, match="unable to open database file"):
        Tracker(store=store, sweep=sweep).preflight()
    assert time.monotonic() - began < 30.0
