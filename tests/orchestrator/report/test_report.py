"""The report over a store that is written by hand: numbers, missing folds, mixed folds, oracle, formats."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import run
from orchestrator.report.cells import ERROR_BARS
from orchestrator.report.claims import compared_claims
from orchestrator.report.comparability import ROW, SUMMARY, TABLE, check_comparable
from orchestrator.report.formats import csv_text, latex, markdown, to_mapping, write_report
from orchestrator.report.measurements import measure
from orchestrator.report.missing_folds import TO_RUN, sweep_command
from orchestrator.report.report import build_report
from orchestrator.run_options import RunOptions
from orchestrator.store.records import TrialRecord
from orchestrator.store.sweep_folder import open_store
from search_spaces.benchmarks import BENCHMARKS
from search_spaces.errors import UserError
from search_spaces.hyperparameters import Fold, Hyperparameters
from tests.fuzz import names as odd_names
from tests.support.bench import Bench
from tests.support.stub_sweep import stub_sweep
from tests.support.stub_worker import TEST_NUMBERS
from tests.support.whole_folds import restate
from tests.support.written_folds import MINE, REPRODUCED, Written, status, written_sweep
from trainables.storage.json_files import write_json

ACCURACIES = {"zero_shot": [0.4, 0.4, 0.4], "vl2v_adip": [0.5, 0.6, 0.7], "erm": [0.3, 0.3, 0.6]}


@pytest.mark.parametrize("scope", ["domain", "benchmark"])
def test_means_errors_and_averages(tmp_path: Path, scope: str) -> None:
    written = Written(tmp_path, written_sweep(scope=scope))
    written.fill(ACCURACIES)
    table = build_report(written.store).table("PACS")
    assert [row.method for row in table.rows] == ["zero_shot", "vl2v_adip", "erm"]
    assert list(table.letters.values()) == ["A", "C", "P", "S"]
    distilled = table.rows[1]
    assert distilled.ood["art_painting"].text("domainbed") == "60.0 ± 4.7"
    assert distilled.ood["sketch"].text("sample") == "90.0 ± 5.8"
    assert distilled.average_ood.text("domainbed") == "75.0 ± 4.7"
    assert distilled.average("id").mean == pytest.approx(67.5)
    assert distilled.average("ood_balanced").mean == pytest.approx(65.0)
    assert distilled.teacher_images == 12 * 100
    assert table.notes == ()


def test_queries_whose_answers_were_lost_stand_in_the_column(tmp_path: Path) -> None:
    written = Written(tmp_path, written_sweep())
    written.fill(ACCURACIES)
    assert "unconfirmed" not in markdown(build_report(written.store), "domainbed")
    written.finish("PACS/erm/sketch", "sketch", 1, 0.3, queries={"images": 0, "texts": 0, "unconfirmed": 1_200})
    written.finish("PACS/erm/sketch", "sketch", 2, 0.3, queries={"unconfirmed": 34})
    report = build_report(written.store)
    assert "| 1,177 (+1,234 unconfirmed) |" in markdown(report, "domainbed")
    assert to_mapping(report)["tables"][0]["rows"][2]["teacher_unconfirmed"] == 1_234


def test_the_caption_and_both_conventions_are_printed(tmp_path: Path) -> None:
    written = Written(tmp_path, written_sweep())
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
        "Sample SD / sqrt(n) is 1.22 times that",
        "94.94",
    ):
        assert part in text
    assert "± is sample SD / sqrt(n), over n = 3 seeds" in markdown(report, "sample")
    assert "60.0 ± 5.8" in markdown(report, "sample")
    assert "± is half of the 95% t-interval, t(0.975, n - 1) times sample SD / sqrt(n), over" in markdown(report, "t95")
    assert "60.0 ± 24.8" in markdown(report, "t95")
    assert "60.0 ± 4.7" in text


def test_a_missing_seed_is_x_and_so_is_every_average_over_it(tmp_path: Path) -> None:
    written = Written(tmp_path, written_sweep(benchmarks=("PACS", "VLCS")))
    written.fill(ACCURACIES)
    selected = written.store.records.selected("PACS/erm/sketch")
    assert selected is not None
    (gone,) = (planned for planned in selected.folds if planned.fold.seed == 2)
    written.store.folds.fold(gone.key).result.unlink()
    report = build_report(written.store)
    row = report.table("PACS").rows[2]
    assert row.ood["sketch"].text("domainbed") == row.average_ood.text("domainbed") == "X"
    assert row.average("id").text("domainbed") == "X"
    assert row.ood["photo"].is_whole
    assert report.grand_average["erm"].text("domainbed") == "X"
    assert report.grand_average["vl2v_adip"].is_whole
    assert "erm on sketch: 2 of 3 seeds are done" in report.table("PACS").notes
    line = next(line for line in markdown(report).splitlines() if line.startswith("| erm"))
    assert [cell.strip() for cell in line.split("|")][5:8] == ["X", "X", "X"]


def test_an_unconfirmed_group_is_x(tmp_path: Path) -> None:
    report = build_report(Written(tmp_path, written_sweep()).store)
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
    written = Written(tmp_path, written_sweep())
    written.fill(ACCURACIES)
    method = "vl2v_adip" if "teacher_mode" in changes else "erm"
    written.finish(f"PACS/{method}/sketch", "sketch", 1, 0.9, **changes)
    with pytest.raises(UserError, match=difference):
        build_report(written.store)
    mixed = build_report(written.store, allow_mixed=True)
    assert any(note.startswith("MIXED FOLDS in PACS") for note in mixed.table("PACS").notes)


def test_rows_that_differ_do_not_share_a_table(tmp_path: Path) -> None:
    written = Written(tmp_path, written_sweep(seeds=1))
    written.fill({name: values[:1] for name, values in ACCURACIES.items()})
    for domain in BENCHMARKS["PACS"].domain_names:
        written.finish(f"PACS/erm/{domain}", domain, 0, 0.9, precision="bf16")
    with pytest.raises(UserError, match="the folds of PACS cannot be averaged: precision is"):
        build_report(written.store)


def test_different_selections_are_not_averaged(tmp_path: Path) -> None:
    written = Written(tmp_path, written_sweep(methods=("erm",), seeds=1))
    written.fill({name: values[:1] for name, values in ACCURACIES.items()})
    found = [item for item in measure(written.store, "source_validation").measurements if item.method == "erm"]
    mixed = [found[0], replace(found[1], selection="oracle")]
    check_comparable(found, ROW, what="PACS")
    for names in (ROW, TABLE, SUMMARY):
        with pytest.raises(UserError, match=r"selection is source_validation in .*, but oracle in erm PACS"):
            check_comparable(mixed, names, what="PACS")


def test_searched_hyperparameters_may_differ(tmp_path: Path) -> None:
    written = Written(tmp_path, written_sweep())
    written.fill(ACCURACIES)
    written.finish("PACS/erm/sketch", "sketch", 1, 0.9, batch_size_per_domain=11, dropout=0.5)
    assert build_report(written.store).table("PACS").rows[2].ood["sketch"].is_whole


def test_oracle_takes_the_last_step_of_one_configuration_on_every_seed(tmp_path: Path) -> None:
    written = Written(tmp_path, written_sweep(methods=("erm",), zero_shot=False, space="official", trials=2, seeds=2))
    group = "PACS/erm/photo"
    last = {"accuracy": {"photo": 0.11}, "out_accuracy": {"photo": 0.99}}
    chosen = written.finish(group, "photo", 0, 0.7, trial=0)
    other = written.finish(group, "photo", 0, 0.2, trial=1, last_step=last)
    for number, planned in enumerate((chosen, other)):
        written.store.records.write_trial(
            TrialRecord(group=group, number=number, point={}, folds=(planned,), source="paper", created=0.0)
        )
    written.select(group, [chosen, written.finish(group, "photo", 1, 0.6, trial=0)])
    plain = build_report(written.store).table("PACS").rows[0].ood["photo"]
    assert plain.values == pytest.approx((0.7, 0.6))
    report = build_report(written.store, selection="oracle")
    assert report.table("PACS").rows[0].ood["photo"].values == (pytest.approx(0.11), None)
    assert "PACS/erm/photo trial 1: photo seed 1" in report.missing
    written.select(group, [other, written.finish(group, "photo", 1, 0.4, trial=1)], number=1)
    report = build_report(written.store, selection="oracle")
    assert report.table("PACS").rows[0].ood["photo"].values == pytest.approx((0.11, 0.2))
    label = "oracle (test-domain selection; not a fair comparison)"
    assert all(label in text for text in (markdown(report), latex(report), csv_text(report)))
    assert "that is where its valley was over, if it was" in markdown(report)
    assert to_mapping(report)["selection_title"] == label


@pytest.mark.parametrize("scope", ["domain", "benchmark"])
def test_the_oracles_seeds_are_of_one_configuration_or_missing(tmp_path: Path, scope: str) -> None:
    """What is best on the source domains is worst on the test domain, so that the oracle's choice has one seed."""
    bench = Bench(tmp_path, stub_sweep(trials=4, seeds=3, scope=scope, stop_level=0.0))
    while (attempt := bench.queue.next()) is not None:
        bench.run(attempt)
        folder, domain = bench.store.folds.fold(attempt.planned.key), attempt.planned.fold.test_domain
        result = bench.store.folds.fold(attempt.planned.key).read_result()
        assert result is not None
        numbers = {name: {domain: 1.0 - result["source_validation"]["accuracy"]} for name in TEST_NUMBERS}
        write_json(folder.test, numbers | {"last_step": numbers})
        restate(folder)
    found = measure(bench.store, "oracle")
    assert {item.seed for item in found.measurements} == {0}
    assert len(found.measurements) == 4
    by_group = {missing.group: missing.seeds for missing in found.missing}
    for item in found.measurements:
        assert (item.trial, Fold(benchmark="icons", test_domains=(item.test_domain,), seed=2)) in by_group[item.group]
        confirmed = bench.store.records.selected(item.group)
        assert confirmed is not None
        assert confirmed.number != item.trial
    report = build_report(bench.store, selection="oracle")
    assert "lacks 8 repeats of the selected trials" in report.missing
    assert report.missing.endswith("; no sweep runs them, for none selects by test-domain numbers")
    assert not any(cell.is_whole for cell in report.table("icons").rows[0].ood.values())


def test_a_benchmark_of_ones_own(tmp_path: Path) -> None:
    written = Written(tmp_path, written_sweep(benchmarks=("mine",), seeds=1))
    written.fill({name: values[:1] for name, values in ACCURACIES.items()})
    report = build_report(written.store)
    assert list(report.table("mine").letters.values()) == ["one", "two"]
    text = markdown(report)
    assert "| Method    | one" in text
    assert "Published and measured" not in text
    assert "Published:" not in text


def test_five_benchmarks_have_a_summary_and_their_claims(tmp_path: Path) -> None:
    names = ("PACS", "VLCS", "OfficeHome", "TerraIncognita", "DomainNet")
    written = Written(tmp_path, written_sweep(benchmarks=names, methods=("vl2v_sd",), seeds=1))
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
    headline = {entry.benchmark: entry for entry in report.claims if entry.headline}
    assert set(headline) == set(names)
    assert headline["PACS"].claimed == 96.68
    assert headline["PACS"].status.startswith("Not reproduced (-31.7); ours with SWAD")


def test_a_claim_says_why_numbers_do_not_compare(tmp_path: Path) -> None:
    tiny = Hyperparameters(student="test_byobnet", student_weights="random", teacher="demo", teacher_mode="clean")
    written = Written(tmp_path, written_sweep(seeds=1, hyperparameters=tiny))
    written.fill({name: values[:1] for name, values in ACCURACIES.items()})
    entries = {(entry.method, entry.benchmark): entry for entry in build_report(written.store).claims}
    assert entries["vl2v_sd", "PACS"].status == "Unverified: not in this sweep"
    status = entries["vl2v_adip", "PACS"].status
    for reason in ("teacher demo", "teacher mode clean", "student test_byobnet", "not from the paper's weights"):
        assert reason in status
    assert "no reproduction" in markdown(build_report(written.store))


@pytest.mark.parametrize("method", REPRODUCED)
def test_a_number_within_the_tolerance_is_reproduced(tmp_path: Path, method: str) -> None:
    found = status(tmp_path, method)
    assert found.startswith("Reproduced (")
    assert ("; ours with SWAD" in found) == (method == "vl2v_sd")
    assert compared_claims({}, [], "source_validation")[0].verified is None


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        (
            "vl2v_adip",
            {"distill": {"lr": 1e-4, "weight_decay": 1e-3}, "image_weight": 0.9, "batch_size_per_domain": 45},
        ),
        ("vl2v_adip", {"distill": {"num_steps": 5001}, "evaluate_every": 200, "eval_batch_size": 128}),
        ("erm", {"image_weight": 0.0, "align": {"lr": 1.0}, "teacher": "demo", "kd_temperature": 4.0}),
        ("zero_shot", {"batch_size_per_domain": 1, "swad": {"segments": "off"}, "student": "resnet50"}),
    ],
)
def test_what_the_authors_search_and_what_a_method_does_not_use_may_vary(
    tmp_path: Path, method: str, changes: dict[str, Any]
) -> None:
    assert status(tmp_path, method, **changes).startswith("Reproduced (")


@pytest.mark.parametrize(
    ("method", "changes", "reason"),
    [
        ("vl2v_adip", {"distill": {"lr": 1e-2}}, "distill.lr=0.01"),
        ("vl2v_adip", {"align": {"weight_decay": 0.1}}, "align.weight_decay=0.1"),
        ("vl2v_adip", {"image_weight": 0.0}, "image_weight=0.0"),
        ("vl2v_adip", {"batch_size_per_domain": 1}, "batch_size_per_domain=1"),
        ("vl2v_adip", {"batch_size_per_domain": 46}, "batch_size_per_domain=46"),
        ("vl2v_adip", {"dropout": 0.1}, "dropout=0.1"),
        ("vl2v_adip", {"swad": {"segments": "off"}}, "swad.segments=off"),
        ("vl2v_adip", {"swad": {"num_converge": 1}}, "swad.num_converge=1"),
        ("vl2v_sd", {"swad": {"num_converge": 1}}, "swad.num_converge=1"),
        ("kd", {"kd_temperature": 4.0}, "kd_temperature=4.0"),
        ("erm", {"evaluate_every": 5001}, "distill of 5,002 steps, evaluated every 5,001"),
        ("erm", {"distill": {"num_steps": 100}}, "distill of 1 steps, evaluated every 200"),
        ("zero_shot", {"image_size": 32}, "32 px views"),
        ("zero_shot", {"teacher": "demo"}, "teacher demo"),
    ],
)
def test_what_the_authors_do_not_search_is_named(
    tmp_path: Path, method: str, changes: dict[str, Any], reason: str
) -> None:
    assert status(tmp_path, method, **changes) == f"Unverified: not comparable ({reason})"


def test_self_distillation_says_what_swad_it_had(tmp_path: Path) -> None:
    found = status(tmp_path, "vl2v_sd", swad={"segments": "off"})
    assert found.endswith("; ours without SWAD, the published row is not marked as one with SWAD")
    assert found.startswith("Reproduced (")


@pytest.mark.parametrize("method", ["zero_shot", "erm"])
def test_other_pictures_are_not_the_papers(tmp_path: Path, method: str) -> None:
    found = status(tmp_path, method, fills={"test_images": 12})
    assert found.startswith("Unverified: not comparable (other test images: art_painting 12 not 1,639, cartoon 12 not")


def test_another_copy_of_a_benchmark_is_not_the_papers(tmp_path: Path) -> None:
    other = {"location_100": 4741, "location_38": 9736, "location_43": 3970, "location_46": 5883}
    written = Written(
        tmp_path, written_sweep(benchmarks=("TerraIncognita",), methods=("erm",), zero_shot=False, seeds=1)
    )
    folds = [
        (f"TerraIncognita/erm/{domain}", written.finish(f"TerraIncognita/erm/{domain}", domain, 0, 0.5,
                                                       test_images=images - images // 5))
        for domain, images in other.items()
    ]  # fmt: skip
    for group, fold in folds:
        written.select(group, [fold])
    found = next(entry.status for entry in build_report(written.store).claims if entry.verified is not None)
    assert found == (
        "Unverified: not comparable (other test images: location_100 3,793 not 3,904, location_38 7,789 not 7,814, "
        "location_43 3,176 not 3,216, location_46 4,707 not 4,898)"
    )


def test_mixed_folds_reproduce_nothing(tmp_path: Path) -> None:
    written = Written(tmp_path, written_sweep(methods=("erm",), zero_shot=False, seeds=2))
    written.fill({"erm": [0.753, 0.753]}, apart=0.01)
    written.finish("PACS/erm/sketch", "sketch", 1, 0.918, data_manifest="other", trainer_version="0")
    entry = next(item for item in build_report(written.store, allow_mixed=True).claims if item.verified is not None)
    assert entry.status == "Unverified: mixed folds, which differ in data manifest, trainer version"


def test_every_format_holds_the_same_numbers(tmp_path: Path) -> None:
    written = Written(tmp_path, written_sweep())
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


def test_one_seed_has_no_error_in_any_format(tmp_path: Path) -> None:
    written = Written(tmp_path, written_sweep(seeds=1, benchmarks=("PACS", "VLCS")))
    written.fill({method: own[:1] for method, own in ACCURACIES.items()})
    report = build_report(written.store)
    for bar in ERROR_BARS:
        for text in (markdown(report, bar), latex(report, bar)):
            assert "±" not in text
            assert r"\pm" not in text
            assert text.count("over one seed (0), so there is no error") == 3
    lines = list(csv.DictReader(io.StringIO(csv_text(report))))
    errors = [line[name] for line in lines for name in ("domainbed_error", "unbiased_error", "t95_error")]
    assert (len(lines) > 10, set(errors)) == (True, {""})
    cell = to_mapping(report)["tables"][0]["rows"][1]["ood"]["sketch"]
    assert [cell[name] for name in ("domainbed_error", "unbiased_error", "t95_error")] == [None] * 3
    assert cell["mean"] == pytest.approx(80.0)


def test_odd_names_come_out_as_they_went_in() -> None:
    assert odd_names.tried(60, seed=0).problems == []


def test_a_latex_file_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    written = Written(tmp_path, written_sweep(benchmarks=("mine",), seeds=1))
    checkpoint = f"open_clip:ViT-B-32:{tmp_path}/weights/teacher.pt"
    written.fill({name: values[:1] for name, values in ACCURACIES.items()}, teacher=checkpoint)
    report = replace(build_report(written.store), missing=f"lacks 2 folds{TO_RUN}sweep --out {tmp_path}")
    assert str(tmp_path) in markdown(report)
    assert str(tmp_path) not in latex(report)
    assert "teacher.pt" in latex(report)
    assert latex(report).startswith("% lacks 2 folds\n")


@pytest.mark.parametrize(
    ("folder", "root", "words"),
    [
        ("/data/mine", "/data", ["--data-root", "/data"]),
        ("/my data/mine", None, ["--benchmark", "icons,folder:/my data/mine"]),
        ("/elsewhere/mine", "/data", ["--data-root", "/data", "--benchmark", "icons,folder:/elsewhere/mine"]),
    ],
)
def test_the_command_that_runs_what_is_missing_knows_where_images_lie(
    folder: str, root: str | None, words: list[str], tmp_path: Path
) -> None:
    store = Written(tmp_path, written_sweep(benchmarks=("icons", "mine"), seeds=1)).store
    unknown = shlex.split(sweep_command(store, "oracle"))
    assert unknown[-3:] == ["--data-root", "DIR", "-y"]
    benchmarks = {"icons": BENCHMARKS["icons"], "mine": replace(MINE, folder=folder)}
    store.remember_run(RunOptions(data_root=root, benchmarks=benchmarks))
    assert shlex.split(sweep_command(store, "oracle")) == [*unknown[:-3], *words, "-y"]


def test_a_folder_without_a_sweep_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no sweep in"):
        build_report(open_store(tmp_path))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_cannot_be_written_keeps_no_table_back(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written = Written(tmp_path, written_sweep(seeds=1))
    written.fill({name: values[:1] for name, values in ACCURACIES.items()})
    half = written.store.report_folder / ".report.md.00000000-1-1-1.part"
    half.parent.mkdir()
    half.touch()
    os.utime(half, (1.0, 1.0))

    def refuse(path: Path, data: bytes) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("orchestrator.report.formats.write_atomically", refuse)
    assert run(["report", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "| vl2v_adip" in said.out
    assert "written:" not in said.out
    assert said.err == f"the report's files are not written: {written.store.report_folder}: {os.strerror(number)}\n"
    assert not half.exists(), "what a killed command left is taken away by the next one"
