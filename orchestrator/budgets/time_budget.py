"""Budgets of time and money: what fold groups will take, and the accounts that admission asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from orchestrator.budgets.limits import Account, Load
from orchestrator.plan.durations import FoldDuration, FoldDurations, Kind, assumed_seconds
from orchestrator.plan.query_bounds import Need
from orchestrator.run_options import Limits
from orchestrator.search.folds_to_come import folds_left, running_keys, seconds_taken
from orchestrator.store.usage import Usage, UsageMeter
from search_spaces.benchmarks import Benchmark
from search_spaces.sweeps import Sweep

if TYPE_CHECKING:
    from orchestrator.search.group_search import GroupAgenda


class TimeForecast:
    """How long folds will take, from those of this sweep that are done."""

    def __init__(
        self,
        sweep: Sweep,
        benchmarks: Mapping[str, Benchmark],
        meter: UsageMeter,
        *,
        seconds_per_fold: float | None = None,
    ) -> None:
        self._sweep, self._benchmarks, self._meter, self._told = sweep, benchmarks, meter, seconds_per_fold
        self._durations: FoldDurations | None = None
        self.groups: Sequence[GroupAgenda] = ()
        """Whose finished folds are measured."""
        self.at_once: Callable[[], int] | None = None
        """Folds that fit side by side; None while that is not known."""

    def refresh(self) -> None:
        """A fold ended: measure again when next asked."""
        self._durations = None

    def of(self, group: GroupAgenda) -> FoldDuration:
        """What a fold of the group takes."""
        if self._durations is None:
            took: dict[Kind, list[float]] = {}
            for other in self.groups:
                took.setdefault((other.group.benchmark, other.group.method), []).extend(seconds_taken(other))
            self._durations = FoldDurations(self._assumed, took)
        return self._durations.of((group.group.benchmark, group.group.method))

    def is_measured(self, group: GroupAgenda) -> bool:
        """Whether more is known of the group's folds than the assumption."""
        return self.of(group).basis != "assumed"

    def seconds(self, load: Load) -> float:
        """Of all these folds, one after the other; what running ones have done already is taken off."""
        return sum(self._seconds(load))

    def basis(self, load: Load) -> str:
        """How well the durations of these folds are known."""
        found = sorted({self.of(group).basis for group, folds in load if folds}, reverse=True)
        hint = "; --seconds-per-fold tells better" if "assumed" in found else ""
        return ", ".join(found) + hint

    def wall_seconds(self, load: Load) -> float:
        """Until the last of these folds is done, with as many side by side as fit; at least one fold's time."""
        total = self.seconds(load)
        longest = max((self.of(group).seconds for group, folds in load if folds), default=0.0)
        at_once = self._meter.total.folds_at_once if self.at_once is None else self.at_once()
        return 0.0 if total == 0 else max(total / at_once if at_once else 0.0, min(longest, total))

    def _seconds(self, load: Load) -> Iterator[float]:
        for group, folds in load:
            each = self.of(group).seconds
            done = sum(min(self._meter.elapsed(key), each) for key in running_keys(group))
            yield max(0.0, folds * each - done)

    def _assumed(self, kind: Kind) -> float:
        benchmark, method = kind
        if self._told is not None:
            return self._told
        return assumed_seconds(self._benchmarks[benchmark], self._sweep.hyperparameters_for(benchmark), method)


class QueryPrice:
    """What the teacher's queries cost, where money is limited."""

    def __init__(self, per_1000: float = 0.0, *, need: Callable[[GroupAgenda], Need], asked: Callable[[], int]) -> None:
        """Remember whom to ask.

        Args:
            per_1000: price of a thousand queries.
            need: an upper bound of what a group still asks for.
            asked: queries that were asked so far, in all of the store.
        """
        self._per_1000, self._need, self._asked = per_1000, need, asked

    def spent(self) -> float:
        return self._asked() / 1000.0 * self._per_1000

    def cost(self, load: Load) -> float:
        """Of these folds; a part of a group's folds is taken for that part of its queries."""
        if self._per_1000 == 0:
            return 0.0
        parts = ((self._need(group), folds / max(1, folds_left(group).whole)) for group, folds in load if folds)
        return sum(need.price(self._per_1000) * min(1.0, part) for need, part in parts)


def accounts(
    limits: Limits, forecast: TimeForecast, used: Callable[[], Usage], *, gpus: float, queries: QueryPrice
) -> list[Account]:
    """An account for each limit that is set.

    Args:
        forecast: of how long folds take.
        used: what was used so far.
        gpus: that one fold reserves.
        queries: what they cost.
    """
    per_hour = limits.price_per_gpu_hour or 0.0

    def gpu_hours(load: Load) -> float:
        return forecast.seconds(load) * gpus / 3600.0

    found = (
        ("--gpu-hours-budget", "GPU-hours budget", limits.gpu_hours, lambda: used().gpu_hours, gpu_hours),
        (
            "--wall-budget",
            "wall budget (hours)",
            limits.wall_hours,
            lambda: used().wall_hours,
            lambda load: forecast.wall_seconds(load) / 3600.0,
        ),
        (
            "--money-budget",
            "money budget",
            limits.money,
            lambda: used().gpu_hours * per_hour + queries.spent(),
            lambda load: gpu_hours(load) * per_hour + queries.cost(load),
        ),
    )
    return [
        Account(option=option, name=name, limit=limit, spent=spent, cost=cost, basis=forecast.basis)
        for option, name, limit, spent, cost in found
        if limit is not None
    ]
