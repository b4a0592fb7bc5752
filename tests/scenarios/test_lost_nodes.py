"""A machine that is lost is told from a worker process that died: two real nodes, one raylet or one worker killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.store.failures import FailureHistory
from orchestrator.store.sweep_folder import open_store
from tests.chaos.nodes import TwoNodes
from tests.support.real_folds import FIELDS, environment
from tests.support.stub_worker import starts
from trainables.storage.json_files import write_json

WAIT_S = 240.0


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[TwoNodes]:
    cluster = TwoNodes(environment(), tmp_path / "cluster.log")
    try:
        yield cluster
    finally:
        cluster.end()
        assert cluster.process.stdout is not None
        cluster.process.stdout.close()


def sweep(out: Path, address: str, *, max_failures: int) -> subprocess.Popen[bytes]:
    """The stub sweep on the cluster, with folds that take a while."""
    out.mkdir()
    write_json(out / "BEHAVIOUR", {"pause": 3})
    arguments = {"address": address, "max_failures": max_failures}
    with (out.parent / f"{out.name}.log").open("ab") as log:
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.support.stub_sweep",
                str(out),
                json.dumps(FIELDS),
                json.dumps(arguments),
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment(),
        )


def wait_for_starts(out: Path, count: int, process: subprocess.Popen[bytes]) -> list[dict[str, Any]]:
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until and process.poll() is None:
        if len(starts(out)) >= count:
            return starts(out)
        time.sleep(0.1)
    raise AssertionError(f"{count} folds did not start: {(out.parent / f'{out.name}.log').read_text()[-3000:]}")


def attempts(out: Path) -> list[FailureHistory]:
    """Of the folds in which something went wrong."""
    store = open_store(out)
    keys = {planned.key for group in store.groups() for planned in store.records.planned_folds(group.name)}
    return [found for found in map(store.folds.failures, keys) if found.attempts]


@pytest.mark.slow
def test_a_lost_machine_is_no_failure_and_a_worker_that_dies_alone_is_one(tmp_path: Path, nodes: TwoNodes) -> None:
    lost = sweep(tmp_path / "lost", nodes.address, max_failures=0)
    wait_for_starts(tmp_path / "lost", 2, lost)
    os.kill(nodes.raylet, signal.SIGKILL)
    nodes.replace()
    assert lost.wait(timeout=WAIT_S) == 0, (tmp_path / "lost.log").read_text()[-3000:]
    (fold,) = attempts(tmp_path / "lost")
    assert [failure.kind for failure in fold.attempts] == ["lost_node"]
    assert (fold.spent, fold.failed) == (0, False)
    assert "unavailable" in fold.attempts[0].details or "node has died" in fold.attempts[0].details

    died = sweep(tmp_path / "died", nodes.address, max_failures=0)
    first = wait_for_starts(tmp_path / "died", 1, died)[0]
    os.kill(int(first["process"]), signal.SIGKILL)
    assert died.wait(timeout=WAIT_S) == 3, (tmp_path / "died.log").read_text()[-3000:]
    (fold,) = attempts(tmp_path / "died")
    assert [failure.kind for failure in fold.attempts] == ["lost"]
    assert (fold.spent, fold.failed) == (1, True)
    assert "worker process has died" in fold.attempts[0].details
