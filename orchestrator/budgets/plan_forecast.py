"""The time and money that a plan forecasts, and what budgets make of it. No torch.

Folds are taken to last as those that a sweep's folder holds finished, or by the stated assumption of
`orchestrator.plan.durations`; what is shared is not taken off before it was measured.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.budgets.costs import assumed_durations
from orchestrator.plan.durations import FoldDurations, Kind
from orchestrator.plan.plan import Plan
from orchestrator.run_options import Limits, gpus_per_fold
from orchestrator.store.sweep_folder import SweepFolder
from search_spaces.hyperparameters import Resources


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanForecast:
    """What the folds of a whole sweep take, one after the other."""

    folds: int
    fold_hours: float
    gpus_per_fold: float
    basis: str
    """`measured`, or which part is assumed."""
    query_money: float | None
    """Price of the teacher's queries, at most; None without a price, or where they are not counted."""
    money: float | None
    """Price of all, at most; None without a price."""
    pair_fold_hours: float = 0.0
    """Of leave-one-domain-out selection's pair folds, whether the sweep selects by them or not."""

    @property
    def gpu_hours(self) -> float:
        return self.fold_hours * self.gpus_per_fold

    @property
    def pair_fold_time(self) -> str:
        """What the pair folds take, in words."""
        gpus = f" ({self.pair_fold_hours * self.gpus_per_fold:,.1f} GPU-hours)" if self.gpus_per_fold else ""
        return f"{self.pair_fold_hours:,.1f} h one after the other{gpus}"

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return {**asdict(self), "gpu_hours": self.gpu_hours}


def forecast_time(
    plan: Plan,
    resources: Resources,
    limits: Limits,
    *,
    price_per_1000: float | None = None,
    store: SweepFolder | None = None,
) -> PlanForecast:
    """Forecast all folds of a plan, those too that `store` holds finished, by how long these took."""
    assumed = assumed_durations(plan.sweep, plan.benchmarks, limits.seconds_per_fold)
    known = FoldDurations(assumed, {} if store is None else took(store))
    folds = {(item.benchmark, item.method): item.folds for item in plan.forecasts}
    if plan.selection.pair_folds:
        for pairs in plan.pair_forecasts:
            folds[pairs.benchmark, pairs.method] = folds.get((pairs.benchmark, pairs.method), 0) + pairs.count.run
    durations = {kind: known.of(kind) for kind in folds}
    pair_seconds = sum(
        pairs.count.run * durations[pairs.benchmark, pairs.method].seconds for pairs in plan.pair_forecasts
    )
    hours = sum(count * durations[kind].seconds for kind, count in folds.items()) / 3600.0
    bases = sorted({duration.basis for duration in durations.values()}, reverse=True)
    queries = None if price_per_1000 is None or plan.need is None else plan.need.price(price_per_1000)
    per_hour = limits.price_per_gpu_hour
    gpus = gpus_per_fold(resources)
    prices = [price for price in (queries, None if per_hour is None else hours * gpus * per_hour) if price is not None]
    return PlanForecast(
        folds=sum(folds.values()),
        fold_hours=hours,
        gpus_per_fold=gpus,
        basis=", ".join(bases),
        query_money=queries,
        money=sum(prices) if prices else None,
        pair_fold_hours=pair_seconds / 3600.0,
    )


def took(store: SweepFolder) -> dict[Kind, list[float]]:
    """Seconds of the finished folds of a sweep's folder, by benchmark and method."""
    found: dict[Kind, list[float]] = {}
    for group in store.groups():
        for planned in store.records.planned_folds(group.name):
            result = store.folds.result(planned.key)
            if result is not None:
                found.setdefault((group.benchmark, group.method), []).append(result.seconds)
    return found
