"""What folds cost: teacher queries at most, and a forecast of GPU time, wall time and money. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from orchestrator.plan.durations import FoldDuration, FoldDurations, Kind, assumed_seconds
from orchestrator.plan.query_bounds import Need, total
from orchestrator.run_options import Limits, RunOptions, gpus_per_fold
from orchestrator.search.folds_to_come import FoldsLeft
from orchestrator.search.specs import FoldSpecs
from orchestrator.store.sweep_folder import SweepFolder
from orchestrator.store.usage import UsageMeter
from search_spaces.benchmarks import Benchmark
from search_spaces.sweeps import Sweep
from trainables.teacher.ledger import reserved_queries


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What folds used, or will."""

    queries: int = 0
    """Images and texts that the teacher is asked for; of what is to come an upper bound."""
    gpu_seconds: float = 0.0
    """Time on the GPUs that folds reserve, busy or not."""
    wall_seconds: float = 0.0
    money: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            queries=self.queries + other.queries,
            gpu_seconds=self.gpu_seconds + other.gpu_seconds,
            wall_seconds=self.wall_seconds + other.wall_seconds,
            money=self.money + other.money,
        )


Extent = Literal["whole", "first", "another"]
"""How far a group's search is taken: to its end; to the first trial and its repeats (where it is started, what was
started); or one trial further, with a new selection."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupStanding:
    """One fold group at one moment, as budgets see it."""

    name: str
    row: Kind
    """Benchmark and method: the groups of a row of a table."""
    is_started: bool
    is_finished: bool
    is_idle: bool
    """Nothing waits or runs and the best trial is settled: only a further trial brings the group work."""
    left: FoldsLeft
    running: frozenset[str] = frozenset()
    """Keys of the folds that run."""
    took: tuple[float, ...] = ()
    """Seconds of each finished fold."""
    queries: Mapping[int | None, Need] = field(default_factory=dict)
    """Upper bound of what is still to be asked, with so many further trials; with all of them for None."""

    def folds(self, extent: Extent) -> int:
        """Folds that are to run."""
        if extent == "whole":
            return self.left.whole
        return self.left.first if extent == "first" else self.left.with_another_trial

    def need(self, extent: Extent) -> Need:
        """Queries that are still to be asked, at most."""
        if extent == "whole":
            return self.queries[None]
        return self.queries[1 if extent == "another" or not self.is_started else 0]


Load = Sequence[tuple[GroupStanding, Extent]]
"""Fold groups, each with how far it is taken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """One budget of time or money."""

    option: str
    name: str
    limit: float
    amount: Callable[[Cost], float]
    """What a cost takes of it."""

    def covers(self, used: Cost, to_come: Cost) -> bool:
        """Whether what is to come fits what is left; what costs nothing always does."""
        return self.amount(to_come) == 0 or self.amount(used + to_come) <= self.limit

    def refusal(self, used: Cost, to_come: Cost, basis: str) -> str:
        """Why this does not begin: numbers, and what to do."""
        return (
            f"the {self.name} of {self.limit:,.4g} does not cover what is left: {self.amount(used):,.4g} spent, "
            f"{self.amount(to_come):,.4g} forecast ({basis}); raise {self.option} and run the same command again"
        )


def accounts(limits: Limits) -> list[Account]:
    """An account for each limit that is set."""
    found: tuple[tuple[str, str, float | None, Callable[[Cost], float]], ...] = (
        ("--gpu-hours-budget", "GPU-hours budget", limits.gpu_hours, lambda cost: cost.gpu_seconds / 3600.0),
        ("--wall-budget", "wall budget (hours)", limits.wall_hours, lambda cost: cost.wall_seconds / 3600.0),
        ("--money-budget", "money budget", limits.money, lambda cost: cost.money),
    )
    return [
        Account(option=option, name=name, limit=limit, amount=amount)
        for option, name, limit, amount in found
        if limit is not None
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """What a fold reserves, and prices."""

    gpus_per_fold: float = 0.0
    per_gpu_hour: float = 0.0
    per_1000_queries: float = 0.0
    """0 where queries cost nothing, or money is not limited."""


class CostForecast:
    """What folds will cost, by the durations of those that are done, and what was used."""

    def __init__(
        self,
        assumed: Callable[[Kind], float],
        meter: UsageMeter,
        *,
        rates: Rates | None = None,
        asked: Callable[[], int] = lambda: 0,
    ) -> None:
        """Start with nothing measured.

        Args:
            assumed: seconds of a fold of a kind, until one is finished.
            meter: tells the time that was used.
            rates: what a fold reserves, and prices.
            asked: queries that were asked so far, in all of the store.
        """
        self._assumed, self.meter, self._rates, self._asked = assumed, meter, rates or Rates(), asked
        self._durations, self._is_measured = FoldDurations(assumed), False
        self.at_once: Callable[[], int] | None = None
        """Folds that fit side by side; None while that is not known."""

    def refresh(self) -> None:
        """A fold ended: measure again when next told to."""
        self._is_measured = False

    def measure(self, groups: Mapping[str, GroupStanding]) -> None:
        """Learn from the finished folds of these groups, once for every `refresh`."""
        if self._is_measured:
            return
        took: dict[Kind, list[float]] = {}
        for group in groups.values():
            took.setdefault(group.row, []).extend(group.took)
        self._durations, self._is_measured = FoldDurations(self._assumed, took), True

    def of(self, row: Kind) -> FoldDuration:
        """What a fold of a benchmark and method takes."""
        return self._durations.of(row)

    def is_measured(self, row: Kind) -> bool:
        """Whether more is known of such folds than the assumption."""
        return self.of(row).basis != "assumed"

    def basis(self, load: Load) -> str:
        """How well the durations of these folds are known, in words."""
        found = sorted({self.of(group.row).basis for group, extent in load if group.folds(extent)}, reverse=True)
        hint = "; --seconds-per-fold tells better" if "assumed" in found else ""
        return ", ".join(found) + hint

    def asked(self) -> Cost:
        """Queries that were asked so far."""
        return Cost(queries=self._asked())

    def used(self) -> Cost:
        """Time and money that were used so far."""
        used, rates = self.meter.total, self._rates
        money = used.gpu_hours * rates.per_gpu_hour
        if rates.per_1000_queries:
            money += self._asked() / 1000.0 * rates.per_1000_queries
        return Cost(gpu_seconds=used.gpu_seconds, wall_seconds=used.wall_seconds, money=money)

    def queries(self, load: Load) -> Cost:
        """Queries of these folds, at most; what several share counts once."""
        return Cost(queries=total(group.need(extent) for group, extent in load).queries)

    def time(self, load: Load) -> Cost:
        """Time and money of these folds; what running ones have done already is taken off."""
        seconds = sum(self._seconds(load))
        gpu_seconds = seconds * self._rates.gpus_per_fold
        money = gpu_seconds / 3600.0 * self._rates.per_gpu_hour + self._price_of_queries(load)
        return Cost(gpu_seconds=gpu_seconds, wall_seconds=self._wall_seconds(load, seconds), money=money)

    def _seconds(self, load: Load) -> Iterator[float]:
        for group, extent in load:
            each = self.of(group.row).seconds
            done = sum(min(self.meter.elapsed(key), each) for key in group.running)
            yield max(0.0, group.folds(extent) * each - done)

    def _wall_seconds(self, load: Load, seconds: float) -> float:
        """Until the last of these folds is done, with as many side by side as fit; at least one fold's time."""
        longest = max((self.of(group.row).seconds for group, extent in load if group.folds(extent)), default=0.0)
        at_once = self.meter.total.folds_at_once if self.at_once is None else self.at_once()
        return 0.0 if seconds == 0 else max(seconds / at_once if at_once else 0.0, min(longest, seconds))

    def _price_of_queries(self, load: Load) -> float:
        """A part of a group's folds is taken for that part of its queries."""
        per_1000 = self._rates.per_1000_queries
        if per_1000 == 0:
            return 0.0
        parts = ((group, group.folds(extent) / max(1, group.left.whole)) for group, extent in load)
        return sum(group.need("whole").price(per_1000) * min(1.0, part) for group, part in parts if part)


def assumed_durations(
    sweep: Sweep, benchmarks: Mapping[str, Benchmark], seconds_per_fold: float | None
) -> Callable[[Kind], float]:
    """Seconds of a fold of a kind before one is finished: as the user says, else by `assumed_seconds`."""

    def assumed(kind: Kind) -> float:
        benchmark, method = kind
        if seconds_per_fold is not None:
            return seconds_per_fold
        return assumed_seconds(benchmarks[benchmark], sweep.hyperparameters_for(benchmark), method)

    return assumed


def sweep_costs(
    specs: FoldSpecs,
    store: SweepFolder,
    meter: UsageMeter,
    options: RunOptions,
) -> CostForecast:
    """The costs of a sweep, at its prices."""
    limits = options.limits
    rates = Rates(
        gpus_per_fold=gpus_per_fold(options.resources),
        per_gpu_hour=limits.price_per_gpu_hour or 0.0,
        per_1000_queries=0.0 if limits.money is None else options.price_per_1000 or 0.0,
    )
    return CostForecast(
        assumed_durations(specs.sweep, specs.benchmarks, limits.seconds_per_fold),
        meter,
        rates=rates,
        asked=lambda: reserved_queries(store.folds.queries_folder),
    )
