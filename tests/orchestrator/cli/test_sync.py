"""`sync`: MLflow filled from the folder, and one line where the server cannot be reached."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import pytest

from orchestrator.cli import run
from orchestrator.events import Counts, no_progress
from orchestrator.sweep import SweepOutcome
from tests.support.bench import Bench


@pytest.mark.slow
def test_sync_says_how_many_runs_it_wrote_and_writes_none_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    Bench(tmp_path).run_all(most=3)
    assert run(["sync", "--out", str(tmp_path), "--json"]) == 0
    # The sweep, its four fold groups and three folds.
    assert json.loads(capsys.readouterr().out)["runs_written"] == 8
    assert run(["sync", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("0 runs written to sqlite:///")


def test_sync_without_a_sweep_or_a_server_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["sync", "--out", str(tmp_path)]) == 2
    assert "no sweep in" in capsys.readouterr().err
    Bench(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert run(["sync", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "tracking server http://127.0.0.1:9 does not answer" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "behind", "said"),
    [
        ([], "", "compare the runs in MLflow:  vl2v-orchestrate ui --out"),
        ([], "503", "MLflow is behind (503); once it is back:  vl2v-orchestrate sync --out"),
        (["--tracking", "later"], "", "MLflow was left for later:  vl2v-orchestrate sync --out"),
    ],
)
def test_the_last_line_of_a_sweep_names_sync_where_mlflow_lacks_something(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    behind: str,
    said: str,
) -> None:
    outcome = SweepOutcome(counts=Counts(), failures=(), interrupted=False, tracking_behind=behind, seconds=1.0)
    monkeypatch.setattr("orchestrator.cli.progress.progress_for", lambda *_, **__: nullcontext(no_progress))
    monkeypatch.setattr("orchestrator.sweep.run_sweep", lambda *_, **__: outcome)
    monkeypatch.setattr("orchestrator.cli.commands.run.show_report", lambda *_, **__: None)
    assert run(["sweep", "--benchmark", "icons", "--out", str(tmp_path), "-y", *arguments]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "MLflow" in line]
    assert lines == [f"{said} {tmp_path}"]
