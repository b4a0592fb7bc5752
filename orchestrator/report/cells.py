"""A table's cell: a mean over seeds and its error bar, in one of three conventions. The table names it.

Sample SD / sqrt(n) is sqrt(n / (n - 1)) times DomainBed's error: 1.22 times with three seeds. It is not unbiased: on
average it is 0.80 of the true standard error with two seeds and 0.89 with three. The t-interval allows for that.
One seed has no error: there is nothing to estimate it from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

ErrorBar = Literal["domainbed", "sample", "t95"]

ERROR_BARS: dict[ErrorBar, str] = {
    "domainbed": "population standard deviation / sqrt(n), DomainBed's convention",
    "sample": "sample SD / sqrt(n)",
    "t95": "half of the 95% t-interval, t(0.975, n - 1) times sample SD / sqrt(n)",
}

CONFIDENCE = 0.95
"""Probability with which a t-interval covers the mean of normally distributed accuracies."""

MISSING = "X"
"""What stands for a cell without all of its seeds, and for an average over such a cell."""


def format_mean(data: Sequence[float], *, latex: bool = False) -> tuple[float | None, float | None, str]:
    """Mean and error in percent, and their text, as DomainBed's `collect_results` makes them.

    The error is 100 * SD(data / sqrt(n)) with the population standard deviation, 0.0 of one number; nothing at all is
    `X`. Only DomainBed's own tables print it like this; a `Cell` has no error of one number.
    """
    if len(data) == 0:
        return None, None, MISSING
    mean = 100.0 * float(np.mean(list(data)))
    error = 100.0 * float(np.std(np.array(data) / np.sqrt(len(data))))
    sign = "$\\pm$" if latex else "+/-"
    return mean, error, f"{mean:.1f} {sign} {error:.1f}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """Accuracies by seed; a seed that is missing makes the cell `X`."""

    values: tuple[float | None, ...]
    """Fractions in order of the seeds; None where a fold is missing."""

    @property
    def is_whole(self) -> bool:
        return bool(self.values) and all(value is not None for value in self.values)

    @property
    def mean(self) -> float | None:
        """Percent."""
        return format_mean(self._whole)[0] if self.is_whole else None

    @property
    def domainbed_error(self) -> float | None:
        """Percentage points: population standard deviation / sqrt(n). None with one seed: there is no estimate."""
        return format_mean(self._whole)[1] if self._has_error else None

    @property
    def sample_error(self) -> float | None:
        """Percentage points: sample standard deviation / sqrt(n). None with one seed."""
        if not self._has_error:
            return None
        return 100.0 * float(np.std(self._whole, ddof=1)) / math.sqrt(len(self.values))

    @property
    def t95_error(self) -> float | None:
        """Percentage points: half of the 95% t-interval. None with one seed."""
        error = self.sample_error
        return None if error is None else t_quantile(CONFIDENCE, len(self.values) - 1) * error

    def error(self, bar: ErrorBar) -> float | None:
        """The error bar by name, in percentage points."""
        errors = {"domainbed": self.domainbed_error, "sample": self.sample_error, "t95": self.t95_error}
        return errors[bar]

    def text(self, bar: ErrorBar, sign: str = "±") -> str:
        """`61.2 ± 0.4`, `61.2` where the error has no estimate, or `X`."""
        if self.mean is None:
            return MISSING
        error = self.error(bar)
        return f"{self.mean:.1f}" if error is None else f"{self.mean:.1f} {sign} {error:.1f}"

    @property
    def _has_error(self) -> bool:
        return self.is_whole and len(self.values) > 1

    @property
    def _whole(self) -> list[float]:
        return [value for value in self.values if value is not None]


def average(cells: Sequence[Cell]) -> Cell:
    """Seed by seed the mean over cells, so that the error is over seeds; a cell that is missing makes it missing."""
    if not cells or len({len(cell.values) for cell in cells}) != 1:
        return Cell(values=())
    means: list[float | None] = []
    for members in zip(*(cell.values for cell in cells), strict=True):
        known = [value for value in members if value is not None]
        means.append(float(np.mean(known)) if len(known) == len(cells) else None)
    return Cell(values=tuple(means))


def t_quantile(probability: float, freedom: int) -> float:
    """The t with P(|T| < t) = probability, for Student's T with so many degrees of freedom, to 1e-9.

    >>> round(t_quantile(0.95, 2), 3)
    4.303
    """
    low, high = 0.0, 1.0
    while _t_probability(high, freedom) < probability:
        high *= 2.0
    while high - low > 1e-10 * high:
        middle = (low + high) / 2.0
        low, high = (middle, high) if _t_probability(middle, freedom) < probability else (low, middle)
    return high


def _t_probability(t: float, freedom: int) -> float:
    """P(|T| < t): the finite sums of Abramowitz and Stegun 26.7.3 (odd freedom) and 26.7.4 (even)."""
    angle = math.atan(t / math.sqrt(freedom))
    is_odd, cosine = freedom % 2, math.cos(angle)
    total = term = (cosine if freedom > 1 else 0.0) if is_odd else 1.0
    for power in range(2 + is_odd, freedom - 1, 2):
        term *= (power - 1) / power * cosine**2
        total += term
    return 2.0 / math.pi * (angle + math.sin(angle) * total) if is_odd else math.sin(angle) * total
