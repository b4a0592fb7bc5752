"""`status`, `report` and `ui`: the commands that look at what a sweep left in its output folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from orchestrator.cli.app import app
from orchestrator.cli.console import wide_console
from orchestrator.cli.options import ErrorOption, ExistingOutOption, JsonOption, PriceOption
from orchestrator.cli.sweep_arguments import check_choice, check_money

if TYPE_CHECKING:
    from rich.table import Table

    from orchestrator.inspection.status import SweepStatus
    from orchestrator.report.cells import ErrorBar
    from orchestrator.report.measurements import Selection
    from orchestrator.store.sweep_folder import SweepFolder


@app.command()
def status(out: ExistingOutOption, price_per_1000: PriceOption = None, as_json: JsonOption = False) -> None:
    """Say how far a sweep is: folds done, running, failed and waiting by fold group, and what the teacher was asked."""
    from orchestrator.inspection.status import sweep_status
    from orchestrator.store.sweep_folder import open_store

    check_money(None, price_per_1000)
    store = open_store(out)
    found, price_per_1000 = sweep_status(store), store.price_per_1000 if price_per_1000 is None else price_per_1000
    if as_json:
        content = found.to_mapping()
        if price_per_1000 is not None:
            content["price"] = found.queries.price(price_per_1000)
        typer.echo(json.dumps(content, indent=1))
        return
    console = wide_console()
    console.print(found.line, markup=False)
    console.print(status_table(found))
    console.print(found.queries_line(price_per_1000), markup=False)
    if found.gpu_share is not None:
        console.print(found.gpu_share.line, markup=False)
    for trouble in found.troubles:
        console.print(trouble.line, markup=False)


def status_table(found: SweepStatus) -> Table:
    """A row per fold group."""
    from rich.table import Table

    table = Table()
    titles = ["fold group", "done", "running", "failed", "waiting", "best trial", "source validation", "teacher images"]
    if found.counts.pruned:
        titles.insert(4, "pruned")
    for title in titles:
        table.add_column(title, justify="left" if title == "fold group" else "right", no_wrap=True)
    for group in found.groups:
        counts = group.counts
        states = [counts.done, counts.running, counts.failed, counts.waiting]
        if found.counts.pruned:
            states.insert(3, counts.pruned)
        best = "-" if group.best is None else str(group.best)
        accuracy = "-" if group.accuracy is None else f"{group.accuracy:.1%}"
        table.add_row(group.name, *map(str, states), best, accuracy, f"{group.teacher_images:,}")
    return table


def show_budget(store: SweepFolder, refusals: Sequence[str], *, price_per_1000: float | None) -> None:
    """Say on stderr that a budget was reached, what is done and what waits."""
    from orchestrator.inspection.status import sweep_status

    found, console = sweep_status(store), wide_console(stderr=True)
    console.print(status_table(found))
    console.print(found.queries_line(price_per_1000), markup=False)
    console.print(f"no budget lets any of the {found.counts.waiting} waiting folds start:", markup=False)
    for line in refusals:
        console.print(line, markup=False)


@app.command()
def report(
    out: ExistingOutOption,
    error: ErrorOption = "domainbed",
    selection: Annotated[
        str | None,
        typer.Option(
            "--selection",
            metavar="source_validation|leave_one_domain_out|oracle",
            help="How configurations are chosen; the sweep's own way if absent. The oracle sees test domains: no fair "
            "comparison.",
        ),
    ] = None,
    allow_mixed: Annotated[
        bool, typer.Option("--allow-mixed", help="Average runs whose fingerprints differ, and name the difference.")
    ] = False,
    price_per_1000: PriceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the tables, and write them as Markdown, CSV, LaTeX and JSON into OUT/report."""
    from orchestrator.report.measurements import Selection
    from orchestrator.store.sweep_folder import open_store

    check_error(error)
    if selection is not None:
        check_choice("--selection", selection, get_args(Selection))
    check_money(None, price_per_1000)
    show_report(
        open_store(out),
        error=error,
        selection=selection,
        allow_mixed=allow_mixed,
        price_per_1000=price_per_1000,
        as_json=as_json,
    )


def show_report(
    store: SweepFolder,
    *,
    error: str = "domainbed",
    selection: str | None = None,
    allow_mixed: bool = False,
    price_per_1000: float | None = None,
    as_json: bool = False,
) -> None:
    """Write the report's files and print its tables, or its JSON."""
    from orchestrator.report import formats as report_formats
    from orchestrator.report.report import build_report

    made = build_report(
        store, selection=cast("Selection | None", selection), allow_mixed=allow_mixed, price_per_1000=price_per_1000
    )
    error_bar = cast("ErrorBar", error)
    paths = report_formats.write_report(made, store, error_bar=error_bar)
    store.mirrors.send_now([store.report_folder])
    if as_json:
        typer.echo(json.dumps(report_formats.to_mapping(made), indent=1))
        return
    typer.echo(report_formats.markdown(made, error_bar))
    typer.echo(f"written: {', '.join(map(store.shown, paths))}")


@app.command()
def domainbed(
    records: Annotated[
        str, typer.Argument(metavar="DIR|FILE", help="A folder with DomainBed's results.jsonl files, or one such file.")
    ],
    as_latex: Annotated[bool, typer.Option("--latex", help="As a LaTeX document.")] = False,
) -> None:
    """Print DomainBed's tables of DomainBed's own records, for rows that its code trained, by its three selections."""
    from pathlib import Path

    from orchestrator.report.domainbed.records import read_records
    from orchestrator.report.domainbed.tables import domainbed_tables

    typer.echo(domainbed_tables(read_records(Path(records)), latex=as_latex), nl=False)


def check_error(error: str) -> str:
    """Raises `UserError` for an error convention that is none."""
    from orchestrator.report.cells import ErrorBar

    return check_choice("--error", error, get_args(ErrorBar))


@app.command()
def ui(
    out: ExistingOutOption,
    port: Annotated[int, typer.Option("--port", metavar="N", help="Port on 127.0.0.1; 0 takes a free one.")] = 0,
) -> None:
    """Serve MLflow on loopback and print the address that compares the sweep's runs; Ctrl-C ends it."""
    from orchestrator.store.sweep_folder import open_store
    from orchestrator.tracking.mlflow_ui import serve

    serve(open_store(out), port=port, announce=typer.echo)
