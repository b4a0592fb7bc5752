"""DomainBed's golden records written into a store as a sweep leaves them: the report's cells are DomainBed's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.report.cells import Cell, average
from orchestrator.report.measurements import Selection
from orchestrator.report.report import build_report
from orchestrator.search.selection import mean
from orchestrator.store.records import TrialRecord
from search_spaces.benchmarks import BENCHMARKS
from tests.support.golden import golden_json, golden_lines
from tests.support.written_folds import Written, written_sweep
from trainables.fitting.evaluation import replaces_best
from trainables.storage.json_files import write_json

DOMAINS = BENCHMARKS["VLCS"].domain_names


def written(out: Path, algorithm: str, trial_seed: int) -> Written:
    """A sweep over one algorithm and trial seed: hparams seeds are trials; pair records are left out.

    The row is called `erm` whatever was trained: a report does not ask.
    """
    runs: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for record in golden_lines("records_A_pairs.jsonl.gz"):
        settings = record["args"]
        if (settings["algorithm"], settings["trial_seed"], len(settings["test_envs"])) == (algorithm, trial_seed, 1):
            runs.setdefault((settings["test_envs"][0], settings["hparams_seed"]), []).append(record)
    trials = len({number for _, number in runs})
    fields = {"methods": ("erm",), "zero_shot": False, "space": "official", "trials": trials, "seeds": 1}
    made = Written(out, written_sweep(benchmarks=("VLCS",), **fields))
    for (test, number), records in runs.items():
        domain = DOMAINS[test]
        group = f"VLCS/erm/{domain}"
        best, last = chosen_step(records, test), max(records, key=lambda record: record["step"])
        last_step = {
            "accuracy": {domain: last[f"env{test}_in_acc"]},
            "out_accuracy": {domain: last[f"env{test}_out_acc"]},
        }
        planned = made.finish(group, domain, 0, best[f"env{test}_in_acc"], trial=number, last_step=last_step)
        folder = made.store.folds.fold(planned.key)
        result = folder.read_result() or {}
        write_json(folder.result, result | {"source_validation": {"accuracy": validation(best, test)}})
        made.store.records.write_trial(
            TrialRecord(group=group, number=number, point={}, folds=(planned,), source="sampler", created=0.0)
        )
    return made


def chosen_step(records: Sequence[dict[str, Any]], test: int) -> dict[str, Any]:
    """The evaluation that the training loop keeps."""
    best, chosen = -math.inf, records[0]
    for record in records:
        if replaces_best(validation(record, test), best, later_ties=False):
            best, chosen = validation(record, test), record
    return chosen


def validation(record: dict[str, Any], test: int) -> float:
    return mean([record[f"env{domain}_out_acc"] for domain in range(len(DOMAINS)) if domain != test])


@pytest.mark.parametrize("algorithm", ["ERM", "CORAL"])
@pytest.mark.parametrize(("selection", "key"), [("source_validation", "iid"), ("oracle", "oracle")])
def test_the_reports_cells_are_domainbeds(tmp_path: Path, algorithm: str, selection: Selection, key: str) -> None:
    expected = golden_json("selection.json")["sweeps"]["A_pairs"]
    chosen = {
        (case["trial_seed"], case["test_env"]): case[key]["sweep_acc"]
        for case in expected["selection"]
        if case["algorithm"] == algorithm
    }
    printed = {cell[3]: cell[4:] for cell in expected["cells"] if cell[:3] == [key, "VLCS", algorithm]}
    stores = [written(tmp_path / str(seed), algorithm, seed).store for seed in range(3)]
    rows = [build_report(store, selection=selection).table("VLCS").rows[0] for store in stores]
    cells = []
    for test, domain in enumerate(DOMAINS):
        values = tuple(row.ood[domain].values[0] for row in rows)
        assert values == tuple(chosen[seed, test] for seed in range(3))
        cells.append(Cell(values=values))
        assert cells[-1].text("domainbed", sign="+/-") == printed[test][2]
    whole = average(cells)
    center, error, text = printed["avg_over_envs_then_trials"]
    assert (whole.mean, whole.domainbed_error) == pytest.approx((center, error), abs=1e-9)
    assert whole.text("domainbed", sign="+/-") == text
