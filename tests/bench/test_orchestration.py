"""The store that the benchmark writes is one that every command takes for a finished sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.inspection.status import sweep_status
from orchestrator.report.report import build_report
from orchestrator.run_options import RunOptions
from orchestrator.store.sweep_folder import open_store
from orchestrator.sweep import run_sweep
from tests.bench.orchestration import build_store, scale_sweep
from trainables.data.formats.sample import write_sample


def test_a_written_sweep_is_a_finished_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_ray(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("orchestrator.sweep.open_back_end", no_ray)
    write_sample(tmp_path / "data", benchmarks=["PACS"], images_per_class=1)
    sweep, store = scale_sweep(3, ["PACS"]), open_store(tmp_path / "out")
    number = build_store(sweep, store, tmp_path / "data")
    assert number == 4 * (2 * (3 + 2) + 3)
    assert sweep_status(store).counts.done == number
    assert not build_report(store).tables[0].notes[1:], "folds are missing"
    outcome = run_sweep(sweep, store, RunOptions(data_root=str(tmp_path / "data"), address="local"))
    assert (outcome.counts.done, outcome.exit_code) == (number, 0)
