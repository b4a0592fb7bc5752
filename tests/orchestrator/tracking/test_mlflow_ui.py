"""`ui` against a real MLflow server on loopback: it announces an address that answers, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from orchestrator.cli import run
from orchestrator.tracking.mlflow_ui import HOST, free_port, mlflow_server
from search_spaces.errors import UserError
from tests.support.repository import REPOSITORY
from tests.support.tracked_store import finished_store


def refuses(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((HOST, port)) != 0


def test_a_folder_without_a_sweep_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ui", "--out", str(tmp_path)]) == 2
    assert "holds no sweep" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(UserError, match=f"port {port} .* is taken"),
            mlflow_server("sqlite://", tmp_path, port=port, log=tmp_path / "log"),
        ):
            pass


def test_a_server_that_cannot_start_names_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    port = free_port()
    with (
        pytest.raises(UserError, match="ended at once") as caught,
        mlflow_server("nonsense://x", tmp_path, port=port, log=log),
    ):
        pass
    assert str(log) in str(caught.value)
    assert refuses(port)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_the_comparison_and_ends_with_its_child(tmp_path: Path, number: signal.Signals) -> None:
    store, _ = finished_store(tmp_path / "out")
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    command = [sys.executable, "-c", "from orchestrator.cli import main; main()"]
    process = subprocess.Popen(
        [*command, "ui", "--out", str(store.out), "--port", str(port)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    address = next(line.strip() for line in process.stdout if "compareRunsMode=CHART" in line)
    base, _, page = address.partition("/#/")
    assert base == f"http://{HOST}:{port}"
    experiment = page.split("/")[1]
    with urllib.request.urlopen(base, timeout=30) as answer:
        assert b"MLflow" in answer.read()
    query = json.dumps({"experiment_ids": [experiment], "filter": "tags.kind = 'trial'"}).encode()
    request = urllib.request.Request(f"{base}/api/2.0/mlflow/runs/search", query, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert len(json.load(answer)["runs"]) == 3
    process.send_signal(number)
    assert process.wait(timeout=60) == 0
    process.stdout.close()
    assert refuses(port)
