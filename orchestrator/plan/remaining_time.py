"""When a sweep will be over, if its folds go on taking as long as they did."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupWork:
    """What one fold group did and has yet to do."""

    kind: tuple[str, str]
    """Benchmark and method: folds of the same kind take about as long."""
    took: tuple[float, ...]
    """Seconds of each finished fold."""
    running_since: tuple[float, ...]
    """When each running fold was started, in Unix seconds."""
    waiting: int


def time_left(groups: Sequence[GroupWork], *, now: float | None = None) -> float | None:
    """Seconds until nothing waits or runs, with as many folds at a time as now; None where no fold is finished.

    A fold takes the mean of its own group's; of an unknown group, of its benchmark and method; of all folds.
    """
    now = time.time() if now is None else now
    everything = [seconds for group in groups for seconds in group.took]
    if not everything:
        return None
    by_kind: dict[tuple[str, str], list[float]] = {}
    for group in groups:
        by_kind.setdefault(group.kind, []).extend(group.took)
    total, at_once = 0.0, 0
    for group in groups:
        typical = fmean(group.took or by_kind[group.kind] or everything)
        total += group.waiting * typical
        total += sum(max(0.0, typical - (now - started)) for started in group.running_since)
        at_once += len(group.running_since)
    return total / max(1, at_once)


def duration(seconds: float) -> str:
    """Two units at most.

    >>> duration(11400), duration(95), duration(200000)
    ('3 h 10 m', '1 m 35 s', '2 d 7 h')
    """
    left = round(seconds)
    for size, unit, smaller, name in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if left >= size:
            rest = left % size // smaller
            return f"{left // size} {unit}" + (f" {rest} {name}" if rest else "")
    return f"{left} s"
