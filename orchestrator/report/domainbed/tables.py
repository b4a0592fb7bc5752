"""DomainBed's result tables from its records, character by character as its `collect_results` prints them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from typing import NamedTuple

from orchestrator.report.cells import MISSING, format_mean
from orchestrator.report.domainbed.selection import SELECTION_METHODS, Record, SelectionMethod, group_records
from orchestrator.search.selection import mean
from search_spaces.benchmarks import BENCHMARKS

ALGORITHMS = (
    *("ERM", "Fish", "IRM", "GroupDRO", "Mixup", "MLDG", "CORAL", "MMD", "DANN", "CDANN", "MTL", "SagNet", "ARM"),
    *("VREx", "RSC", "SD", "ANDMask", "SANDMask", "IGA", "SelfReg", "Fishr", "TRM", "IB_ERM", "IB_IRM", "CAD"),
    *("CondCAD", "Transfer", "CausIRL_CORAL", "CausIRL_MMD", "EQRM"),
)
"""Order of DomainBed's rows; algorithms it does not know follow in order of appearance."""

DATASETS = ("ColoredMNIST", "RotatedMNIST", "VLCS", "PACS", "OfficeHome", "TerraIncognita", "DomainNet", "SVIRO")
"""Order of DomainBed's tables; datasets it does not know follow in byte order."""

MNIST_DOMAINS = {
    "ColoredMNIST": ("+90%", "+80%", "-90%"),
    "RotatedMNIST": ("0", "15", "30", "45", "60", "75"),
}
"""Column heads of DomainBed's two toy datasets, which are no benchmarks here."""

AVERAGE = "avg_over_envs_then_trials"


class DomainBedCell(NamedTuple):
    """One number of a table."""

    selection: str
    dataset: str
    algorithm: str
    test_env: int | str
    """Index of the test domain, or `AVERAGE` for the mean over domains, seed by seed."""
    mean: float | None
    """Percent."""
    error: float | None
    """Percentage points."""
    text: str


class _Chosen(NamedTuple):
    trial_seed: object
    dataset: str
    algorithm: str
    test_env: int
    accuracy: float


def domainbed_cells(
    records: Sequence[Record], selection: SelectionMethod, *, latex: bool = False
) -> list[DomainBedCell]:
    """Every cell of a selection method's tables: datasets, then algorithms, then test domains and their average."""
    chosen = _chosen(records, selection)
    cells = []
    for dataset in _datasets(records):
        for algorithm in _algorithms(records):
            own = [item for item in chosen if (item.dataset, item.algorithm) == (dataset, algorithm)]
            for domain in range(len(_domain_letters(records, dataset))):
                accuracies = [item.accuracy for item in own if item.test_env == domain]
                cells.append(
                    DomainBedCell(selection.key, dataset, algorithm, domain, *format_mean(accuracies, latex=latex))
                )
            by_seed: dict[object, list[float]] = {}
            for item in own:
                by_seed.setdefault(item.trial_seed, []).append(item.accuracy)
            means = [mean(by_seed[seed]) for seed in sorted(by_seed)]  # type: ignore[type-var]
            cells.append(DomainBedCell(selection.key, dataset, algorithm, AVERAGE, *format_mean(means, latex=latex)))
    return cells


def domainbed_tables(records: Sequence[Record], *, latex: bool = False) -> str:
    """All tables of the three selection methods, as text or as a LaTeX document."""
    return "".join(f"{line}\n" for line in _lines(records, latex))


def _lines(records: Sequence[Record], latex: bool) -> Iterator[str]:
    if latex:
        yield from (r"\documentclass{article}", r"\usepackage{booktabs}", r"\usepackage{adjustbox}")
        yield from (r"\begin{document}", r"\section{Full DomainBed results}", f"% Total records: {len(records)}")
    else:
        yield f"Total records: {len(records)}"
    for selection in SELECTION_METHODS.values():
        if latex:
            yield from ("", rf"\subsection{{Model selection: {selection.title}}}")
        yield from _selection_lines(records, selection, latex)
    if latex:
        yield r"\end{document}"


def _selection_lines(records: Sequence[Record], selection: SelectionMethod, latex: bool) -> Iterator[str]:
    cells = domainbed_cells(records, selection, latex=latex)
    algorithms, datasets = _algorithms(records), _datasets(records)
    for dataset in datasets:
        letters = _domain_letters(records, dataset)
        rows = []
        for algorithm in algorithms:
            own = [cell for cell in cells if (cell.dataset, cell.algorithm) == (dataset, algorithm)]
            domains = [cell for cell in own if cell.test_env != AVERAGE]
            rows.append([algorithm, *(cell.text for cell in domains), _mean_text(domains)])
        title = f"Dataset: {dataset}, model selection method: {selection.title}"
        yield from _table_lines(title, dataset, ["Algorithm", *letters, "Avg"], rows, 20, latex)
    rows = []
    for algorithm in algorithms:
        averages = [cell for cell in cells if (cell.test_env, cell.algorithm) == (AVERAGE, algorithm)]
        rows.append([algorithm, *(cell.text for cell in averages), _mean_text(averages)])
    title = f"Averages, model selection method: {selection.title}"
    yield from _table_lines(title, "Averages", ["Algorithm", *datasets, "Avg"], rows, 25, latex)


def _table_lines(
    title: str, section: str, head: list[str], rows: list[list[str]], width: int, latex: bool
) -> Iterator[str]:
    if not latex:
        yield from ("", f"-------- {title}")
        for row in (head, *rows):
            yield "  ".join(_padded(row, width)) + " "
        return
    columns = "l" + "c" * len(head[1:])
    yield from ("", rf"\subsubsection{{{section}}}", "", r"\begin{center}", r"\adjustbox{max width=\textwidth}{%")
    yield from (rf"\begin{{tabular}}{{{columns}}}", r"\toprule")
    bold = [rf"\textbf{{{label}}}".replace("%", r"\%") for label in head]
    yield " & ".join(_padded(bold, width)) + r" \\"
    yield r"\midrule"
    for row in rows:
        yield " & ".join(_padded(row, width)) + r" \\"
    yield from (r"\bottomrule", r"\end{tabular}}", r"\end{center}")


def _padded(row: Sequence[str], width: int) -> list[str]:
    return [value.ljust(width)[:width] for value in row]


def _mean_text(cells: Sequence[DomainBedCell]) -> str:
    means = [cell.mean for cell in cells if cell.mean is not None]
    return f"{sum(means) / len(means):.1f}" if means and len(means) == len(cells) else MISSING


def _chosen(records: Sequence[Record], selection: SelectionMethod) -> list[_Chosen]:
    chosen = []
    for group in group_records(records):
        accuracy = selection.sweep_accuracy(group.records)
        if accuracy is not None:
            chosen.append(_Chosen(group.trial_seed, group.dataset, group.algorithm, group.test_env, accuracy))
    return chosen


def _algorithms(records: Sequence[Record]) -> list[str]:
    names = dict.fromkeys(record["args"]["algorithm"] for record in records)
    return [*(name for name in ALGORITHMS if name in names), *(name for name in names if name not in ALGORITHMS)]


def _datasets(records: Sequence[Record]) -> list[str]:
    names = {record["args"]["dataset"] for record in records}
    return [*(name for name in DATASETS if name in names), *sorted(names - set(DATASETS))]


def _domain_letters(records: Sequence[Record], dataset: str) -> list[str]:
    if dataset in BENCHMARKS:
        return [domain.letter for domain in BENCHMARKS[dataset].domains]
    if dataset in MNIST_DOMAINS:
        return list(MNIST_DOMAINS[dataset])
    own = [record for record in records if record["args"]["dataset"] == dataset]
    return [str(domain) for domain in range(max(_num_domains(record) for record in own))]


def _num_domains(record: Record) -> int:
    return next(domain for domain in count() if f"env{domain}_in_acc" not in record)
