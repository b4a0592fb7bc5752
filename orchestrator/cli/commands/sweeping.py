"""`sweep`: search, confirm, print the table."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, cast

import typer

from orchestrator.cli.app import INTERRUPTED, PROGRAM, app
from orchestrator.cli.commands.syncing import say_where_tracking_stands
from orchestrator.cli.commands.viewing import check_error, show_budget, show_report
from orchestrator.cli.options import (
    EXECUTORS,
    TRACKING,
    AddressOption,
    BenchmarkOption,
    ConfigOption,
    DataRootOption,
    ErrorOption,
    ExecutorOption,
    GpuHourPriceOption,
    GpuHoursBudgetOption,
    GpusOption,
    JsonOption,
    MaxFailuresOption,
    MethodOption,
    MoneyBudgetOption,
    NameOption,
    OutOption,
    OverridesArgument,
    PriceOption,
    PrunerOption,
    QueryBudgetOption,
    SamplerOption,
    ScopeOption,
    SecondsPerFoldOption,
    SeedsOption,
    SelectionOption,
    SpaceOption,
    StoreOption,
    TeacherModeOption,
    TeacherOption,
    TrackingOption,
    TrialsOption,
    WallBudgetOption,
    WorkersOption,
)
from orchestrator.cli.sweep_arguments import Request, SweepOptions, build_request, check_choice, check_money, check_runs
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from orchestrator.cli.commands.planning import ShownBudgets
    from orchestrator.execution.executors import Executor
    from orchestrator.plan.plan import Plan
    from orchestrator.run_options import Limits
    from orchestrator.store.sweep_folder import SweepFolder


YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; needed where there is no terminal.")]


@app.command()
def sweep(
    overrides: OverridesArgument = None,
    benchmark: BenchmarkOption = None,
    method: MethodOption = None,
    space: SpaceOption = None,
    trials: TrialsOption = None,
    seeds: SeedsOption = None,
    scope: ScopeOption = None,
    selection: SelectionOption = None,
    sampler: SamplerOption = None,
    pruner: PrunerOption = None,
    name: NameOption = None,
    data_root: DataRootOption = None,
    out: OutOption = None,
    store: StoreOption = None,
    config: ConfigOption = None,
    teacher: TeacherOption = None,
    teacher_mode: TeacherModeOption = None,
    query_budget: QueryBudgetOption = None,
    price_per_1000: PriceOption = None,
    gpu_hours_budget: GpuHoursBudgetOption = None,
    wall_budget: WallBudgetOption = None,
    money_budget: MoneyBudgetOption = None,
    price_per_gpu_hour: GpuHourPriceOption = None,
    seconds_per_fold: SecondsPerFoldOption = None,
    workers: WorkersOption = None,
    gpus_per_worker: GpusOption = None,
    executor: ExecutorOption = "auto",
    address: AddressOption = None,
    max_concurrent: Annotated[
        int | None,
        typer.Option("--max-concurrent", metavar="N", help="Folds at a time; 1 makes suggestions reproducible."),
    ] = None,
    max_failures: MaxFailuresOption = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Give folds that failed another try.")] = False,
    tracking: TrackingOption = "now",
    error: ErrorOption = "domainbed",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and end.")] = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Search every fold group, confirm the best configuration on the seeds, and print the table."""
    from orchestrator.cli.commands.planning import ShownBudgets, show_plan
    from orchestrator.plan.plan import make_plan
    from orchestrator.run_options import Limits
    from orchestrator.store.sweep_folder import open_store

    check_choice("--executor", executor, EXECUTORS)
    check_money(query_budget, price_per_1000)
    check_runs(max_concurrent, max_failures)
    check_error(error)
    check_choice("--tracking", tracking, TRACKING)
    request = build_request(
        SweepOptions(
            config=config,
            benchmark=benchmark,
            method=method,
            space=space,
            trials=trials,
            seeds=seeds,
            scope=scope,
            selection=selection,
            sampler=sampler,
            pruner=pruner,
            name=name,
            teacher=teacher,
            teacher_mode=teacher_mode,
            workers=workers,
            gpus_per_worker=gpus_per_worker,
            data_root=data_root,
            overrides=overrides or (),
        )
    )
    limits = Limits(
        gpu_hours=gpu_hours_budget,
        wall_hours=wall_budget,
        money=money_budget,
        price_per_gpu_hour=price_per_gpu_hour,
        seconds_per_fold=seconds_per_fold,
    )
    place = open_store(out or request.default_out(), shared=store)
    plan = make_plan(request.sweep, request.benchmarks)
    shown = ShownBudgets(
        query_budget=query_budget,
        price_per_1000=place.price_per_1000 if price_per_1000 is None else price_per_1000,
        limits=limits,
        resources=request.resources,
        store=place,
    )
    limits.check(request.resources, shown.price_per_1000)
    if dry_run:
        show_plan(plan, shown, as_json=as_json)
        return
    confirm_plan(plan, shown, yes=yes, as_json=as_json)
    code = run_and_report(
        request,
        plan,
        store=place,
        limits=limits,
        max_failures=max_failures,
        query_budget=query_budget,
        price_per_1000=price_per_1000,
        executor=cast("Executor", executor),
        address=address,
        max_concurrent=max_concurrent,
        retry_failed=retry_failed,
        track_now=tracking == "now",
        error=error,
        as_json=as_json,
    )
    if code:
        raise typer.Exit(code)


def confirm_plan(plan: Plan, budgets: ShownBudgets, *, yes: bool, as_json: bool) -> None:
    """Show the plan and ask, on a terminal; elsewhere the answer has to be given beforehand.

    Raises:
        UserError: there is no terminal to ask on, and no -y.
        typer.Abort: the answer was no.
    """
    from orchestrator.cli.commands.planning import show_plan

    if not yes and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UserError("there is no terminal to ask on: add -y to run this sweep, or --dry-run to see its plan")
    if not as_json:
        show_plan(plan, budgets)
    if not yes:
        typer.confirm("Run it?", abort=True, err=as_json)


def run_and_report(
    request: Request,
    plan: Plan,
    *,
    store: SweepFolder,
    limits: Limits,
    max_failures: int | None,
    query_budget: int | None,
    price_per_1000: float | None,
    executor: Executor,
    address: str | None,
    max_concurrent: int | None,
    retry_failed: bool,
    track_now: bool,
    error: str,
    as_json: bool,
) -> int:
    """Run the sweep with its progress on stderr, print its report, and return the exit code."""
    from orchestrator.cli.progress import progress_for
    from orchestrator.store.failures import MAX_FAILURES
    from orchestrator.sweep import run_sweep
    from orchestrator.tracking.mlflow_tracker import Tracker

    tracker = Tracker(
        store=store,
        sweep=request.sweep,
        documents={"plan.json": plan.to_mapping()},
    )
    with progress_for(plan.groups) as progress:
        outcome = run_sweep(
            request.sweep,
            store=store,
            data_root=request.data_root,
            resources=request.resources,
            executor=executor,
            tracking=tracker if track_now else None,
            progress=progress,
            address=address,
            max_concurrent=max_concurrent,
            retry_failed=retry_failed,
            benchmarks=request.benchmarks,
            query_budget=query_budget,
            price_per_1000=price_per_1000,
            limits=limits,
            max_failures=MAX_FAILURES if max_failures is None else max_failures,
        )
    if outcome.interrupted:
        say_where_tracking_stands(store, outcome, track_now=track_now)
        print(f"interrupted; the same command goes on from here (--out {store.where})", file=sys.stderr)
        return INTERRUPTED
    show_report(store, error=error, selection=request.sweep.selection, price_per_1000=price_per_1000, as_json=as_json)
    for failure in outcome.failures:
        print(f"failed: {failure.group} {failure.fold}: {failure.error}", file=sys.stderr)
    if outcome.out_of_budget:
        show_budget(store, outcome.refusals, price_per_1000=price_per_1000)
    say_where_tracking_stands(store, outcome, track_now=track_now)
    if track_now and not outcome.tracking_behind:
        print(f"compare the runs in MLflow:  {PROGRAM} ui --out {store.where}", file=sys.stderr)
    return int(outcome.exit_code)
