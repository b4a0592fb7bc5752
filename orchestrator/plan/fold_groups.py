"""A fold group: the folds that one search is about."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from search_spaces.benchmarks import Benchmark
from search_spaces.folds import Fold
from search_spaces.methods import method_facts
from search_spaces.samplers import EACH_SEED, check_sampler
from search_spaces.spaces import search_space
from search_spaces.sweeps import Sweep


@dataclass(frozen=True, kw_only=True, slots=True)
class FoldGroup:
    """The folds that one search is about: a benchmark, a method and, in scope `domain`, one test domain.

    Where every seed is searched anew, also one seed.
    """

    benchmark: str
    method: str
    test_domain: str | None
    """The test domain; None in scope `benchmark`, where one configuration serves all of them."""
    test_domains: tuple[str, ...]
    """The domains that a trial leaves out, one fold each."""
    trials: int
    """Configurations tried, on seed 0 or on the seed of its own."""
    seeds: int
    """Repetitions of the best configuration, the search's own seed among them."""
    pair_folds: int = 0
    """Folds that leave two domains out, where the sweep selects by them; other groups may share some."""
    own_seed: int | None = None
    """The one seed that is searched and judged here, where every seed is searched anew; None for seed 0 and on."""

    @property
    def name(self) -> str:
        """`PACS/vl2v_adip/sketch`, `PACS/vl2v_adip/*` for all test domains, or with `/seed1` for a seed of its own."""
        own = "" if self.own_seed is None else f"/seed{self.own_seed}"
        return f"{self.benchmark}/{self.method}/{self.test_domain or '*'}{own}"

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
    """The fold groups of one benchmark and method. Where nothing is searched, one trial is enough.

    Raises:
        UserError: the sweep's sampler cannot search its space.
    """
    hyperparameters = sweep.hyperparameters_for(benchmark.name)
    searched = search_space(sweep.space).dimensions(benchmark, method, hyperparameters)
    trials = sweep.trials if searched else 1
    if trials > 1:
        check_sampler(sweep.sampler, space=sweep.space, dimensions=searched)
    domains = benchmark.domain_names
    if sweep.scope == "benchmark":
        members: list[tuple[str | None, tuple[str, ...]]] = [(None, domains)]
    else:
        members = [(name, (name,)) for name in domains]
    apart = trials > 1 and sweep.seeds > 1 and sweep.sampler in EACH_SEED
    own_seeds: Sequence[int | None] = range(sweep.seeds) if apart else (None,)
    return tuple(
        FoldGroup(
            benchmark=benchmark.name,
            method=method,
            test_domain=test_domain,
            test_domains=test_domains,
            trials=trials,
            seeds=1 if apart else sweep.seeds,
            pair_folds=_pair_folds(sweep, method, trials, test_domains, domains),
            own_seed=own_seed,
        )
        for test_domain, test_domains in members
        for own_seed in own_seeds
    )


def chooses(method: str, trials: int) -> bool:
    """Whether a fold group has something to choose: several configurations of a method that trains."""
    return trials > 1 and method_facts(method).trains


def _pair_folds(sweep: Sweep, method: str, trials: int, test_domains: tuple[str, ...], domains: tuple[str, ...]) -> int:
    if sweep.selection != "leave_one_domain_out" or not chooses(method, trials):
        return 0
    return trials * len(domain_pairs(test_domains, domains))


def domain_pairs(test_domains: Iterable[str], domains: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Every pair of domains that holds at least one of the test domains, once, each in byte order.

    >>> domain_pairs(["b"], ["a", "b", "c"])
    (('a', 'b'), ('b', 'c'))
    """
    pairs = {tuple(sorted((test, other))) for test in test_domains for other in domains if test != other}
    return tuple(sorted(pairs))  # type: ignore[arg-type]
