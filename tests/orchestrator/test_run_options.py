"""Run options: refused where they are nonsense, and read back from run.json, also from that of an earlier version."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.run_options import Limits, RunOptions, WorkerFunctions
from orchestrator.store.sweep_folder import open_store
from search_spaces.benchmarks import BENCHMARKS
from search_spaces.errors import UserError
from search_spaces.hyperparameters import Resources

OPTIONS = RunOptions(
    benchmarks={"PACS": BENCHMARKS["PACS"]},
    data_root="/data",
    resources=Resources(workers=2, gpus_per_worker=0.5),
    executor="train",
    address="10.0.0.1:6379",
    max_concurrent=3,
    query_budget=1_000,
    limits=Limits(money=7.5, price_per_gpu_hour=2.0),
    max_failures=4,
)
KEYS = {
    *("address", "benchmarks", "data_root", "executor", "limits", "max_concurrent", "max_failures", "query_budget"),
    "resources",
}
"""What run.json has had since before `RunOptions`."""


def test_run_json_keeps_its_keys_and_is_read_back(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    of_one_command: dict[str, Any] = {
        "price_per_1000": 1.5, "retry_failed": True, "only_failed": True, "functions": WorkerFunctions(run_job="a:b")
    }  # fmt: skip
    store.remember_run(replace(OPTIONS, **of_one_command))
    content = json.loads((tmp_path / "run.json").read_text())
    assert set(content) >= KEYS
    assert not set(content) & set(of_one_command)
    assert sorted(content["limits"]) == ["gpu_hours", "money", "price_per_gpu_hour", "seconds_per_fold", "wall_hours"]
    assert store.last_run() == OPTIONS


def test_an_older_run_json_has_the_defaults_of_what_it_lacks(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.remember_run(OPTIONS)
    content = json.loads((tmp_path / "run.json").read_text())
    del content["limits"], content["max_failures"], content["resources"]["teacher_patience_s"]
    (tmp_path / "run.json").write_text(json.dumps(content))
    assert store.last_run() == replace(OPTIONS, limits=Limits(), max_failures=1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pace": 3}, "unknown key 'pace'"),
        ({"executor": "carrier"}, "unknown value for executor 'carrier'"),
        ({"max_concurrent": 0}, "--max-concurrent is 1 or more, got 0"),
        ({"limits": {"miles": 1}}, "unknown key 'limits.miles'"),
        ({"resources": {"workers": 0}}, "workers is 1 or more, got 0"),
    ],
)
def test_a_run_json_of_a_later_version_is_one_line(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    store = open_store(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps(OPTIONS.to_mapping() | change))
    with pytest.raises(UserError, match=f"run.json was written by another version .*{said}.*; run the sweep again$"):
        store.last_run()


MISTAKES: tuple[tuple[dict[str, Any], str], ...] = (
    ({"executor": "tun"}, "unknown value for --executor 'tun'; nearest: tune"),
    ({"max_concurrent": 0}, "--max-concurrent is 1 or more, got 0"),
    ({"query_budget": -1}, "--query-budget is 0 or more, got -1"),
    ({"price_per_1000": -0.5}, "--price-per-1000 is a number, 0 or more, got -0.5"),
    ({"price_per_1000": float("inf")}, "--price-per-1000 is a number, 0 or more, got inf"),
    ({"max_failures": -1}, "--max-failures is 0 or more, got -1"),
)


@pytest.mark.parametrize(("values", "said"), MISTAKES)
def test_nonsense_is_refused_when_it_is_said(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=f"^{said}"):
        RunOptions(**values)


def test_a_budget_that_limits_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="--gpu-hours-budget: folds reserve no GPU here"):
        RunOptions(limits=Limits(gpu_hours=1.0)).check()
    RunOptions(limits=Limits(gpu_hours=1.0), resources=Resources(gpus_per_worker=0.5)).check()
    with pytest.raises(UserError, match="--money-budget needs a price"):
        RunOptions(limits=Limits(money=1.0)).check()
    RunOptions(limits=Limits(money=1.0), price_per_1000=0.0).check()


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        (RunOptions(), False),
        (RunOptions(query_budget=0), True),
        (RunOptions(limits=Limits(money=1.0)), False),
        (RunOptions(price_per_1000=1.0), False),
        (RunOptions(limits=Limits(money=1.0), price_per_1000=0.0), True),
    ],
)
def test_queries_are_counted_where_a_budget_depends_on_them(options: RunOptions, counts: bool) -> None:
    assert options.counts_queries is counts
