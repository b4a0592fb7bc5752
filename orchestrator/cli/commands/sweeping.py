"""`sweep`: search, confirm, print the table."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.app import PROGRAM, app
from orchestrator.cli.commands.syncing import say_where_tracking_stands
from orchestrator.cli.commands.viewing import check_error, show_budget, show_report
from orchestrator.cli.options import TRACKING, ErrorOption, JsonOption, OutOption, StoreOption, TrackingOption
from orchestrator.cli.shared_options import expanded
from orchestrator.cli.sweep_arguments import Request, RunArguments, SweepArguments, build_request, check_choice
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from orchestrator.exit_codes import ExitCode
    from orchestrator.plan.plan import Plan
    from orchestrator.run_options import RunOptions
    from orchestrator.store.sweep_folder import SweepFolder


@app.command("sweep")
@expanded
def sweep_command(
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
    """Search every fold group, confirm the best configuration on the seeds, and print the table."""
    from orchestrator.cli.commands.planning import priced, show_plan
    from orchestrator.plan.plan import make_plan
    from orchestrator.store.sweep_folder import open_store

    check_error(error)
    check_choice("--tracking", tracking, TRACKING)
    request = build_request(asked, run)
    place = open_store(out or request.default_out(), shared=store)
    plan, shown = make_plan(request.sweep, request.options.benchmarks), priced(request.options, place)
    shown.check()
    if dry_run:
        show_plan(plan, shown, place, as_json=as_json)
        return
    confirm_plan(plan, shown, place, yes=yes, as_json=as_json)
    code = run_and_report(request, plan, place, track_now=tracking == "now", error=error, as_json=as_json)
    if code:
        raise typer.Exit(code)


def confirm_plan(plan: Plan, options: RunOptions, store: SweepFolder, *, yes: bool, as_json: bool) -> None:
    """Show the plan and ask, on a terminal; elsewhere the answer has to be given beforehand.

    Raises:
        UserError: there is no terminal to ask on, and no -y.
        typer.Abort: the answer was no.
    """
    from orchestrator.cli.commands.planning import show_plan

    if not yes and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UserError("there is no terminal to ask on: add -y to run this sweep, or --dry-run to see its plan")
    if not as_json:
        show_plan(plan, options, store)
    if not yes:
        typer.confirm("Run it?", abort=True, err=as_json)


def run_and_report(
    request: Request,
    plan: Plan,
    store: SweepFolder,
    *,
    track_now: bool,
    error: str,
    as_json: bool,
) -> ExitCode:
    """Run the sweep with its progress on stderr, print its report, and return the exit code."""
    from orchestrator.cli.progress import progress_for
    from orchestrator.sweep import run_sweep
    from orchestrator.tracking.mlflow_tracker import Tracker

    tracker = Tracker(
        store=store,
        sweep=request.sweep,
        documents={"plan.json": plan.to_mapping()},
    )
    with progress_for(plan.groups) as progress:
        outcome = run_sweep(request.sweep, store, request.options, progress, tracker if track_now else None)
    if outcome.interrupted:
        say_where_tracking_stands(store, outcome, track_now=track_now)
        print(f"interrupted; the same command goes on from here (--out {store.where})", file=sys.stderr)
        return outcome.exit_code
    price_per_1000 = request.options.price_per_1000
    show_report(store, error=error, selection=request.sweep.selection, price_per_1000=price_per_1000, as_json=as_json)
    for failure in outcome.failures:
        print(f"failed: {failure.group} {failure.fold}: {failure.error}", file=sys.stderr)
    if outcome.out_of_budget:
        show_budget(store, outcome.refusals, price_per_1000=price_per_1000)
    say_where_tracking_stands(store, outcome, track_now=track_now)
    if track_now and not outcome.tracking_behind:
        print(f"compare the runs in MLflow:  {PROGRAM} ui --out {store.where}", file=sys.stderr)
    return outcome.exit_code
