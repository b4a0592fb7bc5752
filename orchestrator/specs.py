"""From a sweep, a fold group and a point to fold specifications with their keys, and on to jobs for workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from orchestrator.attempts import read_attempts
from orchestrator.records import GroupRecord, PlannedFold
from orchestrator.store import Store
from search_spaces.benchmarks import Benchmark
from search_spaces.folds import Fold
from search_spaces.hyperparameters import FoldSpec, Hyperparameters, Resources
from search_spaces.methods import method_facts
from search_spaces.spaces import Point, search_space
from search_spaces.sweeps import Sweep
from trainables.fingerprints import student_fingerprint, teacher_fingerprint
from trainables.jobs import FoldJob


@dataclass(frozen=True, kw_only=True)
class FoldSpecs:
    """Builds the specification of every fold of a sweep."""

    sweep: Sweep
    benchmarks: Mapping[str, Benchmark]
    manifests: Mapping[str, str] = field(default_factory=dict)
    """Hash of each benchmark's images, by benchmark name."""

    def spec(self, group: GroupRecord, point: Point, fold: Fold) -> FoldSpec:
        """What one fold of a trial computes."""
        hyperparameters = self.sweep.hyperparameters_for(group.benchmark)
        tried = search_space(self.sweep.space).apply(hyperparameters, point)
        return fold_spec(fold, method=group.method, hyperparameters=tried, data_manifest=self.manifests[fold.benchmark])

    def planned(self, group: GroupRecord, point: Point, seeds: range) -> tuple[PlannedFold, ...]:
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


@dataclass(frozen=True, kw_only=True)
class FoldJobs:
    """Turns specifications into what a worker needs to run them."""

    store: Store
    benchmarks: Mapping[str, Benchmark]
    data_root: str | None
    resources: Resources
    query_budget: int | None = None
    """Most teacher queries that all folds of the store may ever ask."""

    def job(self, spec: FoldSpec) -> FoldJob:
        """The fold's job; its batches in smaller pieces where memory ran out before."""
        doublings = read_attempts(self.store.fold(spec.key)).doublings
        return FoldJob(
            spec=spec,
            benchmark=self.benchmarks[spec.fold.benchmark],
            folder=str(self.store.fold(spec.key).path),
            align_folder=str(self.store.align(spec.align_key).path),
            data_root=self.data_root,
            cache_folder=str(self.store.data_folder),
            query_budget=self.query_budget,
            mirrors=self.store.mirrors.addresses,
            resources=replace(self.resources, batch_pieces=self.resources.batch_pieces * 2**doublings),
        )


def absolute_data_root(data_root: str | Path | None) -> str | None:
    """The data root as workers see it, whatever their working folder; an address (`s3://...`) as it is."""
    if data_root is None or "://" in str(data_root):
        return None if data_root is None else str(data_root)
    return str(Path(data_root).expanduser().absolute())


@lru_cache(maxsize=64)
def _teacher(name: str) -> str:
    return teacher_fingerprint(name)


@lru_cache(maxsize=64)
def _student(student: str, weights: str) -> str:
    return student_fingerprint(student, weights)
