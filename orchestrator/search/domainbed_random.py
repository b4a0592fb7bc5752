"""Random search as the paper's authors ran it, on DomainBed's pattern (`--sampler authors`).

What is kept: each seed has a search of its own, with its own draws and selected trial. The first configuration is the
paper's. Every other hyperparameter is drawn by itself, from the authors' ranges (`--space official`) and from a stream
that depends on the configuration's number and the seed alone. So every test domain, benchmark and method is given the
same draws, whatever was found before. Their protocol is `--trials 20 --seeds 3`.

What could not be recovered: the names that the authors' streams were seeded with, so these are other draws from the
same distributions; and whether their published rows were searched at all or ran with the defaults.

Deviation: each stage draws its own learning rate and weight decay (`search_spaces.spaces`). A sweep's own value that
lies outside the ranges is one more choice, or widens them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from search_spaces.spaces import Point

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


def authors_point(
    distributions: Mapping[str, BaseDistribution], *, search_seed: int, fold_seed: int, number: int
) -> Point:
    """Draw configuration `number` of a seed; equal arguments give equal points, and each key has its own stream."""
    # DomainBed hashes its hparams seed and its trial seed; another search seed gives other draws altogether.
    seed = stream_seed(number, fold_seed, *([search_seed] if search_seed else []))
    return {key: _draw(distributions[key], stream_seed(seed, key)) for key in sorted(distributions)}


def stream_seed(*parts: object) -> int:
    """DomainBed's way from names and numbers to a seed: the MD5 of the tuple's text, below 2**31."""
    return int(hashlib.md5(str(parts).encode(), usedforsecurity=False).hexdigest(), 16) % 2**31


def _draw(distribution: BaseDistribution, seed: int) -> float | int | str:
    import numpy as np
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    random = np.random.RandomState(seed)
    if isinstance(distribution, CategoricalDistribution):
        value: float | int | str = distribution.choices[int(random.randint(len(distribution.choices)))]  # type: ignore[assignment]
        return value
    if isinstance(distribution, IntDistribution):
        return int(random.randint(distribution.low, distribution.high + 1))
    assert isinstance(distribution, FloatDistribution), distribution
    if distribution.log:
        drawn = math.exp(random.uniform(math.log(distribution.low), math.log(distribution.high)))
        return min(max(drawn, distribution.low), distribution.high)
    return float(random.uniform(distribution.low, distribution.high))
