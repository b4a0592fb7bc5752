"""`report`, `domainbed`, `export-hparams`, `ui` and `sync`: what a sweep has found, and where else that goes."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from orchestrator.cli.app import PROGRAM, app
from orchestrator.cli.console import wide_console
from orchestrator.cli.options import DataRootOption, ErrorOption, ExistingOutOption, JsonOption, PriceArguments
from orchestrator.cli.shared_options import expanded
from orchestrator.cli.sweep_arguments import check_choice, resolve_names
from orchestrator.run_options import absolute_data_root
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from orchestrator.inspection.export import ExportedGroup
    from orchestrator.report.cells import ErrorBar
    from orchestrator.report.measurements import Selection
    from orchestrator.store.sweep_folder import SweepFolder
    from orchestrator.sweep import SweepOutcome


@app.command("report", rich_help_panel="Results")
@expanded
def report_command(
    run: PriceArguments,
    out: ExistingOutOption,
    error: ErrorOption = "domainbed",
    selection: Annotated[
        str | None,
        typer.Option(
            "--selection",
            metavar="source_validation|leave_one_domain_out|oracle",
            help="How the configuration is selected; the sweep's own way if absent. The oracle sees test domains: "
            "that is no fair comparison.",
        ),
    ] = None,
    allow_mixed: Annotated[
        bool, typer.Option("--allow-mixed", help="Average runs whose fingerprints differ, and name the difference.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Print the tables, and write them as Markdown, CSV, LaTeX and JSON into OUT/report."""
    from orchestrator.report.measurements import Selection
    from orchestrator.store.sweep_folder import open_store

    check_error(error)
    if selection is not None:
        check_choice("--selection", selection, get_args(Selection))
    price_per_1000 = run.options.price_per_1000
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
    from orchestrator.store.leases import remove_half_files

    made = build_report(
        store, selection=cast("Selection | None", selection), allow_mixed=allow_mixed, price_per_1000=price_per_1000
    )
    error_bar = cast("ErrorBar", error)
    remove_half_files(store)
    paths = []
    try:
        paths = report_formats.write_report(made, store, error_bar=error_bar)
        store.mirrors.send_now([store.report_folder])
    except OSError as failed:
        # A read-only or full disk keeps nobody from reading the table.
        said = failed.strerror or str(failed)
        print(f"the report's files are not written: {store.shown(store.report_folder)}: {said}", file=sys.stderr)
    if as_json:
        typer.echo(json.dumps(report_formats.to_mapping(made), indent=1))
        return
    typer.echo(report_formats.markdown(made, error_bar))
    if paths:
        typer.echo(f"written: {', '.join(map(store.shown, paths))}")


@app.command("domainbed", rich_help_panel="Results")
def domainbed_command(
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


@app.command("ui", rich_help_panel="Results")
def ui_command(
    out: ExistingOutOption,
    port: Annotated[int, typer.Option("--port", metavar="N", help="Port on 127.0.0.1; 0 takes a free one.")] = 0,
) -> None:
    """Serve MLflow on loopback and print the address that compares the sweep's runs; Ctrl-C ends it."""
    from orchestrator.store.sweep_folder import open_store
    from orchestrator.tracking.mlflow_ui import serve_ui

    serve_ui(open_store(out), port=port, announce=typer.echo)


@app.command("export-hparams", rich_help_panel="Results")
def export_hparams_command(
    out: ExistingOutOption,
    group: Annotated[
        str | None,
        typer.Argument(metavar="[GROUP]", help="A fold group, such as icons/erm/line: its YAML is printed."),
    ] = None,
    into: Annotated[
        str | None,
        typer.Option("--into", metavar="DIR", help="Folder for one file per fold group; OUT/hparams if absent."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the selected hyperparameters of each fold group as YAML that --config of sweep and train takes back."""
    from orchestrator.inspection.export import export_groups
    from orchestrator.store.search_records import group_slug
    from orchestrator.store.sweep_folder import open_store

    store = open_store(out)
    exported = export_groups(store, only=group)
    if as_json:
        typer.echo(json.dumps({item.group: item.config for item in exported}, indent=1))
        return
    if group is not None and into is None:
        typer.echo(exported[0].text, nl=False)
        return
    folder = Path(into) if into else store.out / "hparams"
    rows = []
    for item in exported:
        path = folder / f"{group_slug(item.group)}.yaml"
        _write(path, item.text)
        rows.append((item, store.shown(path)))
    store.mirrors.send_now([folder])
    _show_exported(rows)


def _write(path: Path, text: str) -> None:
    from trainables.storage.json_files import write_atomically

    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None


def _show_exported(rows: list[tuple[ExportedGroup, str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("fold group", "trial", "source validation", "file")
    for item, path in rows:
        accuracy = "-" if item.accuracy is None else f"{item.accuracy:.2%}"
        table.add_row(Text(item.group), str(item.trial), accuracy, Text(path))
    wide_console().print(table if rows else "no fold group has a selected trial yet")


@app.command("sync", rich_help_panel="Results")
def sync_command(out: ExistingOutOption, data_root: DataRootOption = None, as_json: JsonOption = False) -> None:
    """Bring MLflow up to date with a sweep's folder, after it was out of reach; doing it twice adds nothing."""
    from orchestrator.plan.plan import make_plan
    from orchestrator.store.sweep_folder import open_store
    from orchestrator.tracking.mlflow_client import TrackingError
    from orchestrator.tracking.mlflow_tracker import Tracker
    from trainables.storage.redaction import redact

    store = open_store(out)
    sweep, ran = store.existing_sweep(), store.last_run()
    if data_root is not None:
        ran = replace(
            ran, data_root=absolute_data_root(data_root), benchmarks=resolve_names(sweep.benchmarks, data_root)
        )
    benchmarks = {name: ran.benchmark(name) for name in sweep.benchmarks}
    plan = make_plan(sweep, benchmarks)
    tracker = Tracker(store=store, sweep=sweep, documents={"plan.json": plan.to_mapping()})
    tracker.preflight()
    try:
        written = tracker.sync()
    except TrackingError as error:
        raise UserError(f"tracking address {redact(tracker.uri)} did not take everything: {error}") from None
    if as_json:
        typer.echo(json.dumps({"runs_written": written, "address": redact(tracker.uri)}))
    else:
        typer.echo(f"{written} runs written to {redact(tracker.uri)}; the others were up to date")


def say_where_tracking_stands(store: SweepFolder, outcome: SweepOutcome, *, track_now: bool) -> None:
    """Say on stderr that MLflow lacks something, and what fills it in; nothing where it has everything."""
    command = f"{PROGRAM} sync --out {shlex.quote(store.where)}"
    if not track_now:
        print(f"MLflow was left for later:  {command}", file=sys.stderr)
    elif outcome.tracking_behind:
        print(f"MLflow is behind ({outcome.tracking_behind}); once it is back:  {command}", file=sys.stderr)
