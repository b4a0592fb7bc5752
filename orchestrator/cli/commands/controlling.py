"""`stop`, `cancel` and `retry`: the commands that act on a sweep that is there, and need no configuration."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.app import INTERRUPTED, PROGRAM, app
from orchestrator.cli.commands.syncing import say_where_tracking_stands
from orchestrator.cli.options import (
    TRACKING,
    AddressOption,
    DataRootOption,
    ExistingOutOption,
    GpuHourPriceOption,
    GpuHoursBudgetOption,
    JsonOption,
    MaxFailuresOption,
    MoneyBudgetOption,
    PriceOption,
    QueryBudgetOption,
    SecondsPerFoldOption,
    TrackingOption,
    WallBudgetOption,
)
from orchestrator.cli.sweep_arguments import check_choice, check_money, check_runs
from orchestrator.run_options import Limits

if TYPE_CHECKING:
    from orchestrator.scheduler.control import Wish
    from orchestrator.store.sweep_folder import SweepFolder
    from orchestrator.sweep import SweepOutcome

NoWaitOption = Annotated[bool, typer.Option("--no-wait", help="Leave the request and end at once.")]


@app.command()
def stop(out: ExistingOutOption, no_wait: NoWaitOption = False) -> None:
    """Let the running sweep finish the folds that run and start nothing new; the same sweep command goes on later."""
    _ask(out, "stop", no_wait=no_wait)


@app.command()
def cancel(out: ExistingOutOption, no_wait: NoWaitOption = False) -> None:
    """Stop the running sweep now and keep everything: folds go on at their last checkpoint next time."""
    _ask(out, "cancel", no_wait=no_wait)


def _ask(out: str, wish: Wish, *, no_wait: bool) -> None:
    from orchestrator.inspection.status import sweep_status
    from orchestrator.scheduler.control import ask, wait_until_ended
    from orchestrator.store.sweep_folder import open_store

    store = open_store(out)
    request = ask(store, wish)
    if request.wish != wish:
        typer.echo(f"the sweep in {store.where} is being cancelled already")
    if no_wait:
        typer.echo(f"asked the sweep in {store.where} to {request.wish}; it has not ended yet")
        return
    running = sweep_status(store).counts.running
    what = f"its {running} running folds finish" if request.wish == "stop" else "its workers let go"
    print(f"asked the sweep in {store.where} to {request.wish}; waiting until {what} (Ctrl-C ends the waiting only)",
          file=sys.stderr)  # fmt: skip
    wait_until_ended(store, request)
    store.mirrors.refresh()
    typer.echo(sweep_status(store).line)


@app.command()
def retry(
    out: ExistingOutOption,
    data_root: DataRootOption = None,
    max_concurrent: Annotated[
        int | None,
        typer.Option("--max-concurrent", metavar="N", help="Folds at a time; as it last ran if absent."),
    ] = None,
    query_budget: QueryBudgetOption = None,
    price_per_1000: PriceOption = None,
    gpu_hours_budget: GpuHoursBudgetOption = None,
    wall_budget: WallBudgetOption = None,
    money_budget: MoneyBudgetOption = None,
    price_per_gpu_hour: GpuHourPriceOption = None,
    seconds_per_fold: SecondsPerFoldOption = None,
    max_failures: MaxFailuresOption = None,
    tracking: TrackingOption = "now",
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the failed folds of a sweep again, and these alone, as the sweep last ran them."""
    from orchestrator.store.sweep_folder import open_store
    from orchestrator.sweep import failed_folds

    check_money(query_budget, price_per_1000)
    check_runs(max_concurrent, max_failures)
    check_choice("--tracking", tracking, TRACKING)
    limits = Limits(
        gpu_hours=gpu_hours_budget,
        wall_hours=wall_budget,
        money=money_budget,
        price_per_gpu_hour=price_per_gpu_hour,
        seconds_per_fold=seconds_per_fold,
    )
    store = open_store(out)
    store.existing_sweep()
    failed = failed_folds(store)
    if not failed:
        typer.echo(json.dumps({"retried": 0}) if as_json else f"no fold of the sweep in {store.where} has failed")
        return
    before = {key: len(store.folds.attempts(key).attempts) for key in failed}
    outcome = _run_failed(
        store,
        data_root=data_root,
        max_concurrent=max_concurrent,
        query_budget=query_budget,
        price_per_1000=price_per_1000,
        limits=limits,
        max_failures=max_failures,
        address=address,
        track_now=tracking == "now",
    )
    tried = sum(
        store.folds.fold(key).is_done or len(store.folds.attempts(key).attempts) > count
        for key, count in before.items()
    )
    _show_retried(store, tried, outcome, as_json=as_json)
    say_where_tracking_stands(store, outcome, track_now=tracking == "now")
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)


def _run_failed(
    store: SweepFolder,
    *,
    data_root: str | None,
    max_concurrent: int | None,
    query_budget: int | None,
    price_per_1000: float | None,
    limits: Limits,
    max_failures: int | None,
    address: str | None,
    track_now: bool,
) -> SweepOutcome:
    """Run the failed folds with the settings that the sweep last ran with; what is given here goes before them."""
    from orchestrator.cli.progress import progress_for
    from orchestrator.plan.plan import make_plan
    from orchestrator.store.remembered import last_run
    from orchestrator.sweep import run_sweep
    from orchestrator.tracking.mlflow_tracker import Tracker

    sweep, ran = store.existing_sweep(), last_run(store)
    benchmarks = {name: ran.benchmark(name) for name in sweep.benchmarks}
    plan = make_plan(sweep, benchmarks)
    tracker = Tracker(store=store, sweep=sweep, documents={"plan.json": plan.to_mapping()})
    with progress_for(plan.groups, stream=sys.stderr) as progress:
        return run_sweep(
            sweep,
            store=store,
            data_root=data_root or ran.data_root,
            resources=ran.resources,
            benchmarks=benchmarks,
            executor=ran.executor,
            tracking=tracker if track_now else None,
            progress=progress,
            address=address or ran.address,
            max_concurrent=ran.max_concurrent if max_concurrent is None else max_concurrent,
            only_failed=True,
            query_budget=ran.query_budget if query_budget is None else query_budget,
            price_per_1000=price_per_1000,
            limits=limits.over(ran.limits),
            max_failures=ran.max_failures if max_failures is None else max_failures,
        )


def _show_retried(store: SweepFolder, tried: int, outcome: SweepOutcome, *, as_json: bool) -> None:
    from orchestrator.cli.commands.viewing import show_budget
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
    if outcome.exit_code == INTERRUPTED:
        print(f"interrupted; the same command goes on from here (--out {store.where})", file=sys.stderr)
    typer.echo(found.line)
    if found.counts.waiting:
        print(f"what waits is run by the sweep itself: {PROGRAM} sweep with --out {store.where}", file=sys.stderr)
