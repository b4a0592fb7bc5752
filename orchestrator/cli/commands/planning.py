"""`plan`: what a sweep will do and cost; answers without torch, Ray or MLflow."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.app import app
from orchestrator.cli.console import wide_console
from orchestrator.cli.options import (
    BenchmarkOption,
    ConfigOption,
    DataRootOption,
    GpuHourPriceOption,
    GpuHoursBudgetOption,
    GpusOption,
    JsonOption,
    MethodOption,
    MoneyBudgetOption,
    NameOption,
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
    TeacherModeOption,
    TeacherOption,
    TrialsOption,
    WallBudgetOption,
    WorkersOption,
)
from orchestrator.cli.sweep_arguments import SweepOptions, build_request, check_money
from orchestrator.run_options import Limits
from search_spaces.hyperparameters import Resources

if TYPE_CHECKING:
    from orchestrator.plan.plan import Plan
    from orchestrator.store.sweep_folder import SweepFolder


@app.command()
def plan(
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
    out: Annotated[
        str | None,
        typer.Option("--out", metavar="DIR", help="Output folder of a sweep whose finished folds tell the time."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a sweep would do and cost: fold groups, trials, stages, teacher queries, and what is shared."""
    from orchestrator.plan.plan import make_plan
    from orchestrator.store.sweep_folder import open_store

    check_money(query_budget, price_per_1000)
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
    store = None if out is None else open_store(out)
    if price_per_1000 is None and store is not None:
        price_per_1000 = store.price_per_1000
    limits.check(request.resources, price_per_1000)
    budgets = ShownBudgets(
        query_budget=query_budget,
        price_per_1000=price_per_1000,
        limits=limits,
        resources=request.resources,
        store=store,
    )
    show_plan(make_plan(request.sweep, request.benchmarks), budgets, as_json=as_json)


@dataclass(frozen=True, kw_only=True)
class ShownBudgets:
    """What a plan is shown beside."""

    query_budget: int | None = None
    price_per_1000: float | None = None
    limits: Limits = field(default_factory=Limits)
    resources: Resources = field(default_factory=Resources)
    store: SweepFolder | None = None
    """Whose finished folds tell how long one takes."""


def show_plan(plan: Plan, budgets: ShownBudgets, *, as_json: bool = False) -> None:
    """Print a plan as a table and its totals, or as JSON."""
    from orchestrator.budgets.plan_forecast import forecast_time
    from orchestrator.cli.plan_text import plan_lines, plan_table, time_lines

    price = budgets.price_per_1000
    found = forecast_time(plan, budgets.resources, budgets.limits, price_per_1000=price, store=budgets.store)
    if as_json:
        content = {**plan.to_mapping(), "time": found.to_mapping()}
        if price is not None:
            content["price_at_most"] = None if plan.need is None else plan.need.price(price)
        if budgets.query_budget is not None:
            content["query_budget"] = budgets.query_budget
        if budgets.limits.any:
            content["limits"] = asdict(budgets.limits)
        typer.echo(json.dumps(content, indent=1))
        return

    console = wide_console()
    console.print(plan_table(plan))
    for line in plan_lines(
        plan, query_budget=budgets.query_budget, price_per_1000=price, pair_fold_time=found.pair_fold_time
    ):
        console.print(line, markup=False)
    for line in time_lines(found, budgets.limits, store=budgets.store):
        console.print(line, markup=False)
