"""Which segments SWAD counts, told by positions instead of queues: a second, plain LossValley."""

from __future__ import annotations

from dataclasses import dataclass, field

from search_spaces.hyperparameters import Swad


@dataclass
class Valley:
    """What a row of validation losses comes to."""

    counted: list[int] = field(default_factory=list)
    """Positions of the segments that are averaged; some count twice."""
    converged: int | None = None
    """Position of the evaluation at which the valley starts."""
    died: int | None = None
    """Position of the evaluation that finds it dead."""


def valley(losses: list[float], settings: Swad) -> Valley:
    """LossValley (Cha et al. 2021, arXiv 2102.08604) on one loss per evaluation; after the dead one none is read."""
    wait, window, found, limit = settings.num_converge, settings.num_tolerate, Valley(), 0.0
    for now in range(len(losses)):
        oldest = max(0, now - window + 1)
        if found.converged is None:
            first = now - wait + 1
            if first < 0 or min(losses[first : now + 1]) < losses[first]:
                continue
            found.converged = first
            limit = sum(losses[first : now + 1]) / wait * (1.0 + settings.tolerance_ratio)
            found.counted += _counted_at_convergence(losses, first, now, limit, settings)
        elif oldest >= found.converged:
            if min(losses[oldest : now + 1]) > limit:
                found.died = now
                return found
            found.counted.append(oldest)
    if found.converged is not None:
        left = list(range(max(0, len(losses) - window), len(losses)))[1:]
        while left and min(losses[place] for place in left) <= limit:
            found.counted.append(left.pop(0))
    return found


def _counted_at_convergence(losses: list[float], first: int, now: int, limit: float, settings: Swad) -> list[int]:
    surplus = settings.num_tolerate - settings.num_converge
    if surplus <= 0:
        return list(range(first + 1, first + 1 - surplus))
    seen = list(range(max(0, now - settings.num_tolerate + 1), now + 1))[: surplus + 1]
    above = [place for place in seen if losses[place] > limit]
    start = above[-1] + 1 if above else seen[0]
    return [place for place in seen if place > start]
