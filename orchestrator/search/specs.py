"""From a sweep, a fold group and a point to fold specifications with their keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from orchestrator.store.records import PlannedFold
from search_spaces.benchmarks import Benchmark
from search_spaces.fold_groups import FoldGroup
from search_spaces.folds import Fold
from search_spaces.hyperparameters import FoldSpec, Hyperparameters
from search_spaces.methods import method_facts
from search_spaces.spaces import Point, search_space
from search_spaces.sweeps import Sweep
from trainables.student.fingerprint import student_fingerprint
from trainables.teacher.fingerprint import teacher_fingerprint


@dataclass(frozen=True, kw_only=True)
class FoldSpecs:
    """Builds the specification of every fold of a sweep."""

    sweep: Sweep
    benchmarks: Mapping[str, Benchmark]
    manifests: Mapping[str, str] = field(default_factory=dict)
    """Hash of each benchmark's images, by benchmark name."""

    def spec(self, group: FoldGroup, point: Point, fold: Fold) -> FoldSpec:
        """What one fold of a trial computes."""
        hyperparameters = self.sweep.hyperparameters_for(group.benchmark)
        tried = search_space(self.sweep.space).apply(hyperparameters, point)
        return fold_spec(fold, method=group.method, hyperparameters=tried, data_manifest=self.manifests[fold.benchmark])

    def planned(self, group: FoldGroup, point: Point, seeds: range) -> tuple[PlannedFold, ...]:
        """A configuration's folds: every test domain of the group on every seed."""
        folds = (
            Fold(benchmark=group.benchmark, test_domains=(domain,), seed=seed)
            for domain in group.test_domains
            for seed in seeds
        )
        return tuple(PlannedFold(fold=fold, key=self.spec(group, point, fold).key) for fold in folds)


def fold_spec(fold: Fold, *, method: str, hyperparameters: Hyperparameters, data_manifest: str) -> FoldSpec:
    """A fold's specification, with the weights that it starts from named by content.

    Raises:
        UserError: the hyperparameters name a teacher, a student or a file that there is not.
    """
    facts = method_facts(method)
    asks_teacher = facts.asks or facts.student_is_teacher
    own_student = facts.trains and not facts.student_is_teacher
    return FoldSpec(
        fold=fold,
        method=method,
        hyperparameters=hyperparameters,
        data_manifest=data_manifest,
        teacher_fingerprint=_teacher(hyperparameters.teacher) if asks_teacher else "",
        student_fingerprint=_student(hyperparameters.student, hyperparameters.student_weights) if own_student else "",
    )


@lru_cache(maxsize=64)
def _teacher(name: str) -> str:
    return teacher_fingerprint(name)


@lru_cache(maxsize=64)
def _student(student: str, weights: str) -> str:
    return student_fingerprint(student, weights)
