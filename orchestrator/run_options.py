"""How a sweep is run: resources, address, budgets, retries. Nothing in here changes a result: that is in `sweep.json`.

GPU-hours    hours that folds run, times the GPUs that each reserves (workers x GPUs per worker), busy or not
wall time    hours that the sweep's own processes ran, one after the other; time between two runs is not counted
money        GPU-hours at their price, and teacher queries at theirs
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from search_spaces.benchmarks import Benchmark
from search_spaces.errors import UserError
from search_spaces.hyperparameters import Resources
from trainables.data.formats.open import resolve_benchmark


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


@dataclass(frozen=True, kw_only=True, slots=True)
class LastRun:
    """Settings of the command that ran a sweep last."""

    benchmarks: Mapping[str, Benchmark] = field(default_factory=dict)
    """The sweep's benchmarks by name, those that are read from a folder too."""
    data_root: str | None = None
    resources: Resources = field(default_factory=Resources)
    executor: Literal["auto", "tune", "train"] = "auto"
    address: str | None = None
    """Of a Ray cluster, where one was given to the command."""
    max_concurrent: int | None = None
    query_budget: int | None = None
    limits: Limits = field(default_factory=Limits)
    max_failures: int = 1

    def benchmark(self, name: str) -> Benchmark:
        """A benchmark of the sweep; raises `UserError` where neither this nor the data root knows it."""
        return self.benchmarks.get(name) or resolve_benchmark(name, self.data_root)


def absolute_data_root(data_root: str | Path | None) -> str | None:
    """The data root as workers see it, whatever their working folder; an address (`s3://...`) as it is."""
    if data_root is None or "://" in str(data_root):
        return None if data_root is None else str(data_root)
    return str(Path(data_root).expanduser().absolute())
