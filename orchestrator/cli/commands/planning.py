"""`plan`: what a sweep will do and cost; answers without torch, Ray or MLflow."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.app import app
from orchestrator.cli.console import wide_console
from orchestrator.cli.options import JsonOption
from orchestrator.cli.shared_options import Taken, expanded
from orchestrator.cli.sweep_arguments import RunArguments, SweepArguments, build_request
from orchestrator.run_options import RunOptions

if TYPE_CHECKING:
    from orchestrator.plan.plan import Plan
    from orchestrator.store.sweep_folder import SweepFolder


@app.command("plan")
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

    request = build_request(asked, run)
    store = None if out is None else open_store(out)
    options = request.options if store is None else priced(request.options, store)
    options.check()
    show_plan(make_plan(request.sweep, options.benchmarks), options, store, as_json=as_json)


def priced(options: RunOptions, store: SweepFolder) -> RunOptions:
    """The options with the price that the folder remembers, where none is given."""
    return replace(options, price_per_1000=store.price_per_1000) if options.price_per_1000 is None else options


def show_plan(plan: Plan, options: RunOptions, store: SweepFolder | None, *, as_json: bool = False) -> None:
    """Print a plan as a table and its totals, or as JSON; the store's finished folds tell how long one takes."""
    from orchestrator.budgets.plan_forecast import forecast_time
    from orchestrator.cli.plan_text import plan_lines, plan_table, time_lines

    price = options.price_per_1000
    found = forecast_time(plan, options.resources, options.limits, price_per_1000=price, store=store)
    if as_json:
        content = {**plan.to_mapping(), "time": found.to_mapping()}
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
