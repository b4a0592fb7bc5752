"""Which fold groups a sweep has, and the pair folds that its model selection asks for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from search_spaces.benchmarks import Benchmark
from search_spaces.fold_groups import FoldGroup, fold_group_name
from search_spaces.methods import method_facts
from search_spaces.samplers import EACH_SEED, check_sampler
from search_spaces.spaces import search_space
from search_spaces.sweeps import Sweep


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
            name=fold_group_name(benchmark.name, method, test_domain=test_domain, own_seed=own_seed),
            benchmark=benchmark.name,
            method=method,
            test_domains=test_domains,
            trials=trials,
            seeds=1 if apart else sweep.seeds,
            own_seed=own_seed,
        )
        for test_domain, test_domains in members
        for own_seed in own_seeds
    )


def has_selection(method: str, trials: int) -> bool:
    """Whether a fold group has something to choose: several configurations of a method that trains."""
    return trials > 1 and method_facts(method).trains


def is_shared_choice(group: FoldGroup) -> bool:
    """Whether one choice serves several test domains: each one's images are then sources of folds that make it."""
    return len(group.test_domains) > 1 and has_selection(group.method, group.trials)


def planned_pair_folds(sweep: Sweep, group: FoldGroup, domains: tuple[str, ...]) -> int:
    """Folds that leave two domains out, where the sweep selects by them; other groups may share some.

    Args:
        domains: the benchmark's.
    """
    if sweep.selection != "leave_one_domain_out" or not has_selection(group.method, group.trials):
        return 0
    return group.trials * len(domain_pairs(group.test_domains, domains))


def domain_pairs(test_domains: Iterable[str], domains: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Every pair of domains that holds at least one of the test domains, once, each in byte order.

    >>> domain_pairs(["b"], ["a", "b", "c"])
    (('a', 'b'), ('b', 'c'))
    """
    pairs = {tuple(sorted((test, other))) for test in test_domains for other in domains if test != other}
    return tuple(sorted(pairs))  # type: ignore[arg-type]
