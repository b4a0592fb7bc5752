"""One fold again beside its stored result; and the failed folds of a sweep, and these alone."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.cli import run
from orchestrator.inspection.fold_names import known_folds
from orchestrator.store.sweep_folder import open_store
from orchestrator.train import prepare_fold
from search_spaces.folds import Fold
from search_spaces.hyperparameters import Hyperparameters, StageHyperparameters
from tests.support.bench import CRASH, Bench
from tests.support.stub_sweep import STUB, run_stub, stub_sweep
from tests.support.stub_worker import starts
from tests.support.whole_folds import restate
from trainables.storage.fold_folder import FoldFolder
from trainables.storage.json_files import write_json

FEW = StageHyperparameters(num_steps=4, lr=1e-3)
NAME = "icons/line/seed0"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one small trained fold."""
    from trainables.worker import run_job

    out = tmp_path_factory.mktemp("trained")
    hyperparameters = Hyperparameters(
        align=FEW, distill=FEW, student="small", teacher="demo", batch_size_per_domain=4, evaluate_every=2
    )
    fold = Fold(benchmark="icons", test_domains=("line",), seed=0)
    job = prepare_fold(fold, method="vl2v_adip", hyperparameters=hyperparameters, store=open_store(out))
    run_job(job.to_mapping())
    return out


@pytest.mark.slow
def test_a_rerun_is_bit_identical_and_metered(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = list((trained / "queries").glob("*.jsonl"))
    assert run(["rerun", NAME, "--out", str(trained), "--local", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["weights"], said["metrics"], said["agrees"]) == ("identical", "identical", True)
    folder = FoldFolder(said["folder"])
    assert folder.path.parent.parent == trained / "reruns"
    assert (
        folder.student.read_bytes()
        == known_folds(open_store(trained)).store.folds.fold(said["result"]["key"]).student.read_bytes()
    )
    assert len(list((trained / "queries").glob("*.jsonl"))) > len(asked), "the second run's queries are in the ledger"
    assert not (trained / "reruns" / "queries").exists()


@pytest.mark.slow
def test_a_difference_is_named_and_has_an_exit_code(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(trained, out)
    (fold,) = known_folds(open_store(out)).folds
    journal = open_store(out).folds.fold(fold.key).journal
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    changed = next(line for line in lines if (line["kind"], line["stage"], line["step"]) == ("step", "distill", 1))
    changed["loss"] += 1e-6
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    student = open_store(out).folds.fold(fold.key).student
    student.write_bytes(student.read_bytes()[:-1] + b"\x01")
    restate(open_store(out).folds.fold(fold.key))
    assert run(["rerun", NAME, "--out", str(out), "--local", "--into", str(tmp_path / "again")]) == 3
    said = capsys.readouterr().out
    assert "weights: different; losses, evaluations and result: different" in said
    assert "first difference: step distill 1: stored" in said


@pytest.mark.slow
def test_a_rerun_asks_nothing_beyond_the_budget(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(path.read_text() for path in (trained / "queries").glob("*.jsonl"))
    assert run(["rerun", NAME, "--out", str(trained), "--local", "--query-budget", "5"]) == 4
    assert "query budget of 5" in capsys.readouterr().err
    assert sorted(path.read_text() for path in (trained / "queries").glob("*.jsonl")) == before


def test_a_rerun_needs_a_new_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench(tmp_path / "out")
    bench.run_all(most=1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    arguments = ["--out", str(tmp_path / "out"), "--local", "--into", str(tmp_path / "full")]
    assert run(["rerun", "icons/clipart/seed0", *arguments]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_retry_without_failed_folds_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["retry", "--out", str(tmp_path)]) == 2
    Bench(tmp_path)
    assert run(["retry", "--out", str(tmp_path)]) == 0
    assert "no fold of the sweep" in capsys.readouterr().out


def test_an_agenda_of_failed_folds_hands_out_nothing_else(tmp_path: Path) -> None:
    first = Bench(tmp_path)
    first.run_all(most=2)
    failing = first.queue.next()
    assert failing is not None
    while first.queue.failed(failing, CRASH):
        pass
    first.die()
    again = Bench(tmp_path, retry_failed=True, only={failing.planned.key})
    assert not again.queue.is_finished
    (attempt,) = again.run_all()
    assert attempt.planned == failing.planned
    assert sum(len(again.store.records.trials(group.name)) for group in again.groups) == 3, "a new trial was begun"


@pytest.mark.slow
def test_retry_runs_the_failed_folds_alone_as_the_sweep_ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    write_json(out / "BEHAVIOUR", {"crash": "flat/seed0"})
    outcome, _ = run_stub(out, stub_sweep(trials=1, seeds=1, space="paper"), max_concurrent=1)
    assert outcome.exit_code == 3
    write_json(out / "BEHAVIOUR", {})
    before = Counter(start["fold"] for start in starts(out))
    # The stub stands in for training alone: the command, Ray and MLflow are the real ones.
    ran = replace(open_store(out).last_run(), functions=STUB)
    monkeypatch.setattr("orchestrator.store.sweep_folder.SweepFolder.last_run", lambda store: ran)
    assert run(["retry", "--out", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["retried"], said["failures"]) == (1, [])
    assert "4 done, 0 running, 0 waiting" in said["line"]
    assert Counter(start["fold"] for start in starts(out)) - before == {"icons/flat/seed0": 1}
    assert json.loads((out / "run.json").read_text())["max_concurrent"] == 1
