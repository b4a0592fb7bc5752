"""The report over a store that is written by hand: numbers, missing folds, mixed folds, oracle, formats."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.comparability import ROW, SUMMARY, TABLE, check_comparable
from orchestrator.ledger import ledger
from orchestrator.measurements import measure
from orchestrator.plan import make_plan
from orchestrator.records import ConfirmationRecord, GroupRecord, PlannedFold, TrialRecord
from orchestrator.report import build_report
from orchestrator.report_formats import csv_text, latex, markdown, to_mapping, write_report
from orchestrator.store import Store
from search_spaces.benchmarks import BENCHMARKS, Benchmark, Domain
from search_spaces.errors import UserError
from search_spaces.hyperparameters import Fold, FoldSpec, Hyperparameters
from search_spaces.sweeps import Sweep
from trainables.record import write_json

MINE = Benchmark(
    name="mine",
    folder="mine",
    domains=tuple(Domain(name=name, letter=name) for name in ("one", "two")),
    class_names=("x", "y"),
)
KNOWN = {**BENCHMARKS, "mine": MINE}


class Written:
    """A store filled by hand: `ood` of a fold is what the test says it is."""

    def __init__(self, out: Path, sweep: Sweep) -> None:
        self.store, self.sweep = Store(out), sweep
        self.plan = make_plan(sweep, KNOWN)
        groups = [
            GroupRecord(
                name=group.name,
                benchmark=group.benchmark,
                method=group.method,
                test_domains=group.test_domains,
                trials=group.trials,
                seeds=group.seeds,
            )
            for group in self.plan.groups
        ]
        self.store.claim(sweep, groups, dict.fromkeys(sweep.benchmarks, "manifest"))

    def planned(self, group: str, domain: str, seed: int, trial: int) -> PlannedFold:
        fold = Fold(benchmark=group.split("/")[0], test_domains=(domain,), seed=seed)
        return PlannedFold(fold=fold, key=f"{group}-{domain}-{seed}-{trial}".replace("/", "_").replace("*", "all"))

    def finish(self, group: str, domain: str, seed: int, ood: float, *, trial: int = 0, **changes: Any) -> PlannedFold:
        """Write what a finished fold leaves behind; changes replace hyperparameters or fields of the spec."""
        planned = self.planned(group, domain, seed, trial)
        benchmark, method, _ = group.split("/")
        hyperparameters = self.sweep.hyperparameters_for(benchmark)
        own = {name: changes.pop(name) for name in list(changes) if hasattr(hyperparameters, name)}
        queries = changes.pop("queries", {})
        last_step = changes.pop("last_step", {"accuracy": {domain: ood / 2}, "out_accuracy": {domain: ood}})
        spec = FoldSpec(
            fold=planned.fold,
            method=method,
            hyperparameters=replace(hyperparameters, **own),
            **{
                "data_manifest": f"manifest of {benchmark}",
                "teacher_fingerprint": "" if method == "erm" else "t",
                **changes,
            },
        )
        folder = self.store.fold(planned.key)
        folder.path.mkdir(parents=True, exist_ok=True)
        rule = "zero_shot" if method == "zero_shot" else "swad"
        write_json(folder.spec, spec.to_mapping())
        test = {"accuracy": {domain: ood}, "balanced_accuracy": {domain: ood - 0.1}, "out_accuracy": {domain: ood}}
        write_json(folder.test, {**test, "last_step": last_step})
        write_json(
            folder.result,
            {
                "key": planned.key,
                "status": "done",
                "method": method,
                "fold": asdict(planned.fold),
                "source_validation": {"accuracy": ood + 0.2, "cross_entropy": 1.0, "domains": {}},
                "chosen": {"rule": rule, "step": 4},
                "teacher_queries": {"images": 100, "texts": 7, **queries},
            },
        )
        return planned

    def confirm(self, group: str, folds: list[PlannedFold], number: int = 0) -> None:
        self.store.write_confirmation(ConfirmationRecord(group=group, number=number, folds=tuple(folds)))

    def fill(self, accuracies: dict[str, list[float]]) -> None:
        """Confirm every group with one accuracy per seed, by method; domains differ by 0.1."""
        for group in self.plan.groups:
            folds = [
                self.finish(group.name, domain, seed, accuracy + 0.1 * KNOWN[group.benchmark].domain_index(domain))
                for seed, accuracy in enumerate(accuracies[group.method])
                for domain in group.test_domains
            ]
            self.confirm(group.name, folds)


def sweep(**changes: Any) -> Sweep:
    settings: dict[str, Any] = {"benchmarks": ("PACS",), "methods": ("vl2v_adip", "erm"), "seeds": 3}
    return Sweep(**{**settings, **changes})


ACCURACIES = {"zero_shot": [0.4, 0.4, 0.4], "vl2v_adip": [0.5, 0.6, 0.7], "erm": [0.3, 0.3, 0.6]}


@pytest.mark.parametrize("scope", ["domain", "benchmark"])
def test_means_errors_and_averages(tmp_path: Path, scope: str) -> None:
    written = Written(tmp_path, sweep(scope=scope))
    written.fill(ACCURACIES)
    table = build_report(written.store).table("PACS")
    assert [row.method for row in table.rows] == ["zero_shot", "vl2v_adip", "erm"]
    assert list(table.letters.values()) == ["A", "C", "P", "S"]
    distilled = table.rows[1]
    assert distilled.ood["art_painting"].text("domainbed") == "60.0 ± 4.7"
    assert distilled.ood["sketch"].text("unbiased") == "90.0 ± 5.8"
    assert distilled.average_ood.text("domainbed") == "75.0 ± 4.7"
    assert distilled.average_in_domain.mean == pytest.approx(95.0)
    assert distilled.average_balanced.mean == pytest.approx(65.0)
    assert distilled.teacher_images == 12 * 100
    assert table.notes == ()


def test_queries_whose_answers_were_lost_stand_in_the_column(tmp_path: Path) -> None:
    written = Written(tmp_path, sweep())
    written.fill(ACCURACIES)
    assert "unconfirmed" not in markdown(build_report(written.store), "domainbed")
    written.finish("PACS/erm/sketch", "sketch", 1, 0.3, queries={"images": 0, "texts": 0, "unconfirmed": 1_200})
    written.finish("PACS/erm/sketch", "sketch", 2, 0.3, queries={"unconfirmed": 34})
    report = build_report(written.store)
    assert "| 1,177 (+1,234 unconfirmed) |" in markdown(report, "domainbed")
    assert to_mapping(report)["tables"][0]["rows"][2]["teacher_unconfirmed"] == 1_234


def test_the_caption_and_both_conventions_are_printed(tmp_path: Path) -> None:
    written = Written(tmp_path, sweep())
    written.fill(ACCURACIES)
    report = build_report(written.store)
    text = markdown(report)
    for part in (
        "manifest of PACS",
        "teacher mode live",
        "Scope domain",
        "selection: training-domain validation",
        "n = 3 seeds (0, 1, 2)",
        "precision fp32",
        "population standard deviation / sqrt(n), DomainBed's convention",
        "The unbiased standard error is 1.22 times that",
        "94.94",
    ):
        assert part in text
    assert "sample standard deviation / sqrt(n), the unbiased standard error" in markdown(report, "unbiased")
    assert "60.0 ± 5.8" in markdown(report, "unbiased")
    assert "60.0 ± 4.7" in text


def test_a_missing_seed_is_x_and_so_is_every_average_over_it(tmp_path: Path) -> None:
    written = Written(tmp_path, sweep(benchmarks=("PACS", "VLCS")))
    written.fill(ACCURACIES)
    gone = written.planned("PACS/erm/sketch", "sketch", 2, 0)
    written.store.fold(gone.key).result.unlink()
    report = build_report(written.store)
    row = report.table("PACS").rows[2]
    assert row.ood["sketch"].text("domainbed") == row.average_ood.text("domainbed") == "X"
    assert row.average_in_domain.text("domainbed") == "X"
    assert row.ood["photo"].is_whole
    assert report.grand_average["erm"].text("domainbed") == "X"
    assert report.grand_average["vl2v_adip"].is_whole
    assert "erm on sketch: 2 of 3 seeds are done" in report.table("PACS").notes
    line = next(line for line in markdown(report).splitlines() if line.startswith("| erm"))
    assert [cell.strip() for cell in line.split("|")][5:8] == ["X", "X", "X"]


def test_an_unconfirmed_group_is_x(tmp_path: Path) -> None:
    report = build_report(Written(tmp_path, sweep()).store)
    assert all(cell.text("domainbed") == "X" for row in report.table("PACS").rows for cell in row.ood.values())
    assert "no finished fold yet" in markdown(report)


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"data_manifest": "other"}, "data manifest is manifest of PACS in .*, but other in erm PACS/sketch/seed1"),
        ({"trainer_version": "0"}, "trainer version is 1 in .*, but 0 in"),
        ({"teacher_mode": "clean"}, "teacher mode is live in"),
        ({"precision": "bf16"}, "precision is fp32 in .*, but bf16 in"),
        ({"image_size": 32}, "view is 224 px in .*, but 32 px in"),
        ({"student_fingerprint": "s"}, "student is"),
    ],
)
def test_folds_that_differ_are_not_averaged(tmp_path: Path, changes: dict[str, Any], difference: str) -> None:
    written = Written(tmp_path, sweep())
    written.fill(ACCURACIES)
    method = "vl2v_adip" if "teacher_mode" in changes else "erm"
    written.finish(f"PACS/{method}/sketch", "sketch", 1, 0.9, **changes)
    with pytest.raises(UserError, match=difference):
        build_report(written.store)
    mixed = build_report(written.store, allow_mixed=True)
    assert any(note.startswith("MIXED FOLDS in PACS") for note in mixed.table("PACS").notes)


def test_rows_that_differ_do_not_share_a_table(tmp_path: Path) -> None:
    written = Written(tmp_path, sweep(seeds=1))
    written.fill({name: values[:1] for name, values in ACCURACIES.items()})
    for domain in BENCHMARKS["PACS"].domain_names:
        written.finish(f"PACS/erm/{domain}", domain, 0, 0.9, precision="bf16")
    with pytest.raises(UserError, match="the folds of PACS cannot be averaged: precision is"):
        build_report(written.store)


def test_different_selections_are_not_averaged(tmp_path: Path) -> None:
    written = Written(tmp_path, sweep(methods=("erm",), seeds=1))
    written.fill({name: values[:1] for name, values in ACCURACIES.items()})
    found = [item for item in measure(written.store, "source_validation").measurements if item.method == "erm"]
    mixed = [found[0], replace(found[1], selection="oracle")]
    check_comparable(found, ROW, what="PACS")
    for names in (ROW, TABLE, SUMMARY):
        with pytest.raises(UserError, match=r"selection is source_validation in .*, but oracle in erm PACS"):
            check_comparable(mixed, names, what="PACS")


def test_searched_hyperparameters_may_differ(tmp_path: Path) -> None:
    written = Written(tmp_path, sweep())
    written.fill(ACCURACIES)
    written.finish("PACS/erm/sketch", "sketch", 1, 0.9, batch_size_per_domain=11, dropout=0.5)
    assert build_report(written.store).table("PACS").rows[2].ood["sketch"].is_whole


def test_oracle_takes_the_last_step_of_the_best_configuration_seed_by_seed(tmp_path: Path) -> None:
    written = Written(tmp_path, sweep(methods=("erm",), zero_shot=False, space="official", trials=2, seeds=2))
    group = "PACS/erm/photo"
    last = {"accuracy": {"photo": 0.11}, "out_accuracy": {"photo": 0.99}}
    chosen = written.finish(group, "photo", 0, 0.7, trial=0)
    other = written.finish(group, "photo", 0, 0.2, trial=1, last_step=last)
    for number, planned in enumerate((chosen, other)):
        written.store.write_trial(
            TrialRecord(group=group, number=number, point={}, folds=(planned,), source="paper", created=0.0)
        )
    written.confirm(group, [chosen, written.finish(group, "photo", 1, 0.6, trial=0)])
    plain = build_report(written.store).table("PACS").rows[0].ood["photo"]
    assert plain.values == pytest.approx((0.7, 0.6))
    report = build_report(written.store, selection="oracle")
    assert report.table("PACS").rows[0].ood["photo"].values == pytest.approx((0.11, 0.3))
    label = "oracle (test-domain selection; not a fair comparison)"
    assert all(label in text for text in (markdown(report), latex(report), csv_text(report)))
    assert to_mapping(report)["selection_title"] == label


def test_a_benchmark_of_ones_own(tmp_path: Path) -> None:
    written = Written(tmp_path, sweep(benchmarks=("mine",), seeds=1))
    written.fill({name: values[:1] for name, values in ACCURACIES.items()})
    report = build_report(written.store)
    assert list(report.table("mine").letters.values()) == ["one", "two"]
    text = markdown(report)
    assert "| Method    | one" in text
    assert "Published and measured" not in text
    assert "Published:" not in text


def test_five_benchmarks_have_a_summary_and_a_ledger(tmp_path: Path) -> None:
    names = ("PACS", "VLCS", "OfficeHome", "TerraIncognita", "DomainNet")
    written = Written(tmp_path, sweep(benchmarks=names, methods=("vl2v_sd",), seeds=1))
    written.fill({"zero_shot": [0.4], "vl2v_sd": [0.5]})
    report = build_report(written.store)
    text = markdown(report)
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        *(f"## {name}" for name in names),
        "## Summary over benchmarks",
        "## Published and measured",
    ]
    assert report.grand_average["vl2v_sd"].mean == pytest.approx((4 * 65.0 + 75.0) / 5)
    summary = text.split("## Summary over benchmarks")[1]
    assert next(line for line in summary.splitlines() if line.startswith("| vl2v_sd")).endswith("| 77.73         |")
    headline = {entry.benchmark: entry for entry in report.ledger if entry.headline}
    assert set(headline) == set(names)
    assert headline["PACS"].claimed == 96.68
    assert headline["PACS"].status == "Not reproduced (-31.7)"


def test_a_ledger_says_why_numbers_do_not_compare(tmp_path: Path) -> None:
    tiny = Hyperparameters(student="test_byobnet", student_weights="random", teacher="demo", teacher_mode="clean")
    written = Written(tmp_path, sweep(seeds=1, hyperparameters=tiny))
    written.fill({name: values[:1] for name, values in ACCURACIES.items()})
    entries = {(entry.method, entry.benchmark): entry for entry in build_report(written.store).ledger}
    assert entries["vl2v_sd", "PACS"].status == "Unverified: not in this sweep"
    status = entries["vl2v_adip", "PACS"].status
    for reason in ("teacher demo", "teacher mode clean", "student test_byobnet", "not from the paper's weights"):
        assert reason in status
    assert "no reproduction" in markdown(build_report(written.store))


def test_a_number_within_the_tolerance_is_reproduced(tmp_path: Path) -> None:
    written = Written(tmp_path, sweep(methods=("vl2v_adip",), zero_shot=False, seeds=1))
    written.fill({"vl2v_adip": [0.80]})
    entry = next(entry for entry in build_report(written.store).ledger if entry.method == "vl2v_adip")
    assert entry.status == "Reproduced (+0.1)"
    assert ledger({}, [], "source_validation")[0].verified is None


def test_every_format_holds_the_same_numbers(tmp_path: Path) -> None:
    written = Written(tmp_path, sweep())
    written.fill(ACCURACIES)
    report = build_report(written.store)
    paths = [Path(path) for path in write_report(report, written.store)]
    assert [path.name for path in paths] == ["report.md", "report.csv", "report.tex", "report.json"]
    content = json.loads(paths[3].read_text())
    assert content == json.loads(json.dumps(to_mapping(report)))
    cell = content["tables"][0]["rows"][1]["ood"]["sketch"]
    assert cell["mean"] == pytest.approx(90.0)
    assert cell["by_seed"] == pytest.approx([0.8, 0.9, 1.0])
    lines = list(csv.DictReader(io.StringIO(csv_text(report))))
    line = next(
        row for row in lines if (row["method"], row["test_domain"], row["measure"]) == ("erm", "average", "ood")
    )
    assert float(line["mean_percent"]) == pytest.approx(55.0)
    assert float(line["unbiased_error"]) == pytest.approx(float(line["domainbed_error"]) * 1.224745, abs=1e-3)
    assert (line["published_percent"], line["seeds"], line["teacher_mode"]) == ("90.28", "3", "live")
    tex = paths[2].read_text()
    assert r"90.0 $\pm$ 4.7" in tex
    assert r"vl2v\_adip" in tex
    before = paths[0].read_text()
    write_report(build_report(written.store), written.store)
    assert paths[0].read_text() == before


def test_a_folder_without_a_sweep_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no sweep in"):
        build_report(Store(tmp_path))
