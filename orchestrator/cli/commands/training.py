"""`train`: one fold."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, cast

import typer

from orchestrator.cli.app import FAILED_FOLDS, app
from orchestrator.cli.options import (
    EXECUTORS,
    AddressOption,
    BenchmarkOption,
    ConfigOption,
    DataRootOption,
    ExecutorOption,
    GpusOption,
    JsonOption,
    MaxFailuresOption,
    OutOption,
    OverridesArgument,
    PriceOption,
    QueryBudgetOption,
    StoreOption,
    TeacherModeOption,
    TeacherOption,
    WorkersOption,
)
from orchestrator.cli.sweep_arguments import RUNS, SweepOptions, build_request, check_choice, check_money
from search_spaces.errors import UserError
from search_spaces.folds import Fold

if TYPE_CHECKING:
    from orchestrator.execution.executors import Executor


@app.command()
def train(
    test_domain: Annotated[
        str, typer.Option("--test-domain", metavar="NAME", help="The domain left out; the others are trained on.")
    ],
    overrides: OverridesArgument = None,
    benchmark: BenchmarkOption = None,
    method: Annotated[
        str | None,
        typer.Option("--method", metavar="NAME", help="The method; the configuration's, or vl2v_adip, if absent."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Split, initialisation and batch order.")] = 0,
    data_root: DataRootOption = None,
    out: OutOption = None,
    store: StoreOption = None,
    config: ConfigOption = None,
    teacher: TeacherOption = None,
    teacher_mode: TeacherModeOption = None,
    query_budget: QueryBudgetOption = None,
    price_per_1000: PriceOption = None,
    workers: WorkersOption = None,
    gpus_per_worker: GpusOption = None,
    executor: ExecutorOption = "auto",
    address: AddressOption = None,
    max_failures: MaxFailuresOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train one fold through Ray Train; a fold that is done in --out is not computed again."""
    check_choice("--executor", executor, EXECUTORS)
    check_money(query_budget, price_per_1000)
    request = build_request(
        SweepOptions(
            config=config,
            benchmark=benchmark,
            method=[method] if method else None,
            teacher=teacher,
            teacher_mode=teacher_mode,
            workers=workers,
            gpus_per_worker=gpus_per_worker,
            data_root=data_root,
            overrides=overrides or (),
        )
    )
    if len(request.benchmarks) != 1 or len(request.sweep.methods) != 1:
        raise UserError("train runs one fold: give one --benchmark and one --method")
    if seed < 0:
        raise UserError(f"--seed is 0 or more, got {seed}")
    (chosen,) = request.benchmarks.values()
    fold = Fold(benchmark=chosen.name, test_domains=(chosen.check_domain(test_domain),), seed=seed)

    from orchestrator.cli.progress import print_evaluation
    from orchestrator.store.failures import MAX_FAILURES
    from orchestrator.store.sweep_folder import open_store
    from orchestrator.store.sync import at_work
    from orchestrator.train import FoldFailedError, prepare_fold, train_one
    from trainables.storage.leases import this_process

    place = open_store(out or RUNS / "train", shared=store)
    job = prepare_fold(
        fold,
        method=request.sweep.methods[0],
        hyperparameters=request.sweep.hyperparameters_for(chosen.name),
        store=place,
        data_root=request.data_root,
        resources=request.resources,
        benchmark=chosen,
        query_budget=query_budget,
    )
    was_done = place.folds.fold(job.spec.key).is_done
    try:
        with at_work(place, this_process()):
            result = train_one(
                job,
                executor=cast("Executor", executor),
                address=address,
                progress=print_evaluation,
                max_failures=MAX_FAILURES if max_failures is None else max_failures,
                mirrors=place.mirrors,
            )
    except FoldFailedError as failed:
        print(f"error: {failed}", file=sys.stderr)
        raise typer.Exit(FAILED_FOLDS) from None
    if as_json:
        typer.echo(json.dumps({**result, "folder": place.shown(job.folder)}, indent=1))
        return
    validation = result["source_validation"]
    done = "was done before" if was_done else f"done in {result['seconds']:.0f} s"
    typer.echo(f"{fold} {request.sweep.methods[0]} {done}: source validation {validation['accuracy']:.2%}")
    for name, accuracy in sorted(validation.get("domains", {}).items()):
        typer.echo(f"  {name}: {accuracy:.2%}")
    typer.echo(queries_line(result["teacher_queries"], price_per_1000))
    typer.echo(f"student, journal and test-domain numbers: {place.shown(job.folder)}")


def queries_line(queries: Mapping[str, int], price_per_1000: float | None) -> str:
    """What a fold asked the teacher, and its price; queries whose answers were lost, where there are any."""
    images, texts, unconfirmed = queries["images"], queries["texts"], queries.get("unconfirmed", 0)
    different = queries.get("unique_images", 0)
    lost = f", {unconfirmed:,} unconfirmed" if unconfirmed else ""
    price = "" if price_per_1000 is None else f"; price {(images + texts) / 1000 * price_per_1000:,.2f}"
    return f"teacher queries: {images:,} images ({different:,} different), {texts:,} texts{lost}{price}"
