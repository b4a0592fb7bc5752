"""Samplers: how a fold group's next configuration is suggested (the paper's comes first), and what each can search."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, get_args

from search_spaces.errors import UserError, unknown_name

if TYPE_CHECKING:
    from search_spaces.spaces import Dimension

Sampler = Literal["tpe", "random", "gp", "cmaes", "authors"]

SAMPLERS: Mapping[Sampler, str] = {
    "tpe": "Tree-structured Parzen estimator, multivariate, with a constant liar for trials that still run",
    "random": "independent draws, other ones in every fold group",
    "gp": "Gaussian process; at home in spaces without conditions and with up to about 100 trials",
    "cmaes": "CMA-ES; for two or more numbers and no choices",
    "authors": "random search as by the paper's authors, in their ranges: each seed has a search of its own",
}
"""What each sampler is, in one line."""

EACH_SEED: tuple[Sampler, ...] = ("authors",)
"""Samplers that search each seed by itself, instead of seed 0 alone."""

EACH_DOMAIN_ALIKE: tuple[Sampler, ...] = ("authors",)
"""Samplers that try the same configurations, of a seed, for every test domain."""

STARTUP = 10
"""Trials that Optuna's TPE and Gaussian process draw at random before they learn (its `n_startup_trials`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Learning:
    """What a sampler makes of the trials before."""

    states: tuple[str, ...]
    """States of the trials that it looks at."""
    counted: tuple[str, ...]
    """States of those that count towards `fewest`."""
    fewest: int
    """Trials without which it looks at none."""


def learning(sampler: Sampler, num_dimensions: int) -> Learning | None:
    """How a sampler learns in a space of so many dimensions; None where it looks at no other trial."""
    if sampler == "tpe":
        return Learning(states=("complete", "pruned", "running"), counted=("complete", "pruned"), fewest=STARTUP)
    if sampler == "gp":
        return Learning(states=("complete", "running"), counted=("complete",), fewest=STARTUP)
    if sampler == "cmaes":
        # A whole generation, of the default size (Hansen 2016, arXiv 1604.00772).
        generation = 4 + math.floor(3 * math.log(num_dimensions))
        return Learning(states=("complete",), counted=("complete",), fewest=generation)
    return None


AUTHORS_SPACES = ("official", "paper")
"""Spaces that hold the authors' ranges, or nothing to draw."""

NEEDS: Mapping[str, tuple[str, ...]] = {"gp": ("scipy", "torch"), "cmaes": ("cmaes",)}
"""Packages beside Optuna that a sampler needs."""


def check_sampler(sampler: str, *, space: str, dimensions: Mapping[str, Dimension]) -> None:
    """Refuse a sampler that cannot search a space, before anything runs.

    Raises:
        UserError: no such sampler, a package that is missing, or a space that the sampler cannot search.
    """
    if sampler not in get_args(Sampler):
        raise unknown_name("sampler", sampler, get_args(Sampler))
    if not dimensions:
        return
    for package in NEEDS.get(sampler, ()):
        if find_spec(package) is None:
            raise UserError(f"sampler {sampler} needs the package {package}, which is not installed")
    if sampler == "authors" and space not in AUTHORS_SPACES:
        raise UserError(f"sampler authors draws from the authors' ranges: use --space official, got {space}")
    if sampler == "cmaes":
        _check_numbers(space, dimensions)


def _check_numbers(space: str, dimensions: Mapping[str, Dimension]) -> None:
    from search_spaces.spaces import Choice

    choices = sorted(key for key, dimension in dimensions.items() if isinstance(dimension, Choice))
    if choices:
        found = f"{', '.join(choices)} of space {space} {'are choices' if len(choices) > 1 else 'is a choice'}"
    elif len(dimensions) < 2:
        found = f"space {space} has {', '.join(dimensions)} alone"
    else:
        return
    raise UserError(f"sampler cmaes searches two or more numbers, and {found}; use tpe, gp or random, or --space wide")
