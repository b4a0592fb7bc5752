"""When a search prunes a configuration: pure functions of source validation accuracies. No file is read in here.

Inside a fold (`sweep.pruner`), its best accuracy so far in the last stage is compared with that of the same fold under
the group's other configurations, as far as these came to the same step:

* `median`: stop below the median of the others, once there are 4 of them and a quarter of the stage is over (Golovin
  et al. 2017, the median stopping rule).
* `asha`: at one ninth and at one third of the stage, only the best third (rounded up) continues, of 3 or more (Li et
  al. 2020, arXiv 1810.05934, reduction factor 3).

Between folds (scope `benchmark`, `sweep.stop_level`), see `chance_to_overtake`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median, variance
from typing import Literal

from search_spaces.schedule import FEWEST_SHARED, looks_between_folds
from search_spaces.sweeps import Pruner

Rule = Literal[Pruner, "overtake"]
Curve = Mapping[int, float]
"""Source validation accuracy (a fraction) by step of a fold's last stage."""

MEDIAN_COMPETITORS = 4
"""Other configurations that the median is taken of, at least."""
MEDIAN_WARM_UP = 0.25
"""Share of the stage in which the median rule stops nothing."""

ASHA_REDUCTION = 3
"""One in so many continues at each rung."""
ASHA_RUNGS = (1.0 / 9.0, 1.0 / 3.0)
"""Shares of the stage at which `asha` looks."""

SMALLEST_SPREAD = 0.002
"""Least standard deviation of a difference of accuracies: these are counts of images, and two may agree by chance."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """A comparison that a rule makes."""

    prune: bool
    value: float
    """What was judged: the best accuracy so far, or the chance to overtake."""
    threshold: float
    """Below this it is pruned."""
    against: tuple[str, ...]
    """What it was compared with, by the keys that the caller gave."""


def judge_curve(
    rule: Pruner, curve: Curve, others: Mapping[str, Curve], *, step: int, num_steps: int
) -> Judgement | None:
    """Judge a fold at one of its evaluations; None where the rule does not look, or has too few to compare with.

    Args:
        rule: the pruner.
        curve: of the fold, up to `step` at least.
        others: of the same fold under other configurations, by any key.
        step: an evaluation's step.
        num_steps: steps of the whole stage.
    """
    if rule == "none":
        return None
    reached = {key: best_so_far(other, step) for key, other in sorted(others.items()) if _spans(other, step)}
    look = Look(curve=curve, value=best_so_far(curve, step), others=tuple(reached.values()), step=step, of=num_steps)
    threshold = PRUNERS[rule](look)
    if threshold is None:
        return None
    return Judgement(prune=look.value < threshold, value=look.value, threshold=threshold, against=tuple(reached))


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What a pruner sees of a fold at one of its evaluations: source validation accuracies, fractions."""

    curve: Curve
    """Of the fold."""
    value: float
    """The fold's best accuracy up to the step."""
    others: tuple[float, ...]
    """The same of the other configurations that came to the step."""
    step: int
    of: int
    """Steps of the whole stage."""


def median_threshold(look: Look) -> float | None:
    """The median of the others, once a quarter of the stage is over."""
    if look.step < MEDIAN_WARM_UP * look.of or len(look.others) < MEDIAN_COMPETITORS:
        return None
    return median(look.others)


def asha_threshold(look: Look) -> float | None:
    """The last of the best third, at each rung."""
    if look.step not in asha_steps(look.curve, look.of) or len(look.others) + 1 < ASHA_REDUCTION:
        return None
    ranked = sorted([*look.others, look.value], reverse=True)
    return ranked[-(-len(ranked) // ASHA_REDUCTION) - 1]


PRUNERS: Mapping[Pruner, Callable[[Look], float | None]] = {"median": median_threshold, "asha": asha_threshold}
"""What a fold must reach to go on, or None where the rule does not look; a row more is a pruner more, whose name
`search_spaces.sweeps.Pruner` lists."""


def _spans(curve: Curve, step: int) -> bool:
    """Whether a curve came to a step, and has a value up to it."""
    return min(curve, default=step + 1) <= step <= max(curve, default=-1)


def best_so_far(curve: Curve, step: int) -> float:
    """The best accuracy up to a step."""
    return max(value for at, value in curve.items() if at <= step)


def asha_steps(curve: Curve, num_steps: int) -> set[int]:
    """The evaluations that are rungs: the first ones at or after each share of the stage."""
    firsts = (min((step for step in curve if step >= share * num_steps), default=-1) for share in ASHA_RUNGS)
    return {step for step in firsts if step >= 0}


def judge_overtaking(
    trial: Sequence[float], best: str, complete: Mapping[str, Sequence[float]], *, stop_level: float
) -> Judgement | None:
    """Judge a configuration after some of its folds; None where too few are shared, or none are left.

    Args:
        trial: its accuracies on the first folds, in the group's order.
        best: key of the configuration to overtake.
        complete: accuracies on all folds, by configuration.
        stop_level: chance, over all looks together, of stopping a configuration that would overtake.
    """
    shared, num_folds = len(trial), len(complete[best])
    if shared < FEWEST_SHARED or shared >= num_folds:
        return None
    differences = [own - other for own, other in zip(trial, complete[best], strict=False)]
    pairs = [
        [own - other for own, other in zip(accuracies, complete[best], strict=True)]
        for key, accuracies in sorted(complete.items())
        if key != best
    ]
    chance = chance_to_overtake(differences, num_folds=num_folds, pairs=pairs)
    threshold = stop_level / looks_between_folds(num_folds)
    return Judgement(prune=chance < threshold, value=chance, threshold=threshold, against=(best,))


def chance_to_overtake(differences: Sequence[float], *, num_folds: int, pairs: Sequence[Sequence[float]] = ()) -> float:
    """Chance that a configuration's mean over all folds ends above the best one's, given its differences so far.

    With k of T folds shared, m = T - k to come and d the mean difference so far, the sum over all folds is above zero
    if the mean of what is to come exceeds -k d / m. For differences that are independent and normal around one unknown
    mean, the pivot

        t = d / (s * sqrt(m / (k T)))

    follows Student's t, and F(t) is that chance (the predictive distribution under a flat prior). Read the other way
    round: of configurations that would end level with the best, the share that is stopped where F(t) < a is a, and of
    those that would end above it, less. This holds however the best one is selected by its mean.

    The spread s is the larger of two: that of the k differences themselves, and that of the complete configurations'
    differences from the best, each around its own mean, pooled. The pooled ones share the best one's deviations, so c
    of them count as 4 c / (c + 3) independent ones. Without any, s has k - 1 degrees of freedom, and with two shared
    folds it takes a difference of several spreads to stop.

    Args:
        differences: configuration minus best, on the folds that both have done; two or more.
        num_folds: folds of a whole configuration.
        pairs: for other complete configurations, their differences from the best on all folds.
    """
    from scipy.special import stdtr

    shared = len(differences)
    freedom, spread = float(shared - 1), variance(differences)
    if pairs:
        freedom = max(freedom, 4.0 * len(pairs) / (len(pairs) + 3.0) * (num_folds - 1))
        spread = max(spread, fmean(variance(pair) for pair in pairs))
    deviation = max(math.sqrt(spread), SMALLEST_SPREAD)
    pivot = fmean(differences) / (deviation * math.sqrt((num_folds - shared) / (shared * num_folds)))
    return float(stdtr(freedom, pivot))


def is_audited(audit_share: float, search_seed: int, group: str, number: int) -> bool:
    """Whether a pruned trial runs on for the audit: a share of them, drawn by their names and by nothing else.

    Not by a fold's key, which follows from the data, the test domain's labels among them.
    """
    digest = hashlib.sha256(f"audit\x1f{search_seed}\x1f{group}\x1f{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < audit_share * 2**64
