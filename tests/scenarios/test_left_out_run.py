"""Leave-one-domain-out selection with real training: the command from end to end, and labels that it cannot see."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.execution.fold_jobs import FoldJobs
from orchestrator.plan.plan import make_plan
from orchestrator.scheduler.fold_queue import build_fold_queue
from orchestrator.search.specs import FoldSpecs
from orchestrator.store.sweep_folder import SweepFolder, open_store
from search_spaces.hyperparameters import Resources
from tests.support.command_lines import requested
from trainables.data.formats.open import open_benchmark
from trainables.data.formats.sample import write_sample
from trainables.worker import run_job

pytestmark = pytest.mark.slow

DOMAINS = ("art_painting", "cartoon", "sketch")
TINY = (
    "student=test_byobnet",
    "student_weights=random",
    "image_size=32",
    "batch_size_per_domain=4",
    "evaluate_every=2",
    "distill.num_steps=4",
)
SEARCH = ("--method", "erm", "--space", "wide", "--trials", "2", "--selection", "leave_one_domain_out")


def write_benchmark(root: Path, *, relabelled: str | None = None) -> Path:
    """A benchmark `three` of three drawn domains; most images of one may be given to its first class."""
    write_sample(root / "drawn", images_per_class=6, benchmarks=("PACS",))
    for domain in DOMAINS:
        classes = sorted((root / "drawn" / "PACS" / domain).iterdir())
        for folder in classes:
            for position, image in enumerate(sorted(folder.iterdir())):
                label = classes[0].name if domain == relabelled and position else folder.name
                place = root / "data" / "three" / domain / label / f"{folder.name}-{image.name}"
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(image, place)
    return root / "data"


def held_out(store: SweepFolder, key: str, domain: str) -> float:
    return float(json.loads(store.folds.fold(key).held_out(domain).read_text())["accuracy"])


def test_a_sweep_selects_by_pair_folds_and_the_report_says_so(tmp_path: Path) -> None:
    data_root, out = write_benchmark(tmp_path), tmp_path / "out"
    command = ["sweep", "--benchmark", "three", "--data-root", str(data_root), "--out", str(out), *SEARCH, "-y", *TINY]
    command += ["--tracking", "later"]
    done = subprocess.run(
        [Path(sys.executable).with_name("vl2v-orchestrate"), *command, "sweep.zero_shot=false"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # 3 test domains x 2 trials; 3 pairs for the first trial, 3 x 2 for the other one.
    assert "leave_one_domain_out 15: 9 pair folds more (3 others shared" in " ".join(done.stdout.split())
    assert "selection: leave-one-domain-out cross-validation" in done.stdout
    store = open_store(out)
    folders = list((out / "folds").iterdir())
    assert len(folders) == 6 + 9
    assert sum((folder / "test.json").exists() for folder in folders) == 6
    for group in store.groups():
        (target,) = group.test_domains
        scores = {
            record.number: sum(
                held_out(store, planned.key, *(set(planned.fold.test_domains) - {target})) for planned in record.folds
            )
            / 2
            for record in store.records.pairs(group.name)
        }
        chosen = store.records.selected(group.name, "leave_one_domain_out")
        assert chosen is not None
        assert chosen.number == max(scores, key=lambda number: (scores[number], number))
        (cell,) = [
            row["ood"][target]["by_seed"]
            for row in json.loads((out / "report" / "report_leave_one_domain_out.json").read_text())["tables"][0][
                "rows"
            ]
        ]
        assert cell == [(store.folds.fold(chosen.folds[0].key).read_test() or {})["accuracy"][target]]


def select_for(group_name: str, data_root: Path, out: Path) -> tuple[SweepFolder, Any]:
    """Run one fold group of the sweep in this process, without Ray."""
    words = [
        "--benchmark",
        "three",
        "--method",
        "erm",
        "--space",
        "wide",
        "--trials",
        "2",
        "--data-root",
        str(data_root),
    ]
    request = requested(*words, "--selection", "leave_one_domain_out", *TINY, "sweep.zero_shot=false")
    store, benchmarks = open_store(out), dict(request.options.benchmarks)
    manifests = {name: open_benchmark(benchmark, data_root).manifest for name, benchmark in benchmarks.items()}
    groups = make_plan(request.sweep, benchmarks).groups
    store.claim(request.sweep, groups, manifests)
    specs = FoldSpecs(sweep=request.sweep, benchmarks=benchmarks, manifests=manifests)
    own = [group for group in groups if group.name == group_name]
    queue = build_fold_queue(own, specs=specs, store=store)
    jobs = FoldJobs(store=store, benchmarks=benchmarks, data_root=str(data_root), resources=Resources())
    while (attempt := queue.next()) is not None:
        run_job(jobs.job(attempt.spec).to_mapping())
        queue.finished(attempt)
    assert queue.is_finished
    return store, store.records.selected(group_name, "leave_one_domain_out")


def test_other_test_labels_change_neither_trials_nor_pair_folds_nor_the_choice(tmp_path: Path) -> None:
    group = "three/erm/sketch"
    right, chosen = select_for(group, write_benchmark(tmp_path / "right"), tmp_path / "right" / "out")
    other, chosen_too = select_for(
        group, write_benchmark(tmp_path / "relabelled", relabelled="sketch"), tmp_path / "relabelled" / "out"
    )
    assert right.manifests() != other.manifests(), "the labels are the same"
    assert [trial.point for trial in right.records.trials(group)] == [
        trial.point for trial in other.records.trials(group)
    ]
    assert chosen.number == chosen_too.number
    told_apart = []
    for one, two in zip(right.records.pairs(group), other.records.pairs(group), strict=True):
        for fold, fold_too in zip(one.folds, two.folds, strict=True):
            (source,) = set(fold.fold.test_domains) - {"sketch"}
            assert held_out(right, fold.key, source) == held_out(other, fold_too.key, source)
            told_apart.append(held_out(right, fold.key, "sketch") != held_out(other, fold_too.key, "sketch"))
            results = [store.folds.fold(key).read_result() for store, key in ((right, fold.key), (other, fold_too.key))]
            assert results[0] is not None
            assert results[1] is not None
            assert results[0]["source_validation"] == results[1]["source_validation"]
    assert any(told_apart), "the labels matter nowhere"
