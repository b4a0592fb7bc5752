"""Claimed | Verified | Status: published averages beside what a sweep measured, and whether the two may be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.report.cells import Cell
from orchestrator.report.comparability import ROW, differing
from orchestrator.report.measurements import Measurement, Selection
from orchestrator.report.reproduction import departures
from search_spaces.benchmarks import HEADLINE
from search_spaces.claims import PublishedRow, headline_claims, published_row
from search_spaces.methods import method_facts

TOLERANCE = 1.0
"""Percentage points between claimed and measured within which a claim counts as reproduced."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClaimEntry:
    """One published number and what became of it."""

    benchmark: str
    method: str
    headline: bool
    """One of the five numbers that a reproduction is asked to verify."""
    claimed: float
    """Percent."""
    verified: Cell | None
    status: str


def compared_claims(
    averages: Mapping[tuple[str, str], Cell], measurements: Sequence[Measurement], selection: Selection
) -> list[ClaimEntry]:
    """The headline's numbers, then those of every other method that the sweep measured.

    Args:
        averages: Test-domain averages by (benchmark, method); incomplete ones are not whole.
        measurements: The folds behind them.
        selection: How the trials were selected.
    """
    headline = headline_claims()
    methods = dict.fromkeys([headline.method, *(method for _, method in averages)])
    entries = []
    for method in methods:
        row = published_row(method)
        for benchmark in HEADLINE:
            is_headline = method == headline.method
            if row is None or not (is_headline or (benchmark, method) in averages):
                continue
            own = [item for item in measurements if (item.benchmark, item.method) == (benchmark, method)]
            claimed = headline.values[benchmark] if is_headline else row.values[benchmark]
            verified = averages.get((benchmark, method))
            entries.append(
                ClaimEntry(
                    benchmark=benchmark,
                    method=method,
                    headline=is_headline,
                    claimed=claimed,
                    verified=verified,
                    status=_status(row, claimed, verified, own, selection),
                )
            )
    return entries


def _status(
    row: PublishedRow, claimed: float, verified: Cell | None, folds: Sequence[Measurement], selection: Selection
) -> str:
    if verified is None:
        return "Unverified: not in this sweep"
    if verified.mean is None:
        return "Unverified: folds are missing"
    mixed = differing(folds, ROW)
    if mixed:
        return f"Unverified: mixed folds, which differ in {', '.join(mixed)}"
    reasons = departures(row, folds, selection)
    if reasons:
        return f"Unverified: not comparable ({'; '.join(reasons)})"
    distance = verified.mean - claimed
    verdict = "Reproduced" if abs(distance) <= TOLERANCE else "Not reproduced"
    return f"{verdict} ({distance:+.1f}){_swad_remark(row, folds)}"


def _swad_remark(row: PublishedRow, folds: Sequence[Measurement]) -> str:
    """What we did where the published row is not marked as one with SWAD."""
    if row.swad is not False or not method_facts(row.method).trains:
        return ""
    ours = {fold.spec.hyperparameters.swad.segments == "off" for fold in folds}
    return f"; ours {'without' if ours == {True} else 'with'} SWAD, the published row is not marked as one with SWAD"
