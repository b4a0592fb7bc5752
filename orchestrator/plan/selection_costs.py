"""What each model selection costs a sweep: folds, folds shared, stages, teacher queries. No torch, nothing is read.

Training-domain validation and the oracle judge a configuration by the folds that are run anyway. Leave-one-domain-out
selection wants D - 1 pair folds for every configuration and test domain on top; where two test domains try the same
configuration, the fold that leaves out both serves both.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from orchestrator.plan.costs import align_is_shared, teacher_queries_per_fold
from orchestrator.plan.fold_groups import has_selection
from orchestrator.plan.query_bounds import Need, largest
from search_spaces.benchmarks import Benchmark
from search_spaces.errors import UserError
from search_spaces.fold_groups import FoldGroup
from search_spaces.hyperparameters import Hyperparameters
from search_spaces.methods import method_facts
from search_spaces.samplers import EACH_DOMAIN_ALIKE
from search_spaces.schedule import stage_steps
from search_spaces.sweeps import Sweep

PAIR = 2
"""Domains that a pair fold leaves out."""

FEWEST_DOMAINS = 3
"""Below that, a pair fold has nothing left to train on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairCount:
    """How many pair folds leave-one-domain-out selection needs for a number of configurations."""

    asked: int
    """Counted once for every test domain that they select for."""
    run: int
    """Folds that are run: a pair serves both of its domains where the configuration is the same."""

    @property
    def shared(self) -> int:
        return self.asked - self.run

    def __add__(self, other: PairCount) -> PairCount:
        return PairCount(asked=self.asked + other.asked, run=self.run + other.run)


def count_pairs(num_domains: int, *, agreeing: int, own: int) -> PairCount:
    """Count the pair folds of a benchmark and method over all of its test domains.

    Args:
        num_domains: D; a configuration needs D - 1 pair folds for each test domain.
        agreeing: Configurations that every test domain tries: D (D - 1) / 2 folds serve all.
        own: Configurations that one test domain alone tries, for each of them.
    """
    all_pairs = num_domains * (num_domains - 1)
    return PairCount(asked=(agreeing + own) * all_pairs, run=agreeing * all_pairs // 2 + own * all_pairs)


@dataclass(frozen=True, kw_only=True, slots=True)
class PairForecast:
    """What the pair folds of one benchmark and method cost; nothing where nothing is selected."""

    benchmark: str
    method: str
    count: PairCount = field(default_factory=lambda: PairCount(asked=0, run=0))
    stages: int = 0
    """Training stages if no Align is shared."""
    stages_shared: int = 0
    """Of these, Align stages that another pair fold of the same two domains has run, at best."""
    steps: int = 0
    """Update steps of all stages, if no Align is shared."""
    fold_steps: int = 0
    """Update steps of the folds that the sweep runs anyway, for comparison."""
    queries: int = 0
    """Images that they ask the teacher for with the sweep's own batch size."""
    need: Need = field(default_factory=Need)
    """What they ask the teacher at most, whatever batch size a trial has."""


def pair_forecast(sweep: Sweep, benchmark: Benchmark, method: str, groups: Sequence[FoldGroup]) -> PairForecast:
    """Count the pair folds of one benchmark and method.

    Raises:
        UserError: the sweep selects by them and the benchmark has too few domains.
    """
    domains, facts = benchmark.domain_names, method_facts(method)
    trials = max(group.trials for group in groups)
    if sweep.selection == "leave_one_domain_out" and has_selection(method, trials):
        check_enough_domains(benchmark.name, domains)
    steps = sum(stage_steps(benchmark, sweep.hyperparameters_for(benchmark.name), method))
    fold_steps = steps * sum(group.num_folds for group in groups)
    if not has_selection(method, trials) or len(domains) <= PAIR:
        return PairForecast(benchmark=benchmark.name, method=method, fold_steps=fold_steps)
    agreeing = trials if points_agree(sweep) else 1
    searches = len({group.own_seed for group in groups})
    count = count_pairs(len(domains), agreeing=searches * agreeing, own=searches * (trials - agreeing))
    pairs = searches * len(domains) * (len(domains) - 1) // 2
    shared = count.run - pairs if align_is_shared(sweep, benchmark, method) else 0
    return PairForecast(
        benchmark=benchmark.name,
        method=method,
        count=count,
        stages=count.run * len(facts.stages),
        stages_shared=shared,
        steps=count.run * steps,
        fold_steps=fold_steps,
        queries=_need(benchmark, method, sweep.hyperparameters_for(benchmark.name)).images * count.run,
        need=_need(benchmark, method, largest(sweep, benchmark, method)).times(count.run),
    )


def check_enough_domains(benchmark: str, domains: Collection[str]) -> None:
    """Raises `UserError` where a pair fold would leave nothing to train on."""
    if len(domains) < FEWEST_DOMAINS:
        raise UserError(
            f"leave_one_domain_out leaves two domains out at a time: {benchmark} has {len(domains)} domains and needs "
            f"{FEWEST_DOMAINS} or more; use --selection source_validation"
        )


def points_agree(sweep: Sweep) -> bool:
    """Whether all test domains try the same configurations (of a seed); otherwise only the first, the sweep's own."""
    return sweep.scope == "benchmark" or sweep.sampler in EACH_DOMAIN_ALIKE


def _need(benchmark: Benchmark, method: str, hyperparameters: Hyperparameters) -> Need:
    """What one pair fold asks the teacher: nothing with stored views, which other folds ask for too."""
    facts = method_facts(method)
    if hyperparameters.teacher_mode != "live":
        return Need()
    images = teacher_queries_per_fold(benchmark, hyperparameters, method, num_test_domains=PAIR)
    return Need(images=images, texts=benchmark.num_classes if facts.asks else 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectionCost:
    """What one model selection costs the whole sweep."""

    selection: str
    folds: int
    """All folds: search, further seeds, and what the selection adds."""
    pair_folds: int = 0
    """Of these, pair folds."""
    pair_folds_shared: int = 0
    """Pair folds that are not run again, because another test domain's serves too."""
    stages: int = 0
    """Training stages of the pair folds, if no Align is shared."""
    stages_shared: int = 0
    images: int = 0
    """Images that the pair folds ask the teacher for at most."""
    texts: int = 0
    share_of_steps: float = 0.0
    """Update steps of the pair folds, as a share of those of all other folds."""


def selection_costs(num_folds: int, forecasts: Iterable[PairForecast]) -> tuple[SelectionCost, ...]:
    """The three selections beside one another.

    Args:
        num_folds: Folds of the search and of the further seeds.
        forecasts: The pair folds of every benchmark and method.
    """
    items = list(forecasts)
    count = sum((item.count for item in items), PairCount(asked=0, run=0))
    need = sum((item.need for item in items), Need())
    others = sum(item.fold_steps for item in items)

    return (
        SelectionCost(selection="source_validation", folds=num_folds),
        SelectionCost(
            selection="leave_one_domain_out",
            folds=num_folds + count.run,
            pair_folds=count.run,
            pair_folds_shared=count.shared,
            stages=sum(item.stages for item in items),
            stages_shared=sum(item.stages_shared for item in items),
            images=need.all_images,
            texts=need.all_texts,
            share_of_steps=sum(item.steps for item in items) / others if others else 0.0,
        ),
        SelectionCost(selection="oracle", folds=num_folds),
    )
