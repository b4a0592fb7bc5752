"""Budgets besides that of the teacher's queries, and what a forecast makes of them. No torch.

GPU-hours    hours that folds run, times the GPUs that each reserves (workers x GPUs per worker), busy or not
wall time    hours that the sweep's own processes ran, one after the other; time between two runs is not counted
money        GPU-hours at their price, and teacher queries at theirs
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from search_spaces.errors import UserError
from search_spaces.hyperparameters import Resources

if TYPE_CHECKING:
    from orchestrator.group_agenda import GroupAgenda


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a sweep may use, over all its runs. None is no limit; nothing here changes a result."""

    gpu_hours: float | None = None
    wall_hours: float | None = None
    money: float | None = None
    price_per_gpu_hour: float | None = None
    seconds_per_fold: float | None = None
    """What a fold is taken to last until one of its method is finished; None is the assumption of `durations`."""

    def __post_init__(self) -> None:
        for option, value in (
            ("--gpu-hours-budget", self.gpu_hours),
            ("--wall-budget", self.wall_hours),
            ("--money-budget", self.money),
            ("--price-per-gpu-hour", self.price_per_gpu_hour),
            ("--seconds-per-fold", self.seconds_per_fold),
        ):
            if value is not None and not (value >= 0 and math.isfinite(value)):
                raise UserError(f"{option} is 0 or more, got {value}")

    @property
    def any(self) -> bool:
        """Whether there is a limit at all."""
        return not (self.gpu_hours is None and self.wall_hours is None and self.money is None)

    def over(self, other: Limits) -> Limits:
        """These, and those of another where nothing is set here."""
        own = {name: value for name, value in asdict(self).items() if value is not None}
        return replace(other, **own)

    def check(self, resources: Resources, price_per_1000: float | None) -> None:
        """Raise `UserError` for a budget that would limit nothing with these resources and prices."""
        if gpus_per_fold(resources) == 0:
            if self.gpu_hours is not None:
                raise UserError(
                    "--gpu-hours-budget: folds reserve no GPU here; give --gpus-per-worker, or limit hours with "
                    "--wall-budget"
                )
            if self.price_per_gpu_hour is not None:
                raise UserError("--price-per-gpu-hour: folds reserve no GPU here; give --gpus-per-worker")
        if self.money is not None and self.price_per_gpu_hour is None and price_per_1000 is None:
            raise UserError("--money-budget needs a price: --price-per-gpu-hour, --price-per-1000, or both")


def gpus_per_fold(resources: Resources) -> float:
    """GPUs that one fold reserves."""
    return resources.workers * resources.gpus_per_worker


Load = Sequence[tuple["GroupAgenda", int]]
"""Fold groups, and how many of each one's folds are still to run."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """One budget: what may be used, what was, and what some folds would use."""

    option: str
    name: str
    limit: float
    spent: Callable[[], float]
    cost: Callable[[Load], float]
    basis: Callable[[Load], str]
    """What the cost goes by, in words."""

    def covers(self, load: Load) -> bool:
        """Whether these folds fit what is left; folds that cost nothing always do."""
        cost = self.cost(load)
        return cost == 0 or self.spent() + cost <= self.limit

    def refusal(self, load: Load) -> str:
        """Why these folds do not begin: numbers, and what to do."""
        return (
            f"the {self.name} of {self.limit:,.4g} does not cover what is left: {self.spent():,.4g} spent, "
            f"{self.cost(load):,.4g} forecast ({self.basis(load)}); raise {self.option} and run the same command again"
        )
