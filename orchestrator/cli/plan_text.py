"""A plan in words and as a table, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import ceil, inf
from typing import TYPE_CHECKING

from orchestrator.budgets.plan_forecast import PlanForecast
from orchestrator.plan.durations import ASSUMED_IMAGES_PER_S
from orchestrator.plan.plan import Plan
from orchestrator.plan.query_bounds import Need
from orchestrator.plan.selection_costs import SelectionCost
from orchestrator.run_options import Limits
from orchestrator.store.sweep_folder import SweepFolder
from orchestrator.store.usage import Usage, read_usage
from search_spaces.benchmarks import Benchmark
from search_spaces.samplers import SAMPLERS
from search_spaces.schedule import looks_between_folds
from search_spaces.sweeps import Sweep

if TYPE_CHECKING:
    from rich.table import Table


def plan_table(plan: Plan) -> Table:
    """One row per benchmark and method, for a terminal."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(f"Plan of sweep {plan.sweep.name}"))
    columns: tuple[str, ...]
    columns = ("benchmark", "method", "groups", "trials", "folds", "stages", "shared", "steps", "queries / config")
    pairs = {(item.benchmark, item.method): item.count.run for item in plan.pair_forecasts}
    if plan.selection.pair_folds:
        columns = (*columns, "pair folds")
    for position, title in enumerate(columns):
        table.add_column(title, justify="left" if position < 2 else "right")
    for row in plan.forecasts:
        steps = " + ".join(f"{steps:,}" for steps in row.steps_per_stage) or "-"
        counts = [row.fold_groups, row.trials, row.folds, row.stages, row.stages_shared]
        queries = _count(row.queries_per_configuration)
        own_pairs = [f"{pairs[row.benchmark, row.method]:,}"] if plan.selection.pair_folds else []
        table.add_row(Text(row.benchmark), row.method, *(f"{count:,}" for count in counts), steps, queries, *own_pairs)
    return table


def plan_lines(
    plan: Plan,
    *,
    query_budget: int | None = None,
    price_per_1000: float | None = None,
    pair_fold_time: str = "",
) -> list[str]:
    """The totals, one sentence each; with a budget or a price also what these mean for the forecast.

    `pair_fold_time` is what leave-one-domain-out selection's pair folds take, in words.
    """
    sweep, references = plan.sweep, len(plan.groups) - len(plan.searched_groups)
    trials = sum(group.trials for group in plan.searched_groups)
    return [
        f"{len(plan.searched_groups)} fold groups (scope {sweep.scope}), {trials:,} trials in space {sweep.space}, "
        + _seeds_line(plan),
        *plan.asked_lines,
        *_search_lines(sweep, plan.benchmarks, searched=trials > len(plan.searched_groups)),
        f"{plan.num_folds:,} folds" + (f", {references} fold groups of them zero-shot" if references else ""),
        f"{plan.num_stages:,} training stages, up to {plan.num_stages_shared:,} of them shared (one Align serves "
        "every fold that agrees on what Align depends on)",
        f"teacher queries: {_count(plan.queries_per_configuration)} images for one configuration and seed, "
        f"{_count(plan.queries)} for the sweep if every trial has that batch size and nothing is shared, up to "
        f"{_count(plan.queries_shared)} of them saved by sharing Align; the zero-shot rows are not counted",
        f"with stored views (teacher_mode views:K) every image that may serve as source is asked for K times: "
        f"{_count(plan.source_images)} x K images, shared by all folds, seeds, stages and trials",
        *forecast_lines(plan.need, plan.modes, query_budget=query_budget, price_per_1000=price_per_1000),
        selection_line(
            plan.selections,
            selected=sweep.selection,
            scope=sweep.scope,
            price_per_1000=price_per_1000,
            time=pair_fold_time,
        ),
    ]


def _seeds_line(plan: Plan) -> str:
    seeds = f"{plan.sweep.seeds} seed{'s' if plan.sweep.seeds > 1 else ''}"
    if any(group.own_seed is not None for group in plan.groups):
        return f"each of {seeds} with a search of its own"
    return f"on seed 0, the best of each group on {seeds}"


def _search_lines(sweep: Sweep, benchmarks: Mapping[str, Benchmark], *, searched: bool) -> Iterator[str]:
    """How a configuration is selected and when one is pruned, where there is a search."""
    if not searched:
        return
    yield f"sampler {sweep.sampler}: {SAMPLERS[sweep.sampler]}"
    rules = [f"folds that fall behind are stopped (pruner {sweep.pruner})"] if sweep.pruner != "none" else []
    if sweep.scope == "benchmark" and sweep.stop_level > 0.0:
        rules.append(
            "a configuration stops between two folds once its chance to overtake the best is below "
            f"{sweep.stop_level:.1%} over all looks ({_levels(sweep, benchmarks)})"
        )
    if sweep.scope == "benchmark":
        yield (
            "one choice for all test domains: folds that trained on a test domain's reported images have a say in it, "
            "and every table says so; --scope domain chooses for each test domain apart"
        )
    if rules:
        yield f"so the folds are upper bounds: {'; '.join(rules)}; {sweep.audit_share:.0%} of these run on as an audit"


def _levels(sweep: Sweep, benchmarks: Mapping[str, Benchmark]) -> str:
    """What a look asks for, by the number of test domains."""
    counts = {len(benchmarks[name].domains) for name in sweep.benchmarks}
    looks = {count: looks_between_folds(count) for count in sorted(counts)}
    return ", ".join(
        f"{sweep.stop_level / number:.2%} at each of {number} with {count} test domains"
        if number
        else f"none with {count} test domains"
        for count, number in looks.items()
    )


def forecast_lines(
    need: Need | None, modes: Sequence[str], *, query_budget: int | None, price_per_1000: float | None
) -> Iterator[str]:
    """The forecast in words, its price, and what a budget makes of it."""
    if need is None:
        yield "teacher queries at most: not known before the images are counted; a sweep's budget counts them"
        return
    line = (
        f"teacher queries at most, zero-shot rows and checks included, nothing stored yet (teacher mode "
        f"{', '.join(modes)}): {need.all_images:,} images and {need.all_texts:,} texts"
    )
    yield line if price_per_1000 is None else f"{line}; price at most {need.price(price_per_1000):,.2f}"
    if query_budget is not None and need.queries > query_budget:
        yield (
            f"the query budget of {query_budget:,} may not be enough: fold groups begin while they fit, whole rows "
            "first, and the sweep then ends with exit code 4; raise it and run the same command again"
        )
    elif query_budget is not None:
        yield f"the query budget of {query_budget:,} covers all of it"


def selection_line(
    costs: Sequence[SelectionCost],
    *,
    selected: str,
    scope: str,
    price_per_1000: float | None = None,
    time: str = "",
) -> str:
    """What each selection needs, in one sentence; `time` is what the pair folds take, in words."""
    by_name: Mapping[str, SelectionCost] = {cost.selection: cost for cost in costs}
    left_out = by_name["leave_one_domain_out"]
    line = (
        f"model selection (this sweep: {selected}): source_validation {by_name['source_validation'].folds:,} folds, "
        f"oracle the same ones (report only), leave_one_domain_out {left_out.folds:,}"
    )
    if not left_out.pair_folds:
        return f"{line}: with one configuration per fold group nothing is selected, so no pair fold is needed"
    if scope == "benchmark":
        return f"{line} (refused: scope benchmark would choose by the reported images)"
    queries = f"{left_out.images:,} images and {left_out.texts:,} texts of teacher queries at most"
    if price_per_1000 is not None:
        queries += f" (price {(left_out.images + left_out.texts) / 1000 * price_per_1000:,.2f})"
    shared = f", {left_out.stages_shared:,} of them shared" if left_out.stages_shared else ""
    return (
        f"{line}: {left_out.pair_folds:,} pair folds more ({left_out.pair_folds_shared:,} others shared "
        f"between two test domains), {left_out.stages:,} stages{shared}, {left_out.share_of_steps:.0%} of the other "
        f"folds' steps, {queries}{f', {time}' if time else ''}"
    )


def time_lines(found: PlanForecast, limits: Limits, *, store: SweepFolder | None = None) -> Iterator[str]:
    """The forecast in words, and what each budget makes of it."""
    gpus = f", {found.gpu_hours:,.1f} GPU-hours with {found.gpus_per_fold:g} each" if found.gpus_per_fold else ""
    told = limits.seconds_per_fold
    assumed = f"{ASSUMED_IMAGES_PER_S:g} images a second" if told is None else f"{told:g} s a fold"
    assumption = f": {assumed}" if "assumed" in found.basis else ""
    hours = f"{found.folds:,} folds take {found.fold_hours:,.1f} h one after the other"
    yield f"time: {hours}{gpus} ({found.basis}{assumption})"
    if found.money is not None:
        yield f"money: at most {found.money:,.2f} for what the given prices cover"
    used = Usage() if store is None else read_usage(store.usage_folder)
    if store is not None and used.wall_seconds:
        yield f"spent so far: {used.wall_hours:,.2f} h of wall time, {used.gpu_hours:,.2f} GPU-hours"
    if limits.gpu_hours is not None:
        yield _verdict("GPU-hours", limits.gpu_hours, found.gpu_hours)
    if limits.money is not None and found.money is not None:
        yield _verdict("money", limits.money, found.money)
    if limits.wall_hours is not None:
        at_once = found.fold_hours / limits.wall_hours if limits.wall_hours else inf
        side_by_side = f"{ceil(at_once):,} folds side by side" if at_once < inf else "more than there is"
        yield f"the wall budget of {limits.wall_hours:,.4g} h needs {side_by_side} from start to end"


def _verdict(name: str, limit: float, forecast: float) -> str:
    if forecast <= limit:
        return f"the {name} budget of {limit:,.4g} covers all of it"
    return (
        f"the {name} budget of {limit:,.4g} is not enough for all of it: no further fold group or configuration begins "
        "once the forecast crosses it, what has started is finished, and the sweep ends with exit code 4; raise it and "
        "run the same command again"
    )


def _count(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"
