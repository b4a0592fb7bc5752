"""`status`, `watch`, `logs` and `explain`: how a sweep stands and why, by its files alone."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.app import app
from orchestrator.cli.console import wide_console
from orchestrator.cli.options import ExistingOutOption, JsonOption, PriceArguments
from orchestrator.cli.shared_options import expanded
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from orchestrator.inspection.logs import FoldLog
    from orchestrator.inspection.status import SweepStatus
    from orchestrator.store.sweep_folder import SweepFolder


@app.command("status", rich_help_panel="Look")
@expanded
def status_command(run: PriceArguments, out: ExistingOutOption, as_json: JsonOption = False) -> None:
    """Say how far a sweep is: folds done, running, failed and waiting by fold group, and what the teacher was asked."""
    from orchestrator.inspection.status import sweep_status
    from orchestrator.store.sweep_folder import open_store

    price_per_1000, store = run.options.price_per_1000, open_store(out)
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
    for failure in found.failures:
        console.print(failure.line, markup=False)


def status_table(found: SweepStatus) -> Table:
    """A row per fold group."""
    from rich.table import Table
    from rich.text import Text

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
        table.add_row(Text(group.name), *map(str, states), best, accuracy, f"{group.teacher_images:,}")
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


FoldArgument = Annotated[
    str,
    typer.Argument(
        metavar="FOLD", help="A key's first 6 or more characters, or BENCHMARK/DOMAIN/seedN (with /METHOD and /trialN)."
    ),
]


@app.command("watch", rich_help_panel="Look")
def watch_command(
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
        print("the sweep keeps running", file=sys.stderr)


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

    return Group(status_table(found), Text(found.line))


@app.command("logs", rich_help_panel="Look")
def logs_command(
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
        typer.echo(state if state in OVER else f"{state}: no command runs it")
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
        console.print(f"attempt {number} failed at {when} ({attempt.kind}): {attempt.error}", markup=False)
        if attempt.details:
            console.print(attempt.details, markup=False)
    for path in log.files:
        console.print(path, markup=False)


@app.command("explain", rich_help_panel="Look")
def explain_command(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="FOLD|TRIAL",
            help="A fold as `logs` takes it, or a trial: BENCHMARK/METHOD/DOMAIN/trialN (BENCHMARK/METHOD/trialN where "
            "one configuration serves all domains).",
        ),
    ],
    out: ExistingOutOption,
    as_json: JsonOption = False,
) -> None:
    """Say why a fold or trial was tried, how it ended (done, failed, pruned), what is selected, and what it shares."""
    from orchestrator.inspection.explain import explain_fold, explain_trial
    from orchestrator.inspection.fold_names import known_folds
    from orchestrator.store.sweep_folder import open_store

    known = known_folds(open_store(out))
    trial = known.trial(subject)
    explained = explain_trial(known, trial) if trial is not None else explain_fold(known, known.fold(subject))
    if as_json:
        typer.echo(json.dumps(dict(explained.facts), indent=1))
        return
    typer.echo(explained.subject)
    for line in explained.lines:
        typer.echo(f"  {line}")
