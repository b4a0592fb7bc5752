"""A fold that runs out of memory is tried once more, its batches in smaller pieces, and says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.events import ProgressEvent
from orchestrator.execution.one_fold import train_one
from orchestrator.run_options import RunOptions
from orchestrator.store.sweep_folder import open_store
from tests.support.nested_folds import one_fold
from tests.support.real_folds import FIELDS, environment
from tests.support.stub_sweep import STUB
from tests.support.stub_worker import starts
from trainables.storage.json_files import write_json

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def test_a_sweep_goes_on_with_half_the_batch_at_a_time(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    write_json(out / "BEHAVIOUR", {"memory": "line"})
    arguments = json.dumps({"max_failures": 0})
    command = [sys.executable, "-m", "tests.support.stub_sweep", str(out), json.dumps(FIELDS), arguments]
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    store, pieces = open_store(out), {}
    for group in store.groups():
        for planned in store.records.planned_folds(group.name):
            pieces[planned.fold.test_domain] = (store.folds.fold(planned.key).read_result() or {})["batch_pieces"]
            tried = store.folds.failures(planned.key)
            if planned.fold.test_domain == "line":
                assert [attempt.kind for attempt in tried.attempts] == ["out_of_memory"]
                assert (tried.spent, tried.doublings, tried.failed) == (0, 1, False)
    assert pieces == {"clipart": 1, "flat": 1, "line": 2, "render3d": 1}
    processes = [start["process"] for start in starts(out) if "line" in start["fold"]]
    assert len(set(processes)) == 2, "the process that ran out of memory is not used again"


def test_so_does_a_fold_by_itself(tmp_path: Path) -> None:
    job, told = one_fold(tmp_path), list[ProgressEvent]()
    write_json(tmp_path / "BEHAVIOUR", {"memory": "line"})
    options = RunOptions(executor="tune", address="local", functions=STUB, max_failures=0)
    result = train_one(job, options, told.append)
    assert result.batch_pieces == 2
    errors = [event.fold.error for event in told if event.kind == "fold_retried" and event.fold is not None]
    assert errors == ["MemoryError: no room for the whole batch"]
