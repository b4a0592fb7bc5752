"""`train` and `rerun`: one fold by itself, for the first time or once more."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.app import app
from orchestrator.cli.commands.look import FoldArgument
from orchestrator.cli.options import ExistingOutOption, JsonOption, OutOption, StoreOption
from orchestrator.cli.shared_options import Taken, expanded
from orchestrator.cli.sweep_arguments import RUNS, RunArguments, SweepArguments, build_request, check_names
from orchestrator.exit_codes import ExitCode
from search_spaces.errors import UserError
from search_spaces.folds import Fold

if TYPE_CHECKING:
    from orchestrator.rerun import Comparison
    from orchestrator.store.results import AskedQueries, FoldResult


OF_A_FOLD = ("query_budget", "price_per_1000", "executor", "address", "max_failures")


@app.command("train", rich_help_panel="Run")
@expanded
def train_command(
    asked: Annotated[SweepArguments, Taken(only=("benchmark", "method", "teacher", "teacher_mode"))],
    run: Annotated[RunArguments, Taken(only=("data_root", "workers", "gpus_per_worker", *OF_A_FOLD))],
    test_domain: Annotated[
        str, typer.Option("--test-domain", metavar="NAME", help="The domain left out; the others are trained on.")
    ],
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Split, initialisation and batch order.")] = 0,
    out: OutOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train one fold through Ray Train; a fold that is done in --out is not computed again."""
    request = build_request(asked, run)
    check_names(request.sweep)
    options, price_per_1000 = request.options, request.options.price_per_1000
    if len(options.benchmarks) != 1 or len(request.sweep.methods) != 1:
        raise UserError("train runs one fold: give one --benchmark and one --method")
    if seed < 0:
        raise UserError(f"--seed is 0 or more, got {seed}")
    (chosen,) = options.benchmarks.values()
    fold = Fold(benchmark=chosen.name, test_domains=(chosen.check_domain(test_domain),), seed=seed)

    from orchestrator.cli.progress import print_evaluation
    from orchestrator.execution.one_fold import FoldFailedError, train_one
    from orchestrator.store.sweep_folder import open_store
    from orchestrator.store.sync import at_work
    from orchestrator.train import prepare_fold
    from trainables.storage.leases import this_process

    place = open_store(out or RUNS / "train", shared=store)
    job = prepare_fold(
        fold,
        method=request.sweep.methods[0],
        hyperparameters=request.sweep.hyperparameters_for(chosen.name),
        store=place,
        options=options,
    )
    was_done = place.folds.result(job.spec.key) is not None
    try:
        with at_work(place, this_process()):
            result = train_one(job, options, print_evaluation, place.mirrors)
    except FoldFailedError as failed:
        print(f"error: {failed}", file=sys.stderr)
        raise typer.Exit(ExitCode.FAILED_FOLDS) from None
    if as_json:
        typer.echo(json.dumps({**result.content, "folder": place.shown(job.folder)}, indent=1))
        return
    done = "was done before" if was_done else f"done in {result.seconds:.0f} s"
    typer.echo(f"{fold} {request.sweep.methods[0]} {done}: source validation {result.accuracy:.2%}")
    for name, accuracy in sorted(result.domain_accuracies.items()):
        typer.echo(f"  {name}: {accuracy:.2%}")
    typer.echo(queries_line(result.queries, price_per_1000))
    typer.echo(f"student, journal and test-domain numbers: {place.shown(job.folder)}")


def queries_line(queries: AskedQueries, price_per_1000: float | None) -> str:
    """What a fold asked the teacher, and its price; queries whose answers were lost, where there are any."""
    images, texts = queries.images, queries.texts
    lost = f", {queries.unconfirmed:,} unconfirmed" if queries.unconfirmed else ""
    price = "" if price_per_1000 is None else f"; price {(images + texts) / 1000 * price_per_1000:,.2f}"
    return f"teacher queries: {images:,} images ({queries.unique_images:,} different), {texts:,} texts{lost}{price}"


@app.command("rerun", rich_help_panel="Run")
@expanded
def rerun_command(
    fold: FoldArgument,
    run: Annotated[RunArguments, Taken(only=("data_root", "query_budget", "address"))],
    out: ExistingOutOption,
    local: Annotated[
        bool, typer.Option("--local", help="In this process without Ray, so that a breakpoint works; else through it.")
    ] = False,
    into: Annotated[
        str | None, typer.Option("--into", metavar="DIR", help="New folder for it; one below OUT/reruns if absent.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run one fold again in a fresh folder and say whether weights and metrics are bit-identical to the stored ones.

    What it asks of the teacher is metered in the store like any fold's. Exit code 3 where the two differ.
    """
    from orchestrator.cli.progress import print_evaluation, print_report
    from orchestrator.execution.one_fold import FoldFailedError, train_one
    from orchestrator.inspection.fold_names import known_folds
    from orchestrator.rerun import compare, rerun_job, run_here
    from orchestrator.store.results import parse_result
    from orchestrator.store.sweep_folder import open_store

    options = run.options
    if local and options.address is not None:
        raise UserError("--local runs without Ray; leave --address or --local out")
    known = known_folds(open_store(out))
    found = known.fold(fold)
    job, notes = rerun_job(
        known,
        found,
        into=Path(into) if into else None,
        data_root=options.data_root,
        query_budget=options.query_budget,
        local=local,
    )
    print(f"running {found.label} again in {known.store.shown(job.folder)}", file=sys.stderr)
    if local:
        result = parse_result(run_here(job, print_report))
    else:
        try:
            result = train_one(job, options, print_evaluation)
        except FoldFailedError as failed:
            print(f"error: {failed}", file=sys.stderr)
            raise typer.Exit(ExitCode.FAILED_FOLDS) from None
    compared = compare(known.store, found.key, job, notes)
    _show_comparison(compared, result, known.store.shown(job.folder), as_json=as_json)
    if not compared.agrees:
        raise typer.Exit(ExitCode.FAILED_FOLDS)


def _show_comparison(compared: Comparison, result: FoldResult, folder: str, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({**compared.to_mapping(), "folder": folder, "result": result.content}, indent=1))
        return
    typer.echo(f"weights: {compared.weights}; losses, evaluations and result: {compared.metrics}")
    if compared.first_difference:
        typer.echo(f"first difference: {compared.first_difference}")
    for note in compared.notes:
        typer.echo(f"note: {note}")
    typer.echo(f"source validation {result.accuracy:.2%} in {result.seconds:.0f} s: {folder}")
