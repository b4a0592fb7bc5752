"""A nested fold whose driver is killed with -9: what its workers held is given back, and the sweep goes on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.execution.cluster import Cluster, connect
from orchestrator.store.failures import read_failures
from tests.chaos.hunt import BUSY_DRIVER
from tests.chaos.processes import descendants
from tests.support.held_resources import held
from tests.support.stub_sweep import command
from tests.support.stub_worker import starts
from tests.support.waiting import eventually
from trainables.storage.fold_folder import FoldFolder
from trainables.storage.json_files import write_json

# Ray warns of its own settings when a trainer is built in this process.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

WORKERS = 2
START_S = 240.0
SWEEP = {"trials": 1, "seeds": 1, "space": "paper"}
"""Four folds, one at a time; the first is enough."""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A Ray without a dashboard that outlives the sweep, with room for one fold."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with connect(address="local", cpus=WORKERS) as running:
        yield running


@pytest.mark.timeout(900)
def test_the_next_attempt_finds_the_workers_of_a_killed_driver_gone(tmp_path: Path, cluster: Cluster) -> None:
    out, log = tmp_path / "out", tmp_path / "out.log"
    out.mkdir()
    write_json(out / "BEHAVIOUR", {"pause": 3})
    sweep = command(
        out, SWEEP, address=cluster.address, executor="train", resources={"workers": WORKERS}, max_failures=5
    )
    assert eventually(lambda: len(starts(out)) == 1, START_S), log.read_text()[-3000:]
    time.sleep(1.0)
    (driver,) = (process for process in descendants() if process.title.startswith(BUSY_DRIVER))
    os.kill(driver.number, signal.SIGKILL)
    write_json(out / "BEHAVIOUR", {})
    assert eventually(lambda: len(list(out.glob("folds/*/result.json"))) == 1, START_S), log.read_text()[-3000:]
    sweep.send_signal(signal.SIGINT)
    assert sweep.wait(START_S) == 130, log.read_text()[-3000:]
    assert starts(out)[0]["key"] == starts(out)[1]["key"]
    (folder,) = (path.parent for path in out.glob("folds/*/result.json"))
    assert [failure.kind for failure in read_failures(FoldFolder(folder)).attempts] == ["lost"]
    assert eventually(lambda: not held(), 60.0), held()
