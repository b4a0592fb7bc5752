"""A domain's labels are permuted everywhere: what is reported on that domain was selected all the same, or says so.

Each way to search is tried: scope, selection, pruner and sampler. Perturbed is every recorded number that follows from
the domain's labels: its own test numbers, what pair folds held out of it, and source validation where it is a source.
"""

from __future__ import annotations

import csv
import io
import json
import os
import random
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest

from orchestrator.inspection.status import sweep_status
from orchestrator.report.formats import csv_text, latex, markdown, to_mapping
from orchestrator.report.report import Report, build_report
from orchestrator.run_options import RunOptions
from orchestrator.scheduler.fold_queue import Attempt
from orchestrator.search.group_view import read_group_view
from orchestrator.search.pruning import read_decisions
from orchestrator.search.selection_outcome import selection_outcome
from orchestrator.store.sweep_folder import open_store
from orchestrator.sweep import run_sweep
from search_spaces.benchmarks import BENCHMARKS, Benchmark, Domain
from search_spaces.errors import UserError
from search_spaces.hyperparameters import FoldSpec
from search_spaces.samplers import Sampler
from search_spaces.sweeps import Pruner, Sweep, SweepSelection, sweep_from_mapping
from tests.support.bench import Bench
from trainables.storage.json_files import write_json

PERMUTED = "line"
THREE = Benchmark(
    name="three",
    folder="three",
    domains=tuple(Domain(name=name, letter=name) for name in ("flat", PERMUTED, "photo")),
    class_names=("x", "y"),
)
TRIALS = {"tpe": 12, "gp": 12, "cmaes": 12, "random": 8, "authors": 12}
"""The first three learn after ten trials or fewer; the other two look at none."""
LAST = 3
"""Evaluations of a fold are at steps 0 to 3."""
WAYS = pytest.mark.parametrize(("sampler", "pruner"), list(product(get_args(Sampler), get_args(Pruner))))
LABEL = "one choice for all test domains"


@pytest.fixture(autouse=True)
def three_domains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BENCHMARKS, "three", THREE)
    # Thousands of small files, none of which has to outlive a power cut.
    monkeypatch.setattr(os, "fsync", lambda file: None)


def sweep_of(sampler: str, **fields: Any) -> Sweep:
    space = "official" if sampler == "authors" else "wide"
    section = {"benchmarks": ["three"], "methods": ["erm"], "space": space, "sampler": sampler, "seeds": 1}
    return sweep_from_mapping(
        {
            "sweep": {**section, "zero_shot": False, "trials": TRIALS[sampler], "audit_share": 0.1, **fields},
            "hyperparameters": {"distill": {"num_steps": LAST}, "evaluate_every": 1},
        }
    )


class Permuted(Bench):
    """Folds whose numbers about one domain, and from it, come from another draw of chance for every `labels`."""

    def __init__(self, out: Path, sweep: Sweep, *, labels: str) -> None:
        super().__init__(out, sweep)
        self.labels = labels

    def run(self, attempt: Attempt) -> None:
        folder, spec = self.store.folds.fold(attempt.planned.key), attempt.spec
        accuracy = self.drawn(spec, "the sources", reads=PERMUTED not in spec.fold.test_domains)
        write_json(folder.spec, spec.to_mapping())
        for step in range(LAST + 1):
            entry = {"kind": "evaluation", "stage": "distill", "step": step, "cross_entropy": 1.0, "domains": {}}
            folder.append_journal([{**entry, "accuracy": accuracy * (step + 1) / (LAST + 1), "time": 0.0}])
            if self.dispatcher.reported(attempt, {"stage": "distill", "step": step}):
                self.dispatcher.ended(attempt)
                return
        self.write_test(spec)
        times = {"seconds": 1.0, "started": 0.0, "finished": 1.0}
        write_json(folder.result, {"key": spec.key, "source_validation": {"accuracy": accuracy}, **times})
        self.dispatcher.ended(attempt)

    def write_test(self, spec: FoldSpec) -> None:
        folder, domains = self.store.folds.fold(spec.key), spec.fold.test_domains
        for domain in domains:
            accuracy = self.drawn(spec, domain, reads=PERMUTED not in domains or domain == PERMUTED)
            if len(domains) > 1:
                write_json(folder.held_out(domain), {"domain": domain, "accuracy": accuracy})
            else:
                test = {name: {domain: accuracy} for name in ("accuracy", "balanced_accuracy", "out_accuracy")}
                write_json(folder.test, {**test, "last_step": test})

    def drawn(self, spec: FoldSpec, about: str, *, reads: bool) -> float:
        """A number that follows from the fold, and from the permuted domain's labels where it `reads` them."""
        return random.Random(f"{spec.key} {about} {self.labels if reads else ''}").uniform(0.2, 0.9)


def reported_choice(bench: Bench) -> list[Any]:
    """All that led to what is reported on the permuted domain, fold by fold."""
    found = []
    for group in bench.groups:
        if PERMUTED in group.test_domains:
            selection = bench.sweep.selection
            view = read_group_view(bench.store, group, selection=selection)
            outcome = selection_outcome(view)
            decisions = [
                (one.number, one.verdict, one.step, one.key) for one in read_decisions(bench.store, group.name)
            ]
            points = [(trial.point, trial.history) for trial in view.trials]
            found.append((group.name, outcome.number, outcome.folds, decisions, points))
    return found


def run_twice(folder: Path, sweep: Sweep) -> tuple[Permuted, Permuted]:
    benches = Permuted(folder / "right", sweep, labels="right"), Permuted(folder / "permuted", sweep, labels="permuted")
    for bench in benches:
        bench.run_all()
    return benches


@WAYS
def test_in_scope_domain_no_label_of_the_test_domain_moves_its_choice(
    tmp_path: Path, sampler: str, pruner: str
) -> None:
    for selection in get_args(SweepSelection):
        benches = run_twice(tmp_path, sweep_of(sampler, pruner=pruner, selection=selection))
        choices = [reported_choice(bench) for bench in benches]
        assert choices[0] == choices[1]
        assert all(number is not None for _, number, *_ in choices[0])
        judged = {verdict for *_, decisions, _ in choices[0] for _, verdict, *_ in decisions}
        assert bool(judged & {"prune", "audit"}) == (pruner != "none"), "nothing was found worse: the test is blind"
        reports = [build_report(bench.store) for bench in benches]
        cells = [report.table("three").rows[0].ood for report in reports]
        assert cells[0][PERMUTED] != cells[1][PERMUTED], "the permutation changed nothing at all"
        assert cells[0]["flat"] != cells[1]["flat"]
        assert not any(LABEL in text for text in every_format(reports[0]))


@WAYS
def test_a_choice_for_all_test_domains_is_labelled(tmp_path: Path, sampler: str, pruner: str) -> None:
    bench = Permuted(tmp_path, sweep_of(sampler, pruner=pruner, scope="benchmark", trials=2), labels="right")
    bench.run_all()
    assert all(LABEL in text for text in every_format(build_report(bench.store)))


def test_every_table_of_every_format_has_the_label(tmp_path: Path) -> None:
    sweep = sweep_of("random", scope="benchmark", trials=4, benchmarks=["PACS", "three"])
    benches = run_twice(tmp_path, sweep)
    assert benches[0].choices() != benches[1].choices(), "labels of the test domain moved nothing: nothing to label"
    report = build_report(benches[0].store)
    assert all(LABEL in text for text in every_format(report))
    tables = [text for text in markdown(report).split("\n## ")[1:] if not text.startswith("Pruning")]
    assert len(tables) == 4, "two benchmarks, their summary, and the published numbers"
    assert all(LABEL in text for text in tables)
    assert all(LABEL in text for text in latex(report).split(r"\begin{table}")[1:])
    (entry,) = (entry for entry in report.claims if entry.verified is not None)
    assert "one choice for all test domains" in entry.status
    assert LABEL not in build_report(benches[0].store, selection="oracle").selection_title
    with pytest.raises(UserError, match="scope benchmark makes one choice for all test domains"):
        build_report(benches[0].store, selection="leave_one_domain_out")


def test_a_folder_with_a_choice_by_the_reported_images_is_read_and_labelled(tmp_path: Path) -> None:
    """Such a sweep is refused now; folders that were made before are there."""
    sweep = sweep_of("random", scope="benchmark", trials=3, selection="leave_one_domain_out")
    bench = Permuted(tmp_path, sweep, labels="right")
    bench.run_all(most=12)
    unfinished = build_report(bench.store)
    assert "pair folds" in unfinished.missing
    assert "no sweep runs them any more: scope benchmark makes one choice" in unfinished.missing
    bench.run_all()
    report = build_report(bench.store)
    assert all(cell.is_whole for cell in report.table("three").rows[0].ood.values())
    assert all("on the reported images themselves have a say" in text for text in every_format(report))
    assert sweep_status(bench.store).counts.waiting == 0


@WAYS
def test_a_choice_for_all_test_domains_by_the_reported_images_is_refused(
    tmp_path: Path, sampler: Sampler, pruner: Pruner
) -> None:
    sweep = sweep_of(sampler, pruner=pruner, scope="benchmark", selection="leave_one_domain_out")
    with pytest.raises(UserError, match="allowed: --scope domain with leave_one_domain_out, or --scope benchmark with"):
        run_sweep(sweep, open_store(tmp_path / "out"), RunOptions(benchmarks={"three": THREE}))
    assert not (tmp_path / "out").exists()


def every_format(report: Report) -> list[str]:
    """What says the selection: Markdown, LaTeX, each line of the CSV, JSON."""
    lines = [line["selection_title"] for line in csv.DictReader(io.StringIO(csv_text(report)))]
    return [markdown(report), latex(report), *lines, json.dumps(to_mapping(report))]
