"""The columns of a benchmark's table, one row each: what a fold measures, and what stands beside it.

A new measure is an entry of `FoldResult` or `TestResult` and a row of `MEASURES`; every format then holds it. A new
column that follows from a table's row is a row of `COLUMNS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from orchestrator.report.cells import Cell, ErrorBar, average
from orchestrator.store.results import FoldResult, TestResult
from search_spaces.claims import PublishedRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """A number of every finished fold, a fraction; a table shows its average over the test domains."""

    heading: str
    of: Callable[[FoldResult, TestResult], float | None]
    by_oracle: bool = True
    """Oracle selection has it too: it takes the last step's weights, whose source numbers are not kept."""


MEASURES: Mapping[str, Measure] = {
    "ood": Measure(heading="OOD avg", of=lambda result, test: test.accuracy),
    "id": Measure(heading="ID avg", of=lambda result, test: result.accuracy, by_oracle=False),
    "ood_balanced": Measure(heading="OOD balanced avg", of=lambda result, test: test.balanced_accuracy),
}
"""By the name that CSV and JSON give a measure: accuracy on the test domain's 80% part; its mean over the source
domains' 20% parts of the same folds; the first with every class counting alike."""


def measured(result: FoldResult, test: TestResult, *, by_oracle: bool) -> dict[str, float | None]:
    """A fold's number by measure; None where it has none."""
    kept = {name: measure for name, measure in MEASURES.items() if measure.by_oracle or not by_oracle}
    return {name: kept[name].of(result, test) if name in kept else None for name in MEASURES}


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A method in a benchmark's table."""

    method: str
    cells: Mapping[str, Mapping[str, Cell]]
    """By measure and test domain."""
    teacher_images: int
    """Images that the row's folds asked the teacher for."""
    teacher_texts: int
    """Texts that the row's folds asked the teacher for."""
    published: PublishedRow | None
    """The row of the paper, whatever student and teacher it was published with."""
    teacher_unconfirmed: int = 0
    """Queries of the row's folds whose answers were lost with a killed process; they may have been asked."""

    @property
    def ood(self) -> Mapping[str, Cell]:
        """Accuracy on each test domain's 80% part."""
        return self.cells["ood"]

    @property
    def average_ood(self) -> Cell:
        """Mean of `ood` over the test domains."""
        return self.average("ood")

    def average(self, measure: str) -> Cell:
        """Mean of a measure over the test domains."""
        return average(list(self.cells[measure].values()))


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column of text beside the test domains."""

    heading: str
    text: Callable[[Row, str, ErrorBar], str]
    """Of a row, in a benchmark, with an error bar."""


def _average(measure: str) -> Callable[[Row, str, ErrorBar], str]:
    def text(row: Row, benchmark: str, error_bar: ErrorBar) -> str:
        cell = row.average(measure)
        # Nothing of the kind was measured although the row is whole.
        return "-" if row.average_ood.is_whole and not cell.is_whole else cell.text(error_bar)

    return text


def _published(row: Row, benchmark: str, error_bar: ErrorBar) -> str:
    value = row.published.values.get(benchmark) if row.published else None
    return "-" if value is None else f"{value:.2f}"


def _queries(row: Row, benchmark: str, error_bar: ErrorBar) -> str:
    lost = f" (+{row.teacher_unconfirmed:,} unconfirmed)" if row.teacher_unconfirmed else ""
    return f"{row.teacher_images + row.teacher_texts:,}{lost}"


COLUMNS = (
    *(Column(heading=measure.heading, text=_average(name)) for name, measure in MEASURES.items()),
    Column(heading="Published OOD", text=_published),
    Column(heading="Teacher queries", text=_queries),
)
