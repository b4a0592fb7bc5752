"""A report as Markdown, LaTeX, CSV and JSON. Every number is percent; every error bar is named."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.inspection.teacher_usage import ledger_line
from orchestrator.report.cells import ERROR_BARS, MISSING, Cell, ErrorBar
from orchestrator.report.columns import COLUMNS, Row
from orchestrator.report.report import BenchmarkTable, Report
from orchestrator.store.sweep_folder import SweepFolder
from search_spaces.claims import PAPER_STUDENT
from search_spaces.methods import method_facts
from trainables.storage.json_files import write_atomically

LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
)
"""What LaTeX would read as a command, and the one sign it lacks in text."""

WRITTEN_NAMES: Mapping[ErrorBar, str] = {"domainbed": "domainbed", "sample": "unbiased", "t95": "t95"}
"""What CSV and JSON call an error bar: the second one keeps the name that older files have."""

FORMATS = ("md", "csv", "tex", "json")


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """A table as text, before it takes a format."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: tuple[str, ...]
    """Sentences below the table."""


def write_report(report: Report, store: SweepFolder, *, error_bar: ErrorBar = "domainbed") -> list[str]:
    """Write `OUT/report/report.{md,csv,tex,json}`, each whole or not at all; returns their paths."""
    contents = {
        "md": markdown(report, error_bar),
        "csv": csv_text(report),
        "tex": latex(report, error_bar),
        "json": json.dumps(to_mapping(report), indent=1) + "\n",
    }
    stem = "report" if report.selection == "source_validation" else f"report_{report.selection}"
    paths = []
    for ending in FORMATS:
        path = store.report_folder / f"{stem}.{ending}"
        write_atomically(path, contents[ending].encode())
        paths.append(str(path))
    return paths


def grids(report: Report, error_bar: ErrorBar) -> list[Grid]:
    """The benchmarks' tables, then the summary and the claims where there is something to compare."""
    made = [_benchmark_grid(report, table, error_bar) for table in report.tables]
    if len(report.tables) > 1:
        made.append(_summary_grid(report, error_bar))
    if any(entry.verified is not None for entry in report.claims):
        made.append(_claims_grid(report, error_bar))
    return made


def _benchmark_grid(report: Report, table: BenchmarkTable, error_bar: ErrorBar) -> Grid:
    rows = tuple(
        (
            row.method,
            *(cell.text(error_bar) for cell in row.ood.values()),
            *(column.text(row, table.benchmark, error_bar) for column in COLUMNS),
        )
        for row in table.rows
    )
    head = ("Method", *table.letters.values(), *(column.heading for column in COLUMNS))
    return Grid(title=table.benchmark, head=head, rows=rows, caption=tuple(_caption(report, table, error_bar)))


def _caption(report: Report, table: BenchmarkTable, error_bar: ErrorBar) -> Iterator[str]:
    count = len(table.seeds)
    yield (
        "Accuracy in percent on the 80% part of the unseen test domain; ID is the mean over the source domains' 20% "
        f"parts of the same models; {_error_note(table.seeds, error_bar)}."
    )
    if count > 1 and error_bar == "domainbed":
        yield f"Sample SD / sqrt(n) is {(count / (count - 1)) ** 0.5:.2f} times that; CSV and JSON hold both."
    yield "Columns: " + ", ".join(f"{letter} = {name}" for name, letter in table.letters.items()) + "."
    shown = {name: value for name, value in table.fingerprint.items() if name not in ("checkpoint rule", "selection")}
    fingerprint = "; ".join(f"{name} {value}" for name, value in shown.items())
    yield (
        f"Scope {report.scope}; space {report.space}; selection: {report.selection_title}; "
        f"{fingerprint or 'no finished fold yet'}."
    )
    yield from _selection_notes(report, table)
    if table.fingerprint.get("teacher mode", "live") != "live":
        yield "The teacher's views are stored ones, so this is no reproduction of the authors' protocol."
    if (table.fingerprint.get("precision", "fp32"), table.fingerprint.get("speed", "exact")) != ("fp32", "exact"):
        yield "The arithmetic is not that of exact mode, so this is no reproduction of the authors' protocol."
    yield (
        "Teacher queries: images and texts that the table's own folds asked for; "
        f"{ledger_line(report.queries, report.store_queries, report.price_per_1000).removeprefix('teacher queries: ')}."
    )
    yield from _published_notes(table)
    if table.benchmark == "icons":
        yield "icons: one half of the concepts trains, the other half is tested (a hash of the concept decides)."
    if any(cell.mean is None for row in table.rows for cell in row.ood.values()):
        yield f"{MISSING}: not all seeds are done, and so is every average over it."
    yield from (f"{note}." for note in table.notes)


def _error_note(seeds: Sequence[int], error_bar: ErrorBar) -> str:
    named = ", ".join(map(str, seeds))
    if len(seeds) < 2:
        return f"over one seed ({named}), so there is no error"
    return f"± is {ERROR_BARS[error_bar]}, over n = {len(seeds)} seeds ({named})"


def _selection_notes(report: Report, table: BenchmarkTable) -> Iterator[str]:
    if report.each_seed_searched:
        yield "Each seed had its own search: a cell's error bar is over searches, each with its own selected trial."
    if report.selection == "leave_one_domain_out":
        seed = "the same seed" if report.each_seed_searched else "seed 0"
        yield (
            f"A configuration is selected by its mean accuracy on each source domain in folds ({seed}) that leave that "
            "domain out beside the test domain; the step inside a fold by source validation, as always."
        )
        if table.benchmark == "icons":
            yield "icons: these folds test the same concepts as the table, drawn in the source domains' styles."
    if report.selection == "oracle":
        seed = "" if report.each_seed_searched else " on seed 0, on every seed"
        yield (
            f"The configuration with the best last step on the test domain's own 20% part{seed}. The last step is the "
            "one at which training ended: with SWAD that is where its valley was over, if it was."
        )


def _published_notes(table: BenchmarkTable) -> Iterator[str]:
    rows = [row for row in table.rows if row.published and table.benchmark in row.published.values]
    if rows:
        yield (
            "Published: percent of the paper's tables (claims.yaml), with CLIP ViT-B/16 as teacher and, except for "
            f"zero_shot and vl2v_sd, {PAPER_STUDENT} as student unless named; its seeds and error bars are not public."
        )
        other = [row.published for row in rows if row.published and row.published.student not in ("", PAPER_STUDENT)]
        yield from (f"{row.method}: published with student {row.student}." for row in other)


def _summary_grid(report: Report, error_bar: ErrorBar) -> Grid:
    rows = []
    for method in report.methods:
        found = {table.benchmark: row for table in report.tables for row in table.rows if row.method == method}
        own = [found.get(table.benchmark) for table in report.tables]
        cells = [row.average_ood.text(error_bar) if row else MISSING for row in own]
        rows.append((method, *cells, report.grand_average[method].text(error_bar), _published_average(report, own)))
    head = ("Method", *(table.benchmark for table in report.tables), "Avg", "Published avg")
    caption = (
        f"Mean over test domains of the accuracy on their 80% parts, in percent; "
        f"{_error_note(max((table.seeds for table in report.tables), key=len), error_bar)}; "
        f"selection: {report.selection_title}.",
        *(f"{note}." for note in report.notes),
    )
    return Grid(title="Summary over benchmarks", head=head, rows=tuple(rows), caption=caption)


def _claims_grid(report: Report, error_bar: ErrorBar) -> Grid:
    rows = [
        (
            f"{entry.method}{' (headline)' if entry.headline else ''}",
            entry.benchmark,
            f"{entry.claimed:.2f}",
            "-" if entry.verified is None else entry.verified.text(error_bar),
            entry.status,
        )
        for entry in report.claims
    ]
    return Grid(
        title="Published and measured",
        head=("Method", "Benchmark", "Claimed", "Verified", "Status"),
        rows=tuple(rows),
        caption=(
            "Percent, averaged over the benchmark's test domains. Reproduced: within 1.0 percentage point, by the "
            "published protocol, with the authors' settings or ones that they search, on the papers' images. "
            f"Selection: {report.selection_title}.",
        ),
    )


def markdown(report: Report, error_bar: ErrorBar = "domainbed") -> str:
    """All tables in Markdown, columns aligned so that a terminal reads well."""
    parts = [f"# Report of sweep {report.sweep}\n", *([f"{report.missing}\n"] if report.missing else [])]
    for grid in grids(report, error_bar):
        widths = [max(len(row[column]) for row in (grid.head, *grid.rows)) for column in range(len(grid.head))]
        lines = [_markdown_line(grid.head, widths), _markdown_line(["-" * width for width in widths], widths)]
        lines += [_markdown_line(row, widths) for row in grid.rows]
        parts.append("\n".join([f"## {grid.title}", "", *lines, "", *grid.caption]) + "\n")
    if report.pruning.happened:
        parts.append(f"## Pruning\n\n{report.pruning.line}.\n")
    return "\n".join(parts)


def latex(report: Report, error_bar: ErrorBar = "domainbed") -> str:
    """All tables as a LaTeX fragment for booktabs."""
    parts = [f"% {report.missing}\n"] if report.missing else []
    for grid in grids(report, error_bar):
        lines = [r"\begin{table}", rf"\caption{{{_escaped(grid.title)}. {_escaped(' '.join(grid.caption))}}}"]
        lines += [r"\centering", rf"\begin{{tabular}}{{l{'c' * (len(grid.head) - 1)}}}", r"\toprule"]
        lines += [" & ".join(rf"\textbf{{{_escaped(name)}}}" for name in grid.head) + r" \\", r"\midrule"]
        lines += [" & ".join(map(_escaped, row)) + r" \\" for row in grid.rows]
        lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def csv_text(report: Report) -> str:
    """One line per benchmark, method, test domain (or average) and measure, with every error bar.

    An error is empty where one seed gives none.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        ["benchmark", "method", "test_domain", "measure", "mean_percent", "domainbed_error", "unbiased_error",
         "seeds", "published_percent", "selection", "scope", "data_manifest", "teacher_mode", "precision",
         "selection_title", "t95_error"]
    )  # fmt: skip
    for table in report.tables:
        own = [table.fingerprint.get(name, "") for name in ("data manifest", "teacher mode", "precision")]
        for row in table.rows:
            for domain, measure, cell in _cells(row):
                claimed = row.published.values.get(table.benchmark) if row.published else None
                claimed = claimed if (domain, measure) == ("average", "ood") else None
                errors = [_error(cell, bar) for bar in ("domainbed", "sample")]
                writer.writerow(
                    [table.benchmark, row.method, domain, measure, _number(cell.mean), *errors, len(cell.values),
                     "" if claimed is None else claimed, report.selection, report.scope, *own,
                     report.selection_title, _error(cell, "t95")]
                )  # fmt: skip
    return file.getvalue()


def to_mapping(report: Report) -> dict[str, Any]:
    """Plain values for JSON; accuracies by seed are fractions, means and errors percent, what is missing null."""
    return {
        "sweep": report.sweep,
        "sweep_key": report.sweep_key,
        "scope": report.scope,
        "space": report.space,
        "selection": report.selection,
        "selection_title": report.selection_title,
        "missing": report.missing,
        "error_bars": {WRITTEN_NAMES[bar]: meaning for bar, meaning in ERROR_BARS.items()},
        "tables": [_table_mapping(table) for table in report.tables],
        "average_over_benchmarks": {method: _cell_mapping(cell) for method, cell in report.grand_average.items()},
        "published_and_measured": [
            asdict(entry) | {"verified": None if entry.verified is None else _cell_mapping(entry.verified)}
            for entry in report.claims
        ],
        "notes": list(report.notes),
        "pruning": report.pruning.to_mapping(),
        "teacher_queries": {"sweep": asdict(report.queries), "store": asdict(report.store_queries)},
        "price_per_1000": report.price_per_1000,
    }


def _table_mapping(table: BenchmarkTable) -> dict[str, Any]:
    rows = []
    for row in table.rows:
        cells: dict[str, dict[str, Any]] = {}
        for domain, measure, cell in _cells(row):
            cells.setdefault(measure, {})[domain] = _cell_mapping(cell)
        rows.append(
            {
                "method": row.method,
                "title": method_facts(row.method).title,
                **cells,
                "teacher_images": row.teacher_images,
                "teacher_texts": row.teacher_texts,
                "teacher_unconfirmed": row.teacher_unconfirmed,
                "published": None if row.published is None else asdict(row.published),
            }
        )
    return {
        "benchmark": table.benchmark,
        "letters": dict(table.letters),
        "seeds": list(table.seeds),
        "fingerprint": dict(table.fingerprint),
        "rows": rows,
        "notes": list(table.notes),
    }


def _cells(row: Row) -> Iterator[tuple[str, str, Cell]]:
    for measure, cells in row.cells.items():
        for domain, cell in cells.items():
            yield domain, measure, cell
        yield "average", measure, row.average(measure)


def _cell_mapping(cell: Cell) -> dict[str, Any]:
    return {
        "mean": cell.mean,
        **{f"{name}_error": cell.error(bar) for bar, name in WRITTEN_NAMES.items()},
        "by_seed": list(cell.values),
    }


def _published_average(report: Report, rows: Sequence[Row | None]) -> str:
    """The mean of the published numbers over the very benchmarks of the summary, where all have one."""
    published = next((row.published for row in rows if row and row.published), None)
    values = [published.values.get(table.benchmark) for table in report.tables] if published else [None]
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):.2f}" if len(known) == len(values) else "-"


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.4f}"


def _error(cell: Cell, bar: ErrorBar) -> str:
    """Empty where one seed gives no estimate."""
    return "" if cell.is_whole and cell.error(bar) is None else _number(cell.error(bar))


def _markdown_line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
    return f"| {' | '.join(padded)} |"


def _escaped(text: str) -> str:
    return text.translate(LATEX)
