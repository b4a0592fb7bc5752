"""A fold: one benchmark, its test domain and a seed; everything else about it is hyperparameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations

from search_spaces.benchmarks import Benchmark


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Fold:
    """The part of a run that says what is left out and which repetition it is."""

    benchmark: str
    """Name of the benchmark, as in `search_spaces.benchmarks`."""
    test_domains: tuple[str, ...]
    """The domains left out: one, or two for the pair folds of leave-one-domain-out selection."""
    seed: int
    """The repetition: split, initialisation, batch order and views all follow from it."""

    def __post_init__(self) -> None:
        if not self.test_domains:
            raise ValueError("a fold leaves at least one domain out")
        if tuple(sorted(self.test_domains)) != self.test_domains:
            raise ValueError(f"test domains stand in byte order, got {self.test_domains}")
        if self.seed < 0:
            raise ValueError(f"a seed is 0 or more, got {self.seed}")

    @property
    def test_domain(self) -> str:
        """The first domain left out (the only one, except in a pair fold)."""
        return self.test_domains[0]

    def __str__(self) -> str:
        return f"{self.benchmark}/{'+'.join(self.test_domains)}/seed{self.seed}"


def leave_one_domain_out(benchmark: Benchmark, seeds: Iterable[int]) -> Iterator[Fold]:
    """Every domain left out once, for every seed; domains vary slowest."""
    seeds = tuple(seeds)
    for domain in benchmark.domain_names:
        for seed in seeds:
            yield Fold(benchmark=benchmark.name, test_domains=(domain,), seed=seed)


def leave_two_domains_out(benchmark: Benchmark, seeds: Iterable[int]) -> Iterator[Fold]:
    """Every pair of domains left out once, for every seed: what leave-one-domain-out selection needs on top."""
    seeds = tuple(seeds)
    for pair in combinations(benchmark.domain_names, 2):
        for seed in seeds:
            yield Fold(benchmark=benchmark.name, test_domains=pair, seed=seed)
