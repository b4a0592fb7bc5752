"""The tables of a sweep: method x test domain, ID beside OOD, published numbers beside measured ones.

Accuracy is on the 80% part of the unseen domain, averaged over seeds. A cell that lacks a seed is X, and so is every
average over it. Folds whose fingerprints differ are not averaged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from orchestrator.inspection.failure_summary import failure_notes, failure_summaries
from orchestrator.inspection.teacher_usage import sweep_queries
from orchestrator.plan.asked import asked_lines
from orchestrator.plan.fold_groups import is_shared_choice
from orchestrator.report.cells import Cell, average
from orchestrator.report.claims import ClaimEntry, compared_claims
from orchestrator.report.columns import MEASURES, Row
from orchestrator.report.comparability import ROW, SUMMARY, TABLE, check_comparable, differences, shared
from orchestrator.report.measurements import Measurement, Selection, measure, selection_title
from orchestrator.report.missing_folds import missing_line
from orchestrator.report.pruning_audit import PruningAudit, audit
from orchestrator.search.group_view import planned_domains
from orchestrator.store.sweep_folder import SweepFolder
from search_spaces.benchmarks import BENCHMARKS
from search_spaces.claims import published_row
from search_spaces.errors import UserError
from search_spaces.fold_groups import FoldGroup
from search_spaces.sweeps import Sweep, check_shared_choice
from trainables.teacher.ledger import QueryCounts, query_counts


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkTable:
    """One benchmark's table."""

    benchmark: str
    letters: Mapping[str, str]
    """What stands above each test domain's column."""
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
    fingerprint: Mapping[str, str]
    """What all folds of the table have in common."""
    notes: tuple[str, ...]
    """What is missing, mixed, or not searched to the end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Everything that is printed about a sweep."""

    sweep: str
    sweep_key: str
    scope: str
    space: str
    selection: Selection
    tables: tuple[BenchmarkTable, ...]
    missing: str = ""
    """One line where folds are missing: which, and the command that runs them."""
    shared_choice: bool = False
    """One choice serves all test domains of a benchmark."""
    each_seed_searched: bool = False
    """Every seed had a search and a selected trial of its own, instead of seed 0 for all."""
    grand_average: Mapping[str, Cell] = field(default_factory=dict)
    """By method, the mean over benchmarks; not whole where a benchmark is missing or not comparable."""
    claims: tuple[ClaimEntry, ...] = ()
    notes: tuple[str, ...] = ()
    queries: QueryCounts = field(default_factory=QueryCounts)
    """What the sweep's folds asked the teacher, searched and unfinished ones too."""
    pruning: PruningAudit = field(default_factory=PruningAudit)
    """What pruning saved, and the regret that the audited trials show."""
    store_queries: QueryCounts = field(default_factory=QueryCounts)
    """What everybody asked who shares the sweep's store."""
    price_per_1000: float | None = None
    """Price of a thousand queries, where it was given."""

    @property
    def selection_title(self) -> str:
        """How every format names the selection, and what a shared choice reads."""
        return selection_title(self.selection, shared=self.shared_choice)

    @property
    def methods(self) -> tuple[str, ...]:
        """Rows of all tables, in order."""
        return tuple(dict.fromkeys(row.method for table in self.tables for row in table.rows))

    def table(self, benchmark: str) -> BenchmarkTable:
        """One benchmark's table."""
        return next(table for table in self.tables if table.benchmark == benchmark)


def build_report(
    store: SweepFolder,
    *,
    selection: Selection | None = None,
    allow_mixed: bool = False,
    price_per_1000: float | None = None,
) -> Report:
    """Read the store and make the tables.

    Args:
        store: What is read.
        selection: How configurations are selected; None is the sweep's own.
        allow_mixed: Average what was not made alike, and say so.
        price_per_1000: Price of a thousand teacher queries; None is what the folder remembers.

    Raises:
        UserError: no sweep in the folder; a selection that its scope does not allow; folds that differ in more than
            the search varies, unless `allow_mixed`.
    """
    sweep, groups = store.sweep(), store.groups()
    if sweep is None or not groups:
        raise UserError(f"no sweep in {store.where}; give the --out of one")
    if selection == "leave_one_domain_out" != sweep.selection:
        check_shared_choice(replace(sweep, selection=selection))
    selection = selection or sweep.selection
    measurements, missing, shortened = measure(store, selection)
    benchmarks = tuple(dict.fromkeys(group.benchmark for group in groups))
    found = failure_summaries(store)
    tables = tuple(
        replace(
            table,
            notes=(
                *table.notes,
                *_asked(store, sweep, table.benchmark),
                *_shortened(shortened, table.benchmark),
                *failure_notes(found, table.benchmark),
            ),
        )
        for table in (_benchmark_table(name, groups, measurements, allow_mixed) for name in benchmarks)
    )
    averages = {(table.benchmark, row.method): row.average_ood for table in tables for row in table.rows}
    grand_average, notes = _grand_average(tables, measurements)
    return Report(
        sweep=sweep.name,
        sweep_key=sweep.key,
        scope=sweep.scope,
        space=sweep.space,
        selection=selection,
        tables=tables,
        missing=missing_line(store, missing, selection),
        shared_choice=any(map(is_shared_choice, groups)),
        each_seed_searched=any(group.own_seed is not None for group in groups),
        grand_average=grand_average,
        claims=tuple(compared_claims(averages, measurements, selection)),
        notes=tuple(notes),
        queries=sweep_queries(store),
        pruning=audit(store),
        store_queries=query_counts(store.folds.queries_folder),
        price_per_1000=store.price_per_1000 if price_per_1000 is None else price_per_1000,
    )


def _benchmark_table(
    name: str, groups: Sequence[FoldGroup], measurements: Sequence[Measurement], allow_mixed: bool
) -> BenchmarkTable:
    own_groups = [group for group in groups if group.benchmark == name]
    own = [item for item in measurements if item.benchmark == name]
    methods = tuple(dict.fromkeys(group.method for group in own_groups))
    domains = planned_domains(groups, name)
    seeds = tuple(sorted({seed for group in own_groups for seed in group.all_seeds}))
    notes: list[str] = []
    for method in methods:
        members = [item for item in own if item.method == method]
        notes += _mixed(members, ROW, f"{name}, {method}", allow_mixed)
    notes += _mixed(own, TABLE, f"{name}", allow_mixed)
    rows = tuple(_row(method, domains, seeds, own) for method in methods)
    for row in rows:
        notes += _missing(row)
    registered = BENCHMARKS.get(name)
    letters = {domain.name: domain.letter for domain in registered.domains} if registered else {}
    return BenchmarkTable(
        benchmark=name,
        letters={domain: letters.get(domain, domain) for domain in domains},
        rows=rows,
        seeds=seeds,
        fingerprint=dict(shared(own)),
        notes=tuple(dict.fromkeys(notes)),
    )


def _row(method: str, domains: Sequence[str], seeds: Sequence[int], measurements: Sequence[Measurement]) -> Row:
    own = {(item.test_domain, item.seed): item for item in measurements if item.method == method}

    def cell(measure: str, domain: str) -> Cell:
        found = (own.get((domain, seed)) for seed in seeds)
        return Cell(values=tuple(None if item is None else item.values[measure] for item in found))

    students = {item.spec.hyperparameters.student for item in own.values()}
    return Row(
        method=method,
        cells={measure: {domain: cell(measure, domain) for domain in domains} for measure in MEASURES},
        teacher_images=sum(item.teacher_images for item in own.values()),
        teacher_texts=sum(item.teacher_texts for item in own.values()),
        teacher_unconfirmed=sum(item.teacher_unconfirmed for item in own.values()),
        published=(published_row(method, students.pop()) if len(students) == 1 else None) or published_row(method),
    )


def _missing(row: Row) -> list[str]:
    """What stands behind each X."""
    lines = []
    for domain, cell in row.ood.items():
        known = sum(value is not None for value in cell.values)
        if known < len(cell.values):
            lines.append(f"{row.method} on {domain}: {known} of {len(cell.values)} seeds are done")
    return lines


def _asked(store: SweepFolder, sweep: Sweep, name: str) -> Iterator[str]:
    """Where what ran is not what was asked for; of a benchmark that nothing here describes any more, nothing."""
    known = BENCHMARKS.get(name)
    with suppress(UserError):
        known = known or store.last_run().benchmarks.get(name)
    yield from () if known is None else asked_lines(sweep, known)


def _shortened(groups: Sequence[tuple[FoldGroup, int]], benchmark: str) -> list[str]:
    """Which searches were not whole."""
    return [
        f"{group.method} on {', '.join(group.test_domains)}{_own_seed(group)}: selected from {tried} of "
        f"{group.trials} configurations, for a budget ended the search"
        for group, tried in groups
        if group.benchmark == benchmark
    ]


def _own_seed(group: FoldGroup) -> str:
    return "" if group.own_seed is None else f", seed {group.own_seed}"


def _mixed(measurements: Sequence[Measurement], names: Sequence[str], what: str, allow_mixed: bool) -> list[str]:
    if not allow_mixed:
        check_comparable(measurements, names, what=what)
    return [f"MIXED FOLDS in {what}: {line}" for line in differences(measurements, names)]


def _grand_average(
    tables: Sequence[BenchmarkTable], measurements: Sequence[Measurement]
) -> tuple[dict[str, Cell], list[str]]:
    """The mean over benchmarks by method, where every benchmark has it and all were made alike."""
    averages: dict[str, Cell] = {}
    notes = []
    for method in dict.fromkeys(row.method for table in tables for row in table.rows):
        cells = [row.average_ood for table in tables for row in table.rows if row.method == method]
        found = differences([item for item in measurements if item.method == method], SUMMARY)
        notes += [f"no average over benchmarks for {method}: {line}" for line in found]
        averages[method] = average(cells) if len(cells) == len(tables) and not found else Cell(values=())
    return averages, notes
