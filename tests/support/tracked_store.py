"""A store as a finished small sweep leaves it, written by hand: no engine ran."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path

from orchestrator.store.records import PlannedFold, SelectedTrial, TrialRecord
from orchestrator.store.sweep_folder import SweepFolder, open_store
from search_spaces.fold_groups import FoldGroup
from search_spaces.folds import Fold
from search_spaces.hyperparameters import FoldSpec
from search_spaces.sweeps import Sweep, sweep_from_mapping
from trainables.storage.json_files import write_json

GROUP = "icons/vl2v_adip/line"
START = 1_800_000_000.0


def small_sweep() -> Sweep:
    return sweep_from_mapping(
        {
            "sweep": {
                "name": "tracked",
                "benchmarks": ["icons"],
                "methods": ["vl2v_adip"],
                "trials": 2,
                "seeds": 2,
                "zero_shot": False,
            },
            "hyperparameters": {"align": {"lr": 0.01}},
        }
    )


def group() -> FoldGroup:
    return FoldGroup(name=GROUP, benchmark="icons", method="vl2v_adip", test_domains=("line",), trials=2, seeds=2)


def spec(sweep: Sweep, *, seed: int, trainer: str) -> FoldSpec:
    """Specs differ in `trainer`, standing in for hyperparameters that were suggested."""
    return FoldSpec(
        fold=Fold(benchmark="icons", test_domains=("line",), seed=seed),
        method="vl2v_adip",
        hyperparameters=sweep.hyperparameters_for("icons"),
        data_manifest="manifest-of-icons",
        teacher_fingerprint=trainer,
    )


def write_fold(store: SweepFolder, wanted: FoldSpec, *, accuracy: float, finished: float) -> PlannedFold:
    """A finished fold: Align's journal in its own folder, Distill's beside the result."""
    folder, align = store.folds.fold(wanted.key), store.folds.align(wanted.align_key)
    write_json(folder.spec, wanted.to_mapping())
    for stage, place in (("align", align), ("distill", folder)):
        lines = []
        for step in range(4):
            lines.append({"kind": "step", "stage": stage, "step": step, "loss": 1.0 - 0.1 * step, "images": "00"})
            if step % 2 == 1:
                lines.append(
                    {
                        "kind": "evaluation",
                        "stage": stage,
                        "step": step,
                        "accuracy": accuracy - 0.1 + 0.01 * step,
                        "cross_entropy": 1.0,
                        "domains": {"flat": accuracy, "clip art (1)": accuracy},
                        "time": finished - 10 + step,
                    }
                )
        place.append_journal(lines)
    weights = b"weights of " + wanted.key.encode()
    folder.student.write_bytes(weights)
    write_json(folder.test, {"accuracy": {"line": 0.123456}})
    write_json(
        folder.result,
        {
            "key": wanted.key,
            "status": "done",
            "method": wanted.method,
            "fold": asdict(wanted.fold),
            "source_validation": {"accuracy": accuracy, "cross_entropy": 0.9, "domains": {"flat": accuracy}},
            "chosen": {"rule": "swad", "step": 3},
            "stages": [],
            "teacher_queries": {"images": 96, "texts": 13},
            "seconds": 12.5,
            "started": finished - 20,
            "finished": finished,
            "student_sha256": hashlib.sha256(weights).hexdigest(),
        },
    )
    return PlannedFold(fold=wanted.fold, key=wanted.key)


def write_trial(store: SweepFolder, number: int, folds: tuple[PlannedFold, ...]) -> None:
    store.records.write_trial(
        TrialRecord(group=GROUP, number=number, point={}, folds=folds, source="paper", created=START)
    )


def finished_store(out: Path) -> tuple[SweepFolder, Sweep]:
    """Two trials, the second the better one and confirmed on seed 1."""
    sweep, store = small_sweep(), open_store(out)
    store.claim(sweep, [group()], {"icons": "manifest-of-icons"})
    first = write_fold(store, spec(sweep, seed=0, trainer="a"), accuracy=0.5, finished=START + 100)
    second = write_fold(store, spec(sweep, seed=0, trainer="b"), accuracy=0.7, finished=START + 200)
    write_trial(store, 0, (first,))
    write_trial(store, 1, (second,))
    again = write_fold(store, spec(sweep, seed=1, trainer="b"), accuracy=0.6, finished=START + 300)
    store.records.write_selected(SelectedTrial(group=GROUP, number=1, folds=(second, again)))
    return store, sweep
