"""A fold group: the folds that one search is about."""

from __future__ import annotations

from dataclasses import dataclass

from search_spaces.benchmarks import Benchmark
from search_spaces.folds import Fold
from search_spaces.spaces import search_space
from search_spaces.sweeps import Sweep


@dataclass(frozen=True, kw_only=True, slots=True)
class FoldGroup:
    """The folds that one search is about: a benchmark, a method and, in scope `domain`, one test domain."""

    benchmark: str
    method: str
    test_domain: str | None
    """The test domain; None in scope `benchmark`, where one configuration serves all of them."""
    test_domains: tuple[str, ...]
    """The domains that a trial leaves out, one fold each."""
    trials: int
    """Configurations tried on seed 0."""
    seeds: int
    """Repetitions of the best configuration, seed 0 among them."""

    @property
    def name(self) -> str:
        """`PACS/vl2v_adip/sketch`, or `PACS/vl2v_adip/*` for all test domains."""
        return f"{self.benchmark}/{self.method}/{self.test_domain or '*'}"

    @property
    def slug(self) -> str:
        """The name as a file name."""
        return self.name.replace("/", "--").replace("*", "all")

    @property
    def folds_per_trial(self) -> int:
        return len(self.test_domains)

    @property
    def num_folds(self) -> int:
        """Folds of the search and of the confirmation on the other seeds, if every trial is a new configuration."""
        return (self.trials + self.seeds - 1) * self.folds_per_trial

    def folds(self, seed: int) -> tuple[Fold, ...]:
        """The folds of one configuration and seed, in byte order of their test domains."""
        return tuple(Fold(benchmark=self.benchmark, test_domains=(name,), seed=seed) for name in self.test_domains)


def fold_groups(sweep: Sweep, benchmark: Benchmark, method: str) -> tuple[FoldGroup, ...]:
    """The fold groups of one benchmark and method. Where nothing is searched, one trial is enough."""
    hyperparameters = sweep.hyperparameters_for(benchmark.name)
    searched = search_space(sweep.space).dimensions(benchmark, method, hyperparameters)
    trials = sweep.trials if searched else 1
    domains = benchmark.domain_names
    if sweep.scope == "benchmark":
        members: list[tuple[str | None, tuple[str, ...]]] = [(None, domains)]
    else:
        members = [(name, (name,)) for name in domains]
    return tuple(
        FoldGroup(
            benchmark=benchmark.name,
            method=method,
            test_domain=test_domain,
            test_domains=test_domains,
            trials=trials,
            seeds=sweep.seeds,
        )
        for test_domain, test_domains in members
    )
