"""From a fold's specification to the job that a worker runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from orchestrator.store.failures import read_failures
from orchestrator.store.sweep_folder import SweepFolder
from search_spaces.benchmarks import Benchmark
from search_spaces.hyperparameters import FoldSpec, Resources
from trainables.jobs import FoldJob


@dataclass(frozen=True, kw_only=True)
class FoldJobs:
    """Turns specifications into what a worker needs to run them."""

    store: SweepFolder
    benchmarks: Mapping[str, Benchmark]
    data_root: str | None
    resources: Resources
    query_budget: int | None = None
    """Most teacher queries that all folds of the store may ever ask."""

    def job(self, spec: FoldSpec) -> FoldJob:
        """The fold's job; its batches in smaller pieces where memory ran out before."""
        doublings = read_failures(self.store.folds.fold(spec.key)).doublings
        return FoldJob(
            spec=spec,
            benchmark=self.benchmarks[spec.fold.benchmark],
            folder=str(self.store.folds.fold(spec.key).path),
            align_folder=str(self.store.folds.align(spec.align_key).path),
            data_root=self.data_root,
            cache_folder=str(self.store.data_folder),
            query_budget=self.query_budget,
            mirrors=self.store.mirrors.addresses,
            resources=replace(self.resources, batch_pieces=self.resources.batch_pieces * 2**doublings),
        )
