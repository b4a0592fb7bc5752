"""A request that is honoured in name: refused before anything runs, or named in the plan and in the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.plan_text import plan_lines
from orchestrator.plan.asked import asked_lines, check_asked
from orchestrator.plan.plan import make_plan
from orchestrator.report.formats import csv_text, latex, markdown, to_mapping
from orchestrator.report.report import build_report
from orchestrator.run_options import RunOptions
from orchestrator.store.sweep_folder import open_store
from orchestrator.sweep import run_sweep
from orchestrator.train import prepare_fold
from search_spaces.benchmarks import BENCHMARKS
from search_spaces.errors import UserError
from search_spaces.folds import Fold
from search_spaces.sweeps import Sweep, sweep_from_mapping
from tests.orchestrator.report.test_report import ACCURACIES
from tests.support.written_folds import Written, written_sweep

PACS = BENCHMARKS["PACS"]


def sweep_of(hyperparameters: dict[str, Any] | None = None, **fields: Any) -> Sweep:
    section = {"benchmarks": ["PACS"], "methods": ["erm", "vl2v_adip"], "space": "official", "trials": 2, **fields}
    return sweep_from_mapping({"sweep": section, "hyperparameters": hyperparameters or {}})


@pytest.mark.parametrize(
    ("sweep", "lines"),
    [
        (sweep_of(), []),
        (sweep_of(space="paper", trials=1), []),
        (
            sweep_of(space="paper"),
            ["2 trials asked, 1 run of erm, vl2v_adip on PACS: space paper varies nothing there"],
        ),
        (
            sweep_of(trials=1),
            ["space official is not searched on PACS: 1 trial asked, and the first one is the sweep's own "
             "hyperparameters"],
        ),
        (sweep_of(trials=1, methods=["zero_shot"]), []),
        (
            sweep_of({"distill": {"num_steps": 410}}),
            ["distill on PACS: 410 steps asked, 401 run, for it ends with an evaluation, one every 200 steps"],
        ),
        (
            sweep_of({"align": {"num_steps": 10}, "distill": {"num_steps": 21}, "evaluate_every": 10}),
            ["align on PACS: 10 steps asked, 11 run, for it ends with an evaluation, one every 10 steps"],
        ),
        (
            sweep_of({"evaluate_every": 300}, methods=["erm"]),
            ["distill on PACS: 5,001 steps asked, 4,801 run, for it ends with an evaluation, one every 300 steps"],
        ),
        (sweep_of({"align": {"num_steps": 10}, "evaluate_every": 500}, methods=["erm"]), []),
    ],
)  # fmt: skip
def test_what_runs_otherwise_than_asked_is_named(sweep: Sweep, lines: list[str]) -> None:
    check_asked(sweep, BENCHMARKS)
    plan = make_plan(sweep, BENCHMARKS)
    assert list(asked_lines(sweep, PACS)) == list(plan.asked_lines) == plan.to_mapping()["asked_and_run"] == lines
    assert set(lines) <= set(plan_lines(plan))


@pytest.mark.parametrize(
    "hyperparameters",
    [{"distill": {"num_steps": 41}}, {"align": {"num_steps": 199}}, {"evaluate_every": 5002}],
    ids=str,
)
def test_fewer_steps_than_one_interval_are_refused(tmp_path: Path, hyperparameters: dict[str, Any]) -> None:
    sweep = sweep_of(hyperparameters)
    with pytest.raises(UserError, match=r"asked, 1 run on PACS, which is evaluated every"):
        run_sweep(sweep, open_store(tmp_path / "out"), RunOptions(benchmarks={"PACS": PACS}))
    with pytest.raises(UserError, match="asked, 1 run on PACS"):
        prepare_fold(
            Fold(benchmark="PACS", test_domains=("photo",), seed=0),
            method="vl2v_adip",
            hyperparameters=sweep.hyperparameters,
            store=open_store(tmp_path / "out"),
            options=RunOptions(benchmarks={"PACS": PACS}),
        )
    assert not (tmp_path / "out").exists()


def test_the_report_names_it_in_its_captions(tmp_path: Path) -> None:
    written = Written(tmp_path, written_sweep(trials=4))
    written.fill(ACCURACIES)
    report = build_report(written.store)
    said = "4 trials asked, 1 run of vl2v_adip, erm on PACS: space paper varies nothing there"
    assert said in markdown(report)
    assert said.replace("_", r"\_") in latex(report)
    assert said in to_mapping(report)["tables"][0]["notes"]
    assert "4 trials asked" not in csv_text(report), "CSV has no captions"
