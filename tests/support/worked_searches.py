"""Searches whose folds are written by hand, for rules that prune."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.scheduler.fold_queue import Attempt
from orchestrator.search.pruning import Decision, read_decisions
from search_spaces.hyperparameters import FoldSpec
from search_spaces.sweeps import Sweep, sweep_from_mapping
from tests.support.bench import Bench
from tests.support.stub_worker import surface
from trainables.jobs import FoldJob
from trainables.storage.json_files import write_json

LAST = 8
"""Evaluations of a fold are at steps 0 to 8."""


def sweep_of(**fields: Any) -> Sweep:
    section = {"benchmarks": ["icons"], "methods": ["erm"], "space": "wide", "trials": 10, "seeds": 2}
    return sweep_from_mapping(
        {
            "sweep": {**section, "zero_shot": False, "pruner": "median", "audit_share": 0.0, **fields},
            "hyperparameters": {"distill": {"num_steps": LAST}, "evaluate_every": 1},
        }
    )


Accuracy = Callable[[FoldJob], float]


def by_lr(job: FoldJob) -> float:
    return surface(job)


class Worked(Bench):
    """Folds that report a growing curve, one evaluation after another, as a worker does."""

    def __init__(self, out: Path, sweep: Sweep | None = None, *, accuracy: Accuracy = by_lr, **options: Any) -> None:
        super().__init__(out, sweep or sweep_of(), **options)
        self.accuracy = accuracy
        self.test_json: bytes | None = None
        self.log = out / "EVALUATED"

    def run(self, attempt: Attempt, *, until: int = LAST) -> Decision | None:
        """Run a fold up to an evaluation and tell the dispatcher what a back end would; the decision that ended it."""
        folder, job = self.store.folds.fold(attempt.planned.key), self.jobs.job(attempt.spec)
        write_json(folder.spec, attempt.spec.to_mapping())
        known = {entry["step"] for entry in folder.read_journal()}
        for step in range(until + 1):
            if step in known:
                continue
            entry = {"kind": "evaluation", "stage": "distill", "step": step, "cross_entropy": 1.0, "domains": {}}
            folder.append_journal([{**entry, "accuracy": self.accuracy(job) * (step + 1) / (LAST + 1), "time": 0.0}])
            if self.dispatcher.reported(attempt, {"stage": "distill", "step": step}):
                self.dispatcher.ended(attempt)
                return next(one for one in self.decisions() if (one.key, one.verdict) == (attempt.planned.key, "prune"))
        if until == LAST:
            self.write_result(attempt.spec)
            self.dispatcher.ended(attempt)
        return None

    def write_result(self, spec: FoldSpec) -> None:
        folder, accuracy = self.store.folds.fold(spec.key), self.accuracy(self.jobs.job(spec))
        if self.test_json is not None:
            folder.test.write_bytes(self.test_json)
        write_json(folder.spec, spec.to_mapping())
        times = {"seconds": 1.0, "started": 0.0, "finished": 1.0}
        write_json(folder.result, {"key": spec.key, "source_validation": {"accuracy": accuracy}, **times})

    def decisions(self) -> list[Decision]:
        return [decision for group in self.groups for decision in read_decisions(self.store, group.name)]

    def made(self) -> list[tuple[Any, ...]]:
        """The decisions without their times."""
        return sorted(
            (one.group, one.number, one.rule, one.verdict, one.step, one.key, one.value, one.threshold, one.folds)
            for one in self.decisions()
        )

    def pruned_keys(self) -> set[str]:
        return {key for one in self.decisions() for key in one.folds}


def between(**fields: Any) -> Sweep:
    return sweep_of(scope="benchmark", pruner="none", **fields)
