"""`watch` and `logs`: the commands that look at a sweep while it runs, by its files alone."""

from __future__ import annotations

import json
import sys
import time
from math import inf
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.app import app
from orchestrator.cli.console import wide_console
from orchestrator.cli.options import ExistingOutOption, JsonOption
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from rich.console import Group

    from orchestrator.inspection.logs import FoldLog
    from orchestrator.inspection.status import SweepStatus
    from orchestrator.store.sweep_folder import SweepFolder

FoldArgument = Annotated[
    str,
    typer.Argument(
        metavar="FOLD", help="A key's first 6 or more characters, or BENCHMARK/DOMAIN/seedN (with /METHOD and /trialN)."
    ),
]


@app.command()
def watch(
    out: ExistingOutOption,
    interval: Annotated[
        float, typer.Option("--interval", metavar="SECONDS", help="Time between two looks at the folder.")
    ] = 2.0,
    as_json: JsonOption = False,
) -> None:
    """Show the status table live until the sweep ends or Ctrl-C; in a file or pipe, one line per change.

    Reads files only, so it works from any machine that sees the folder, or the address.
    """
    from orchestrator.store.sweep_folder import open_store

    if not 0 < interval < inf:
        raise UserError(f"--interval is a number of seconds above 0, got {interval}")
    store = open_store(out)
    try:
        with store.mirrors.kept_fresh():
            if as_json or not sys.stdout.isatty():
                _watch_lines(store, interval, as_json=as_json)
            else:
                _watch_table(store, interval)
    except KeyboardInterrupt:
        print("the sweep goes on", file=sys.stderr)


def _watch_table(store: SweepFolder, interval: float) -> None:
    from rich.live import Live

    from orchestrator.inspection.status import sweep_status

    with Live(console=wide_console(), auto_refresh=False) as live:
        while True:
            began = time.monotonic()
            found = sweep_status(store)
            live.update(_status_group(found), refresh=True)
            if not found.at_work:
                return
            _pause(interval, began)


def _watch_lines(store: SweepFolder, interval: float, *, as_json: bool) -> None:
    """A line whenever a fold changed its state; with JSON one whole status per line."""
    from orchestrator.inspection.status import sweep_status

    told = None
    while True:
        began = time.monotonic()
        found = sweep_status(store)
        now = [group.counts for group in found.groups], found.at_work
        if now != told:
            told = now
            print(json.dumps(found.to_mapping()) if as_json else found.line, flush=True)
        if not found.at_work:
            return
        _pause(interval, began)


def _pause(interval: float, began: float) -> None:
    """Never spend more than half of the time on reading, however large the sweep is."""
    time.sleep(max(interval, time.monotonic() - began))


def _status_group(found: SweepStatus) -> Group:
    from rich.console import Group
    from rich.text import Text

    from orchestrator.cli.commands.viewing import status_table

    return Group(status_table(found), Text(found.line))


@app.command()
def logs(
    fold: FoldArgument,
    out: ExistingOutOption,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on telling what is new until the fold is over or Ctrl-C.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a fold left so far: evaluations, last losses, what went wrong with tracebacks, where its files are."""
    from orchestrator.inspection.fold_names import known_folds
    from orchestrator.inspection.logs import OVER, fold_log
    from orchestrator.inspection.logs import follow as follow_log
    from orchestrator.store.sweep_folder import open_store

    if follow and as_json:
        raise UserError("--follow tells line by line; leave --json or --follow out")
    store = open_store(out)
    known = known_folds(store).fold(fold)
    if follow:
        typer.echo(known.label)
        try:
            with store.mirrors.kept_fresh():
                state = follow_log(store, known, lambda line: print(line, flush=True))
        except KeyboardInterrupt:
            return
        typer.echo(state if state in OVER else f"{state}: nobody is at work")
        return
    log = fold_log(store, known)
    if as_json:
        typer.echo(json.dumps(log.to_mapping(), indent=1))
        return
    _show_log(log)


def _show_log(log: FoldLog) -> None:
    from rich.table import Table

    from orchestrator.inspection.logs import entry_line

    console = wide_console()
    console.print(f"{log.name}  {log.key}  {log.state}", markup=False)
    if log.evaluations:
        table = Table("stage", "step", "source validation", "cross-entropy")
        for entry in log.evaluations:
            accuracy, loss = entry.get("accuracy"), entry.get("cross_entropy")
            shown = ["-" if accuracy is None else f"{accuracy:.2%}", "-" if loss is None else f"{loss:.4f}"]
            table.add_row(str(entry.get("stage")), str(entry.get("step")), *shown)
        console.print(table)
    for entry in log.last_losses:
        console.print(entry_line(entry), markup=False)
    for number, attempt in enumerate(log.attempts, start=1):
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(attempt.time))
        console.print(f"attempt {number} went wrong at {when} ({attempt.kind}): {attempt.error}", markup=False)
        if attempt.details:
            console.print(attempt.details, markup=False)
    for path in log.files:
        console.print(path, markup=False)
