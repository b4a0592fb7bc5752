"""The next point of a fold group's search, as a pure function of (search seed, group, trial number, history).

The Optuna study is rebuilt from the history for every question: nothing of it has to survive a crash, and a sweep that
was killed asks exactly what an undisturbed one asks.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from orchestrator.search.cmaes import evolved_point
from orchestrator.search.domainbed_random import authors_point
from search_spaces.samplers import Sampler
from search_spaces.spaces import Point

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

TrialState = Literal["complete", "failed", "running", "pruned"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TriedPoint:
    """A trial as the sampler sees it. It has no test accuracy to peek at."""

    number: int
    point: Point
    state: TrialState
    objective: float | None = None
    """Mean source validation accuracy of a complete trial, a fraction."""
    values: Mapping[int, float] = field(default_factory=dict)
    """Source validation accuracy by step of a pruned trial, as far as it came."""

    def __post_init__(self) -> None:
        finite = self.objective is not None and math.isfinite(self.objective)
        if (self.state == "complete") != finite:
            raise ValueError(f"a trial is complete with a finite objective, got {self.state} and {self.objective}")


def suggest_point(
    distributions: Mapping[str, BaseDistribution],
    history: Sequence[TriedPoint],
    *,
    sampler: Sampler,
    search_seed: int,
    group: str,
    number: int,
    fold_seed: int = 0,
) -> Point:
    """Ask the sampler for trial `number`; equal arguments give equal points.

    `fold_seed` is the seed that the trial's folds run on; only the authors' draws follow from it.

    Trials that still run count with TPE's constant liar, so that parallel suggestions differ. Random search and the
    authors' draws do not look at the history at all.
    """
    seed = sampler_seed(search_seed, group, number)
    if sampler == "authors":
        return authors_point(distributions, search_seed=search_seed, fold_seed=fold_seed, number=number)
    if sampler == "cmaes":
        by_number = sorted(history, key=lambda tried: tried.number)
        told = [(tried.point, tried.objective) for tried in by_number if tried.objective is not None]
        return evolved_point(distributions, told, seed=seed)
    study = build_study(distributions, history, sampler=sampler, seed=seed)
    params = study.ask(dict(distributions)).params
    return {key: params[key] for key in sorted(params)}


def build_study(
    distributions: Mapping[str, BaseDistribution],
    history: Sequence[TriedPoint],
    *,
    sampler: Sampler,
    seed: int,
) -> optuna.Study:
    """A group's study in memory, with every trial of the history told, by number."""
    import optuna
    from optuna.trial import TrialState as State
    from optuna.trial import create_trial

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=_sampler(sampler, seed))
    states = {"complete": State.COMPLETE, "failed": State.FAIL, "running": State.RUNNING, "pruned": State.PRUNED}
    for tried in sorted(history, key=lambda tried: tried.number):
        study.add_trial(
            create_trial(
                state=states[tried.state],
                params=dict(tried.point),
                distributions=dict(distributions),
                value=tried.objective if tried.state == "complete" else None,
                intermediate_values=dict(tried.values),
            )
        )
    return study


def sampler_seed(search_seed: int, group: str, number: int) -> int:
    """A seed below 2**32 for one question, so that the answer depends on no earlier question."""
    digest = hashlib.sha256(f"{search_seed}\x1f{group}\x1f{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def _sampler(name: Sampler, seed: int) -> optuna.samplers.BaseSampler:
    import warnings

    import optuna

    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        # `multivariate`, `constant_liar` and the GP are marked experimental; all are wanted, and the version is pinned.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "gp":
            return optuna.samplers.GPSampler(seed=seed)
        assert name == "tpe", f"{name} has no Optuna sampler here"
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
