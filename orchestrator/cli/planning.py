"""`plan`: what a sweep will do and cost; answers without torch, Ray or MLflow."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer

from orchestrator.cli.app import app
from orchestrator.cli.consoles import wide_console
from orchestrator.cli.options import (
    BenchmarkOption,
    ConfigOption,
    DataRootOption,
    JsonOption,
    MethodOption,
    NameOption,
    OverridesArgument,
    PriceOption,
    QueryBudgetOption,
    ScopeOption,
    SeedsOption,
    SpaceOption,
    SweepOptions,
    TeacherModeOption,
    TeacherOption,
    TrialsOption,
    build_request,
    check_money,
)

if TYPE_CHECKING:
    from orchestrator.plan import Plan


@app.command()
def plan(
    overrides: OverridesArgument = None,
    benchmark: BenchmarkOption = None,
    method: MethodOption = None,
    space: SpaceOption = None,
    trials: TrialsOption = None,
    seeds: SeedsOption = None,
    scope: ScopeOption = None,
    name: NameOption = None,
    data_root: DataRootOption = None,
    config: ConfigOption = None,
    teacher: TeacherOption = None,
    teacher_mode: TeacherModeOption = None,
    query_budget: QueryBudgetOption = None,
    price_per_1000: PriceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a sweep would do and cost: fold groups, trials, stages, teacher queries, and what is shared."""
    from orchestrator.plan import make_plan

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
            name=name,
            teacher=teacher,
            teacher_mode=teacher_mode,
            data_root=data_root,
            overrides=overrides or (),
        )
    )
    show_plan(
        make_plan(request.sweep, request.benchmarks),
        query_budget=query_budget,
        price_per_1000=price_per_1000,
        as_json=as_json,
    )


def show_plan(
    plan: Plan, *, query_budget: int | None = None, price_per_1000: float | None = None, as_json: bool = False
) -> None:
    """Print a plan as a table and its totals, or as JSON."""
    if as_json:
        content = plan.to_mapping()
        if price_per_1000 is not None:
            content["price_at_most"] = None if plan.need is None else plan.need.price(price_per_1000)
        if query_budget is not None:
            content["query_budget"] = query_budget
        typer.echo(json.dumps(content, indent=1))
        return

    console = wide_console()
    console.print(plan.table())
    for line in plan.lines(query_budget=query_budget, price_per_1000=price_per_1000):
        console.print(line, markup=False)
