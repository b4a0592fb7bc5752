"""A table's cell: a mean over seeds and its error bar, in DomainBed's convention and in the unbiased one.

Both are named wherever they are printed. With three seeds the unbiased standard error is 1.22 times DomainBed's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

ErrorBar = Literal["domainbed", "unbiased"]

ERROR_BARS: dict[ErrorBar, str] = {
    "domainbed": "population standard deviation / sqrt(n), DomainBed's convention",
    "unbiased": "sample standard deviation / sqrt(n), the unbiased standard error",
}

MISSING = "X"
"""What stands for a cell without all of its seeds, and for an average over such a cell."""


def format_mean(data: Sequence[float], *, latex: bool = False) -> tuple[float | None, float | None, str]:
    """Mean and error in percent, and their text, as DomainBed's `collect_results` makes them.

    The error is 100 * SD(data / sqrt(n)) with the population standard deviation; nothing at all is `X`.
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
        """Percentage points: population standard deviation / sqrt(n)."""
        return format_mean(self._whole)[1] if self.is_whole else None

    @property
    def unbiased_error(self) -> float | None:
        """Percentage points: sample standard deviation / sqrt(n). None with one seed: there is no estimate."""
        if not self.is_whole or len(self.values) < 2:
            return None
        return 100.0 * float(np.std(self._whole, ddof=1)) / math.sqrt(len(self.values))

    def error(self, bar: ErrorBar) -> float | None:
        """The error bar by name, in percentage points."""
        return self.domainbed_error if bar == "domainbed" else self.unbiased_error

    def text(self, bar: ErrorBar, sign: str = "±") -> str:
        """`61.2 ± 0.4`, `61.2` where the error has no estimate, or `X`."""
        if self.mean is None:
            return MISSING
        error = self.error(bar)
        return f"{self.mean:.1f}" if error is None else f"{self.mean:.1f} {sign} {error:.1f}"

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
