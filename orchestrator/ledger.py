"""Claimed | Verified | Status: published averages beside what a sweep measured, and whether the two may be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.cells import Cell
from orchestrator.measurements import Measurement, Selection
from search_spaces.benchmarks import BENCHMARKS, HEADLINE
from search_spaces.claims import PAPER_TEACHER, headline_claims, published_row
from search_spaces.hyperparameters import Hyperparameters, Speed
from search_spaces.methods import method_facts

TOLERANCE = 1.0
"""Percentage points between claimed and measured within which a claim counts as reproduced."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerEntry:
    """One published number and what became of it."""

    benchmark: str
    method: str
    headline: bool
    """One of the five numbers that a reproduction is asked to verify."""
    claimed: float
    """Percent."""
    verified: Cell | None
    status: str


def ledger(
    averages: Mapping[tuple[str, str], Cell], measurements: Sequence[Measurement], selection: Selection
) -> list[LedgerEntry]:
    """The headline's numbers, then those of every other method that the sweep measured.

    Args:
        averages: Test-domain averages by (benchmark, method); incomplete ones are not whole.
        measurements: The folds behind them.
        selection: How the folds were chosen.
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
                LedgerEntry(
                    benchmark=benchmark,
                    method=method,
                    headline=is_headline,
                    claimed=claimed,
                    verified=verified,
                    status=_status(claimed, verified, own, selection),
                )
            )
    return entries


def _status(claimed: float, verified: Cell | None, folds: Sequence[Measurement], selection: Selection) -> str:
    if verified is None:
        return "Unverified: not in this sweep"
    if verified.mean is None:
        return "Unverified: folds are missing"
    reasons = dict.fromkeys(reason for fold in folds for reason in _reasons(fold, selection))
    if reasons:
        return f"Unverified: not comparable ({'; '.join(reasons)})"
    distance = verified.mean - claimed
    verdict = "Reproduced" if abs(distance) <= TOLERANCE else "Not reproduced"
    return f"{verdict} ({distance:+.1f})"


def _reasons(fold: Measurement, selection: Selection) -> list[str]:
    """Why a fold is no reproduction of the published protocol."""
    hyperparameters, facts = fold.spec.hyperparameters, method_facts(fold.method)
    row, benchmark = published_row(fold.method), BENCHMARKS[fold.benchmark]
    reasons = []
    if selection != "source_validation":
        reasons.append(f"selection {selection}")
    if facts.uses_teacher_images and hyperparameters.teacher != PAPER_TEACHER:
        reasons.append(f"teacher {hyperparameters.teacher}")
    if facts.uses_teacher_images and hyperparameters.teacher_mode != "live":
        reasons.append(f"teacher mode {hyperparameters.teacher_mode}")
    if row is not None and row.student and hyperparameters.student != row.student:
        reasons.append(f"student {hyperparameters.student}")
    if facts.trains and not facts.student_is_teacher and hyperparameters.student_weights != "pretrained":
        reasons.append("student not from the paper's weights")
    if hyperparameters.precision != "fp32":
        reasons.append(f"precision {hyperparameters.precision}")
    if facts.trains and hyperparameters.speed != Speed():
        reasons.append(f"speed {hyperparameters.speed}")
    if hyperparameters.image_size not in (None, benchmark.image_size):
        reasons.append(f"{hyperparameters.image_size} px views")
    if _fewer_steps(hyperparameters, facts.stages, benchmark.num_steps):
        reasons.append("other numbers of steps")
    return reasons


def _fewer_steps(hyperparameters: Hyperparameters, stages: Sequence[str], num_steps: int) -> bool:
    asked = [getattr(hyperparameters, stage).num_steps for stage in stages]
    return any(steps not in (None, num_steps) for steps in asked)
