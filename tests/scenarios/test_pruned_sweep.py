"""Folds that are stopped early in real Ray Tune: what they held is free again, and the rest of the sweep goes on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from orchestrator.report.pruning_audit import audit
from orchestrator.search.pruning import read_decisions
from orchestrator.store.sweep_folder import open_store
from search_spaces.hyperparameters import Resources
from tests.support.stub_sweep import run_stub, stub_sweep
from tests.support.stub_worker import starts

# Ray warns of its own settings when a trainer is built in this process.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

SHORT = {"distill": {"num_steps": 2}, "evaluate_every": 1}
"""The stub evaluates at steps 0 to 2."""


def no_ray(*arguments: Any, **options: Any) -> Any:
    raise AssertionError("Ray was started")


@pytest.mark.parametrize(
    ("fields", "workers"),
    [
        ({"pruner": "median", "trials": 8, "seeds": 1}, 1),
        # A placement group that was not given back would leave no CPUs for the next fold.
        ({"pruner": "asha", "trials": 4, "seeds": 1, "scope": "benchmark"}, 2),
    ],
    ids=["in reused actors", "in nested trainers"],
)
def test_stopped_folds_leave_room_for_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], workers: int
) -> None:
    sweep = stub_sweep(hyperparameters=SHORT, audit_share=0.0, **fields)
    outcome, events = run_stub(tmp_path, sweep, resources=Resources(workers=workers))
    assert outcome.exit_code == 0
    assert outcome.counts.waiting == outcome.counts.running == outcome.counts.failed == 0
    store = open_store(tmp_path)
    pruned = [one for group in store.groups() for one in read_decisions(store, group.name) if one.verdict == "prune"]
    # The workers of a nested trainer run on until it is ended, and a stub may come to its result before that.
    given_up = {key for one in pruned for key in one.folds if not store.folds.fold(key).is_done}
    assert len(given_up) == outcome.counts.pruned > 0
    told = {event.fold.key: event.fold for event in events if event.kind == "fold_pruned" and event.fold}
    stopped = {one.key for one in pruned if one.rule != "overtake"}
    assert given_up & stopped <= told.keys() <= stopped
    assert all("below" in fold.error for fold in told.values())
    assert set(Counter(start["key"] for start in starts(tmp_path)).values()) == {1}
    assert not list(tmp_path.rglob("running.json"))
    assert not list(tmp_path.rglob("error.json"))
    assert not list(tmp_path.rglob("lease.json"))
    assert audit(store).trials_pruned == len(pruned)
    monkeypatch.setattr("orchestrator.sweep.open_back_end", no_ray)
    again, _ = run_stub(tmp_path, sweep, resources=Resources(workers=workers))
    assert again.counts == outcome.counts
