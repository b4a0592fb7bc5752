"""`sync`: MLflow filled from the folder, and one line where the server cannot be reached."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.cli import run
from tests.orchestrator.test_agenda import Bench


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
