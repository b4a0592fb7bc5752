"""CMA-ES as a pure function of the history (`--sampler cmaes`).

Optuna's own sampler keeps the optimiser pickled in its study, which is rebuilt here for every question and would stay
in its first generation. So the optimiser is replayed instead: complete trials, by number, make up its generations.
Trials that still run, failed or were pruned belong to none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from search_spaces.spaces import Point

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

SIGMA = 1.0 / 6.0
"""First step size on axes scaled to [0, 1], and Optuna's: three of them reach from the middle to the end."""


def evolved_point(
    distributions: Mapping[str, BaseDistribution], told: Sequence[tuple[Point, float]], *, seed: int
) -> Point:
    """Draw from the distribution that the told points lead to.

    Args:
        distributions: two or more real or whole-number axes.
        told: complete trials by number: the point, and the objective to maximise.
        seed: of this one draw.
    """
    import cmaes
    import numpy as np

    keys = sorted(distributions)
    bounds = np.tile([0.0, 1.0], (len(keys), 1))
    optimizer = cmaes.CMA(mean=np.full(len(keys), 0.5), sigma=SIGMA, bounds=bounds, seed=seed)
    size = optimizer.population_size
    for first in range(0, len(told) - size + 1, size):
        generation = [
            (np.array([_scaled(distributions[key], point[key]) for key in keys]), -value)
            for point, value in told[first : first + size]
        ]
        optimizer.tell(generation)
    drawn = optimizer.ask()
    return {key: _unscaled(distributions[key], float(value)) for key, value in zip(keys, drawn, strict=True)}


def _scaled(distribution: BaseDistribution, value: float | int | str) -> float:
    low, high, log = _axis(distribution)
    number = math.log(float(value)) if log else float(value)
    return (number - low) / (high - low) if high > low else 0.5


def _unscaled(distribution: BaseDistribution, share: float) -> float | int:
    from optuna.distributions import IntDistribution

    low, high, log = _axis(distribution)
    number = low + share * (high - low)
    number = math.exp(number) if log else number
    first, last = distribution.low, distribution.high  # type: ignore[attr-defined]
    if isinstance(distribution, IntDistribution):
        return int(min(max(round(number), first), last))
    return float(min(max(number, first), last))


def _axis(distribution: BaseDistribution) -> tuple[float, float, bool]:
    """Both ends of an axis, and whether it is logarithmic; a whole number owns half a unit on either side."""
    from optuna.distributions import FloatDistribution, IntDistribution

    assert isinstance(distribution, FloatDistribution | IntDistribution), distribution
    half = 0.5 if isinstance(distribution, IntDistribution) else 0.0
    low, high = distribution.low - half, distribution.high + half
    return (math.log(low), math.log(high), True) if distribution.log else (low, high, False)
