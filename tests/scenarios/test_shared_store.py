"""Sweeps side by side on one store, as real processes through real Ray: every fold and every Align stage once."""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from orchestrator.report.report import build_report
from orchestrator.store.sweep_folder import open_store
from tests.support.stub_sweep import command
from tests.support.stub_worker import starts
from trainables.storage.json_files import write_json

FIELDS: dict[str, Any] = {"methods": ["vl2v_adip"], "space": "demo", "trials": 2, "seeds": 2}
ARGUMENTS: dict[str, Any] = {"max_concurrent": 1, "address": "local"}


def wait_for(condition: Callable[[], bool], *processes: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 240
    while not condition():
        assert all(process.poll() is None for process in processes), "a command ended early"
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.05)


def decisions(out: Path) -> dict[str, Any]:
    store = open_store(out)
    return {
        group.name: (
            [trial.point for trial in store.records.trials(group.name)],
            store.records.selected(group.name),
        )
        for group in store.groups()
    }


def tables(out: Path) -> Any:
    return asdict(build_report(open_store(out)))["tables"]


@pytest.mark.slow
def test_two_sweeps_on_one_store_one_of_them_killed(tmp_path: Path) -> None:
    shared, outs = tmp_path / "store", [tmp_path / "first", tmp_path / "second"]
    write_json(shared / "BEHAVIOUR", {"pause": 0.3})
    first, second = (command(out, FIELDS, shared=shared, **ARGUMENTS) for out in outs)
    wait_for(lambda: len(list(shared.glob("folds/*/result.json"))) >= 3, first, second)
    wait_for(lambda: len({start["process"] for start in starts(shared)}) == 2, first, second)
    # In the middle of a fold of its own, which the other one then takes over.
    wait_for(lambda: _holds(shared, first.pid), first, second)
    (held,) = (path.parent.name for path in shared.glob("folds/*/lease.json") if _owner(path) == first.pid)
    first.kill()
    first.wait()
    assert second.wait(timeout=240) == 0, outs[1].with_name("second.log").read_text()
    again = command(outs[0], FIELDS, shared=shared, **ARGUMENTS)
    assert again.wait(timeout=240) == 0, outs[0].with_name("first.log").read_text()
    counted = Counter(start["key"] for start in starts(shared))
    results = {path.parent.name for path in shared.glob("folds/*/result.json")}
    planned = {
        fold.key
        for out in outs
        for group in open_store(out).groups()
        for fold in open_store(out).records.planned_folds(group.name)
    }
    assert set(counted) == results == planned
    assert {key for key, number in counted.items() if number > 1} <= {held}
    assert decisions(outs[0]) == decisions(outs[1])
    assert tables(outs[0]) == tables(outs[1])
    assert set(Counter(start["key"] for start in starts(shared, "ALIGNS")).values()) <= {1, 2}
    left = [path for name in ("lease.json", "running.json", ".lease*") for path in tmp_path.rglob(name)]
    assert not left


def _owner(path: Path) -> int:
    try:
        return int(json.loads(path.read_text())["process"])
    except (FileNotFoundError, ValueError):
        return -1


def _holds(shared: Path, process: int) -> bool:
    return any(_owner(path) == process for path in shared.glob("folds/*/lease.json"))
