"""How long a fold takes: as those that are finished did, or by a stated assumption until one is. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from search_spaces.benchmarks import Benchmark
from search_spaces.hyperparameters import Hyperparameters
from search_spaces.schedule import stage_steps

ASSUMED_IMAGES_PER_S = 250.0
"""Images of training batches a second, in every stage: an assumption (ViT-B/16 in fp32 on one large GPU), which counts
until the first fold of a method is finished."""

ASSUMED_START_S = 60.0
"""Of every fold: loading, evaluating, saving. An assumption likewise."""

Kind = tuple[str, str]
"""Benchmark and method: their folds take about as long."""

Basis = Literal["measured", "measured on another benchmark", "assumed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FoldDuration:
    """What one fold of a kind is expected to take."""

    seconds: float
    basis: Basis


def assumed_seconds(benchmark: Benchmark, hyperparameters: Hyperparameters, method: str) -> float:
    """The assumption: images of all batches at a fixed rate, and the start.

    >>> from search_spaces.benchmarks import BENCHMARKS
    >>> round(assumed_seconds(BENCHMARKS["PACS"], Hyperparameters(), "vl2v_adip"))  # 2 x 5,001 steps of 96 images
    3901
    """
    images_per_step = hyperparameters.batch_size_per_domain * (len(benchmark.domains) - 1)
    steps = sum(stage_steps(benchmark, hyperparameters, method))
    return ASSUMED_START_S + steps * images_per_step / ASSUMED_IMAGES_PER_S


class FoldDurations:
    """Expected durations by benchmark and method."""

    def __init__(self, assumed: Callable[[Kind], float], took: Mapping[Kind, Sequence[float]] | None = None) -> None:
        """Remember what is known.

        Args:
            assumed: seconds of a fold of a kind, by the assumption.
            took: seconds of the finished folds of each kind.
        """
        self._assumed, self._took = assumed, {kind: list(own) for kind, own in (took or {}).items() if own}

    def of(self, kind: Kind) -> FoldDuration:
        """The mean of the kind's finished folds; else the assumption, corrected by the method's other benchmarks."""
        if kind in self._took:
            return FoldDuration(seconds=fmean(self._took[kind]), basis="measured")
        factors = [fmean(own) / self._assumed(other) for other, own in self._took.items() if other[1] == kind[1]]
        if factors:
            return FoldDuration(seconds=fmean(factors) * self._assumed(kind), basis="measured on another benchmark")
        return FoldDuration(seconds=self._assumed(kind), basis="assumed")
