"""The command line from end to end: real images, real Ray, real Optuna, a real MLflow store, real processes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from trainables.data.formats.sample import write_sample
from trainables.storage.fold_folder import FoldFolder

TINY = (
    "student=test_byobnet",
    "student_weights=random",
    "teacher=open_clip:vl2v-tiny:random:0",
    "image_size=32",
    "batch_size_per_domain=4",
    "evaluate_every=5",
    "align.num_steps=11",
    "distill.num_steps=11",
)


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_sample(root, images_per_class=6, benchmarks=("VLCS",))
    return root


def _command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("vl2v-orchestrate"), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def _train(data_root: Path, out: Path, *arguments: str) -> FoldFolder:
    fold = ("--benchmark", "VLCS", "--test-domain", "SUN09", "--data-root", data_root)
    done = _command("train", *fold, "--out", out, *arguments, *TINY)
    assert done.returncode == 0, done.stderr
    (folder,) = (out / "folds").iterdir()
    return FoldFolder(folder)


def _steps(folder: FoldFolder) -> list[dict[str, Any]]:
    return [line for line in folder.read_journal() if line["kind"] == "step"]


def _losses(steps: Sequence[dict[str, Any]]) -> list[float]:
    return [step["loss"] for step in steps]


@pytest.mark.slow
def test_workers_and_executors_make_the_same_fold(data_root: Path, tmp_path: Path) -> None:
    one = _train(data_root, tmp_path / "one", "--workers", "1")
    again = _train(data_root, tmp_path / "again", "--workers", "1", "--executor", "tune")
    weights, others = load_file(one.student), load_file(again.student)
    assert all(torch.equal(weight, others[name]) for name, weight in weights.items())
    assert _steps(one) == _steps(again)

    two = _train(data_root, tmp_path / "two", "--workers", "2")
    assert [step["images"] for step in _steps(two)] == [step["images"] for step in _steps(one)]
    assert _losses(_steps(two)[:20]) == pytest.approx(_losses(_steps(one)[:20]), abs=1e-4)
    accuracies = [folder.read_test() for folder in (one, two)]
    assert accuracies[0] is not None
    assert accuracies[1] is not None
    images = accuracies[0]["num_images"]["SUN09"]
    assert abs(accuracies[0]["accuracy"]["SUN09"] - accuracies[1]["accuracy"]["SUN09"]) * images <= 2
    assert two.read_result()["teacher_queries"] == one.read_result()["teacher_queries"]  # type: ignore[index]


def test_a_sweep_ends_in_a_report_and_is_not_run_twice(data_root: Path, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    out = tmp_path / "out"
    sweep = (
        "sweep", "--benchmark", "VLCS", "--data-root", data_root, "--method", "vl2v_adip,erm", "--space", "demo",
        "--trials", "2", "--seeds", "2", "--out", out, "-y", *TINY,
    )  # fmt: skip
    first = _command(*sweep)
    assert first.returncode == 0, first.stderr
    report = json.loads((out / "report" / "report.json").read_text())
    assert "VLCS" in json.dumps(report)
    assert "vl2v_adip" in first.stdout
    assert "X" not in [cell.strip() for line in first.stdout.splitlines() for cell in line.split("|")]

    client = MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, max_results=1000)
    folds = [run for run in runs if run.data.tags.get("kind") == "trial"]
    done = list((out / "folds").glob("*/result.json"))
    assert {run.data.tags["key"] for run in folds} == {path.parent.name for path in done}
    assert len(folds) == len(done) == 4 * 2 * 3 + 4 * 2
    assert all(run.info.status == "FINISHED" for run in folds)
    assert not any("test" in name and "SUN09" in name for run in folds for name in run.data.metrics)

    second = _command(*sweep)
    assert second.returncode == 0, second.stderr
    # The plan's forecast of hours stands above the report, and is better once folds were measured.
    assert "# Report" in first.stdout
    assert second.stdout.partition("# Report")[2] == first.stdout.partition("# Report")[2]
    assert len(client.search_runs(experiments, max_results=1000)) == len(runs)
    assert "distill step" not in second.stderr


@pytest.mark.slow
def test_bad_input_ends_in_one_line_and_trains_nothing(data_root: Path, tmp_path: Path) -> None:
    for arguments, words in (
        (("--benchmark", "VLSC"), "VLCS"),
        (("--benchmark", "VLCS", "--method", "vl2v_adp"), "vl2v_adip"),
        (("--benchmark", "VLCS", "algin.lr=1e-4"), "align"),
        (("--benchmark", "PACS"), "PACS"),
        (("--benchmark", "VLCS", "--workers", "64"), "64"),
    ):
        out = tmp_path / "bad"
        done = _command("sweep", "--data-root", data_root, "--out", out, "-y", *arguments, *TINY)
        assert done.returncode == 2, (arguments, done.stderr)
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, done.stderr
        assert words in errors[0]
        assert "Traceback" not in done.stderr
        assert not list(out.glob("folds/*/journal.jsonl"))
