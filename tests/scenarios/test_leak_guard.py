"""A whole sweep cannot see the test domain: with that domain's labels permuted, everything but its accuracy stays."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.store.search_records import group_slug
from orchestrator.store.sweep_folder import SweepFolder, open_store
from tests.support.timeless import timeless
from trainables.data.formats.sample import write_sample

pytestmark = pytest.mark.slow

TINY = (
    "student=test_byobnet",
    "student_weights=random",
    "teacher=open_clip:vl2v-tiny:random:0",
    "image_size=32",
    "evaluate_every=2",
    "eval_batch_size=64",
    "align.num_steps=4",
    "distill.num_steps=4",
)
SEARCH = ("--method", "vl2v_adip", "--space", "wide", "--trials", "12", "--seeds", "2", "--max-concurrent", "1")
"""The first ten trials of a TPE study are drawn at random: twelve have two that follow from what was measured."""

KEYS = ("key", "against", "folds")
"""Entries of a pruning decision that name folds by key: the images' manifest is in it, and with it the labels."""


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory) -> tuple[SweepFolder, SweepFolder]:
    """The same sweep on the same images, with the labels of `sketch` right and permuted."""
    folder = tmp_path_factory.mktemp("leak")
    write_sample(folder / "drawn", benchmarks=["PACS"], images_per_class=6)
    return _sweep(folder / "right", folder / "drawn", permuted=False), _sweep(
        folder / "permuted", folder / "drawn", permuted=True
    )


def test_no_decision_reads_the_test_domains_labels(sweeps: tuple[SweepFolder, SweepFolder]) -> None:
    right, permuted = sweeps
    group = "two/vl2v_adip/sketch"
    assert right.manifests() != permuted.manifests(), "the labels are the same"
    trials = [store.records.trials(group) for store in sweeps]
    assert [trial.point for trial in trials[0]] == [trial.point for trial in trials[1]]
    assert [(trial.source, trial.history) for trial in trials[0]] == [
        (trial.source, trial.history) for trial in trials[1]
    ]
    decisions = [_decisions(store, group) for store in sweeps]
    assert decisions[0] == decisions[1]
    assert any(decision["verdict"] == "prune" for decision in decisions[0]), "nothing was pruned: the test is blind"
    confirmed = [store.records.selected(group) for store in sweeps]
    assert confirmed[0] is not None
    assert confirmed[1] is not None
    assert confirmed[0].number == confirmed[1].number
    planned = [[*(fold for trial in own for fold in trial.folds)] for own in trials]
    for own, confirmation in zip(planned, confirmed, strict=True):
        own.extend(confirmation.folds)
    pairs = list(zip(*planned, strict=True))
    assert len(pairs) == 12 + 2
    for one, other in pairs:
        assert one.fold == other.fold
        assert one.key != other.key
        assert _source_side(right, one.key) == _source_side(permuted, other.key), f"{one.fold} saw the test domain"
    accuracies = [
        [(store.folds.fold(fold.key).read_test() or {}).get("accuracy") for fold in own]
        for store, own in zip(sweeps, planned, strict=True)
    ]
    assert accuracies[0] != accuracies[1], "the permutation changed nothing at all"


def test_where_the_domain_is_a_source_its_labels_matter(sweeps: tuple[SweepFolder, SweepFolder]) -> None:
    group = "two/vl2v_adip/art_painting"
    sides = [
        [_source_side(store, fold.key) for trial in store.records.trials(group) for fold in trial.folds]
        for store in sweeps
    ]
    assert all(one != other for one, other in zip(*sides, strict=True))


def _sweep(folder: Path, drawn: Path, *, permuted: bool) -> SweepFolder:
    """Run the sweep as a command of its own: what ends Ray would end pytest too."""
    for domain in ("art_painting", "sketch"):
        shutil.copytree(drawn / "PACS" / domain, folder / "data" / "two" / domain)
    if permuted:
        _permute(folder / "data" / "two" / "sketch")
    environment = {
        name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")
    }
    done = subprocess.run(
        [
            Path(sys.executable).with_name("vl2v-orchestrate"), "sweep", "--benchmark", "two", "--data-root",
            folder / "data", "--out", folder / "out", "-y", *SEARCH, "sweep.sampler=tpe",
            "sweep.pruner=median", "sweep.zero_shot=false", *TINY,
        ],
        capture_output=True, text=True, env=environment, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return open_store(folder / "out")


def _permute(domain: Path) -> None:
    """Give every class the images of the next one."""
    classes = sorted(path.name for path in domain.iterdir())
    domain.rename(domain.with_name("aside"))
    domain.mkdir()
    for name, wrong in zip(classes, [*classes[1:], classes[0]], strict=True):
        (domain.with_name("aside") / name).rename(domain / wrong)
    domain.with_name("aside").rmdir()


def _source_side(store: SweepFolder, key: str) -> Mapping[str, Any]:
    """All that a fold measured and chose without the test domain, down to its weights and every loss.

    A fold that was pruned has a journal only.
    """
    result = dict(store.folds.fold(key).read_result() or {})
    for name in ("key", "teacher_queries"):
        result.pop(name, None)
    journal = [timeless(line) for line in store.folds.fold(key).read_journal()]
    assert any(line["kind"] == "step" for line in journal)
    return {**timeless(result), "journal": journal}


def _decisions(store: SweepFolder, group: str) -> list[dict[str, Any]]:
    """What was decided of which trial, and compared with which; in the file these are in the order of their keys."""
    decisions = []
    for line in (store.out / "pruning" / f"{group_slug(group)}.jsonl").read_text().splitlines():
        decision = {name: value for name, value in timeless(json.loads(line)).items() if name not in KEYS}
        decisions.append({**decision, "trials": sorted(decision["trials"])})
    return decisions
