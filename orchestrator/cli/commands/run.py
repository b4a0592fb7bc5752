"""`plan`, `sweep` and `retry`: what a sweep will do, the sweep itself, and its failed folds again."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.app import PROGRAM, app
from orchestrator.cli.commands.look import show_budget
from orchestrator.cli.commands.results import check_error, say_where_tracking_stands, show_report
from orchestrator.cli.console import wide_console
from orchestrator.cli.options import (
    TRACKING,
    ErrorOption,
    ExistingOutOption,
    JsonOption,
    OutOption,
    StoreOption,
    TrackingOption,
)
from orchestrator.cli.shared_options import Taken, expanded
from orchestrator.cli.sweep_arguments import (
    Request,
    RunArguments,
    SweepArguments,
    build_request,
    check_choice,
    check_names,
    check_search,
)
from orchestrator.exit_codes import ExitCode
from orchestrator.run_options import RunOptions, check_places
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from orchestrator.plan.plan import Plan
    from orchestrator.store.sweep_folder import SweepFolder
    from orchestrator.sweep import SweepOutcome
    from orchestrator.tracking.mlflow_tracker import Tracker


@app.command("plan", rich_help_panel="Run")
@expanded
def plan_command(
    asked: SweepArguments,
    run: Annotated[RunArguments, Taken(panels=("Where", "Resources of a fold", "Budgets and prices"))],
    out: Annotated[
        str | None,
        typer.Option("--out", metavar="DIR", help="Output folder of a sweep whose finished folds tell the time."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a sweep would do and cost: fold groups, trials, stages, teacher queries, and what is shared."""
    from orchestrator.plan.plan import make_plan
    from orchestrator.store.sweep_folder import open_store

    request = _checked(build_request(asked, run))
    store = None if out is None else open_store(out)
    options = request.options if store is None else priced(request.options, store)
    options.check()
    check_places(options, needed=False)
    show_plan(make_plan(request.sweep, options.benchmarks), options, store, as_json=as_json)


def _checked(request: Request) -> Request:
    """A request that can be honoured; raises `UserError` for one that is honoured in name alone."""
    from orchestrator.plan.asked import check_asked

    check_names(request.sweep)
    check_search(request)
    check_asked(request.sweep, request.options.benchmarks)
    return request


def priced(options: RunOptions, store: SweepFolder) -> RunOptions:
    """The options with the price that the folder remembers, where none is given."""
    return replace(options, price_per_1000=store.price_per_1000) if options.price_per_1000 is None else options


def show_plan(plan: Plan, options: RunOptions, store: SweepFolder | None, *, as_json: bool = False) -> None:
    """Print a plan as a table and its totals, or as JSON; the store's finished folds tell how long one takes."""
    from orchestrator.budgets.plan_forecast import forecast_time
    from orchestrator.cli.plan_text import plan_lines, plan_table, time_lines
    from orchestrator.plan.devices import device_line

    price = options.price_per_1000
    address = "local" if options.executor == "inline" else options.address
    device = device_line(options.resources.gpus_per_worker, address=address)
    found = forecast_time(plan, options.resources, options.limits, price_per_1000=price, store=store)
    if as_json:
        content = {**plan.to_mapping(), "time": found.to_mapping(), "device": device}
        if price is not None:
            content["price_at_most"] = None if plan.need is None else plan.need.price(price)
        if options.query_budget is not None:
            content["query_budget"] = options.query_budget
        if options.limits.any:
            content["limits"] = asdict(options.limits)
        typer.echo(json.dumps(content, indent=1))
        return

    console = wide_console()
    console.print(plan_table(plan))
    for line in plan_lines(
        plan, query_budget=options.query_budget, price_per_1000=price, pair_fold_time=found.pair_fold_time
    ):
        console.print(line, markup=False)
    for line in time_lines(found, options.limits, store=store):
        console.print(line, markup=False)
    console.print(device, markup=False)
    if store is not None:
        console.print(f"results: {store.where}", markup=False)


@app.command("sweep", rich_help_panel="Run")
@expanded
def run_sweep_command(
    asked: SweepArguments,
    run: RunArguments,
    out: OutOption = None,
    store: StoreOption = None,
    tracking: TrackingOption = "now",
    error: ErrorOption = "domainbed",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and end.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; needed where there is no terminal.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Search every fold group, repeat the selected trial on the further seeds, and print the table."""
    from orchestrator.plan.plan import make_plan
    from orchestrator.store.sweep_folder import open_store
    from orchestrator.sweep import check_before
    from orchestrator.tracking.mlflow_tracker import Tracker

    check_error(error)
    check_choice("--tracking", tracking, TRACKING)
    request = _checked(build_request(asked, run))
    place = open_store(out or request.default_out(), shared=store)
    plan, shown = make_plan(request.sweep, request.options.benchmarks), priced(request.options, place)
    shown.check()
    place.check_sweep(request.sweep)
    if dry_run:
        show_plan(plan, shown, place, as_json=as_json)
        return
    tracker = Tracker(store=place, sweep=request.sweep, documents={"plan.json": plan.to_mapping()})
    check_terminal(yes=yes)
    check_before(request.sweep, place, request.options, tracker if tracking == "now" else None)
    confirm_plan(plan, shown, place, yes=yes, as_json=as_json)
    code = run_and_report(request, plan, place, tracker, track_now=tracking == "now", error=error, as_json=as_json)
    if code:
        raise typer.Exit(code)


def check_terminal(*, yes: bool) -> None:
    """Raises `UserError` where there is no terminal to ask on, and no -y."""
    if not yes and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UserError("there is no terminal to ask on: add -y to run this sweep, or --dry-run to see its plan")


def confirm_plan(plan: Plan, options: RunOptions, store: SweepFolder, *, yes: bool, as_json: bool) -> None:
    """Show the plan and ask; raises `typer.Abort` where the answer was no."""
    if not as_json:
        show_plan(plan, options, store)
    if not yes:
        typer.confirm("Run it?", abort=True, err=as_json)


def run_and_report(
    request: Request,
    plan: Plan,
    store: SweepFolder,
    tracker: Tracker,
    *,
    track_now: bool,
    error: str,
    as_json: bool,
) -> ExitCode:
    """Run the sweep with its progress on stderr, print its report, and return the exit code."""
    from orchestrator.cli.progress import progress_for
    from orchestrator.sweep import run_sweep

    with progress_for(plan.folds_by_group, live=request.options.executor != "inline") as progress:
        outcome = run_sweep(request.sweep, store, request.options, progress, tracker if track_now else None)
    if outcome.interrupted:
        say_where_tracking_stands(store, outcome, track_now=track_now)
        print(f"interrupted; run the same command to resume (--out {shlex.quote(store.where)})", file=sys.stderr)
        return outcome.exit_code
    price_per_1000 = request.options.price_per_1000
    show_report(store, error=error, selection=request.sweep.selection, price_per_1000=price_per_1000, as_json=as_json)
    for failure in outcome.failures:
        print(f"failed: {failure.group} {failure.fold}: {failure.error}", file=sys.stderr)
    if outcome.out_of_budget:
        show_budget(store, outcome.refusals, price_per_1000=price_per_1000)
    say_where_tracking_stands(store, outcome, track_now=track_now)
    if track_now and not outcome.tracking_behind:
        print(f"compare the runs in MLflow:  {PROGRAM} ui --out {shlex.quote(store.where)}", file=sys.stderr)
    return outcome.exit_code


@app.command("retry", rich_help_panel="Run")
@expanded
def retry_command(
    run: Annotated[
        RunArguments,
        Taken(
            panels=("Where", "How folds run", "Budgets and prices"),
            without=("executor", "retry_failed"),
            absent="as it last ran",
        ),
    ],
    out: ExistingOutOption,
    tracking: TrackingOption = "now",
    as_json: JsonOption = False,
) -> None:
    """Run the failed folds of a sweep again, and these alone, as the sweep last ran them."""
    from orchestrator.store.sweep_folder import open_store
    from orchestrator.sweep import failed_folds

    check_choice("--tracking", tracking, TRACKING)
    _ = run.options  # What cannot be is said before anything is read.
    store = open_store(out)
    store.existing_sweep()
    failed = failed_folds(store)
    if not failed:
        typer.echo(json.dumps({"retried": 0}) if as_json else f"no fold of the sweep in {store.where} has failed")
        return
    before = {key: len(store.folds.failures(key).attempts) for key in failed}
    options = replace(run.over(store.last_run()), only_failed=True)
    outcome = _run_failed(store, options, track_now=tracking == "now")
    tried = sum(
        store.folds.result(key) is not None or len(store.folds.failures(key).attempts) > count
        for key, count in before.items()
    )
    _show_retried(store, tried, outcome, as_json=as_json)
    say_where_tracking_stands(store, outcome, track_now=tracking == "now")
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)


def _run_failed(store: SweepFolder, options: RunOptions, *, track_now: bool) -> SweepOutcome:
    """Run the failed folds."""
    from orchestrator.cli.progress import progress_for
    from orchestrator.plan.plan import make_plan
    from orchestrator.sweep import run_sweep
    from orchestrator.tracking.mlflow_tracker import Tracker

    sweep = store.existing_sweep()
    options = replace(options, benchmarks={name: options.benchmark(name) for name in sweep.benchmarks})
    plan = make_plan(sweep, options.benchmarks)
    tracker = Tracker(store=store, sweep=sweep, documents={"plan.json": plan.to_mapping()})
    with progress_for(plan.folds_by_group, live=options.executor != "inline", stream=sys.stderr) as progress:
        return run_sweep(sweep, store, options, progress, tracker if track_now else None)


def _show_retried(store: SweepFolder, tried: int, outcome: SweepOutcome, *, as_json: bool) -> None:
    from orchestrator.inspection.status import sweep_status

    found = sweep_status(store)
    if as_json:
        failures = [
            {"key": failure.key, "fold": str(failure.fold), "error": failure.error} for failure in outcome.failures
        ]
        typer.echo(json.dumps({"retried": tried, "failures": failures, "line": found.line}, indent=1))
        return
    for failure in outcome.failures:
        print(f"failed again: {failure.group} {failure.fold}: {failure.error}", file=sys.stderr)
    if outcome.out_of_budget:
        show_budget(store, outcome.refusals, price_per_1000=store.price_per_1000)
    if outcome.exit_code == ExitCode.INTERRUPTED:
        print(f"interrupted; run the same command to resume (--out {shlex.quote(store.where)})", file=sys.stderr)
    typer.echo(found.line)
    if found.counts.waiting:
        print(
            f"what waits is run by the sweep itself: {PROGRAM} sweep with --out {shlex.quote(store.where)}",
            file=sys.stderr,
        )
