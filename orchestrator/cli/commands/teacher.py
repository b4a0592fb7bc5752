"""`teacher embed|verify|status`: fill, look at and check the stores of its answers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.app import CommandGroup, app
from orchestrator.cli.bars import bars
from orchestrator.cli.console import wide_console
from orchestrator.cli.options import JsonOption, OutOption, StoreOption
from orchestrator.cli.shared_options import Taken, expanded
from orchestrator.cli.sweep_arguments import Request, RunArguments, SweepArguments, build_request, check_names
from orchestrator.exit_codes import ExitCode
from orchestrator.run_options import check_places
from search_spaces.errors import UserError
from search_spaces.hyperparameters import check_stores_answers
from trainables.teacher.ledger import BudgetReached

if TYPE_CHECKING:
    from orchestrator.store.sweep_folder import SweepFolder
    from trainables.teacher.stored.embedding import EmbeddingJob

teacher = typer.Typer(
    cls=CommandGroup, no_args_is_help=False, help="The teacher and its answers.", rich_markup_mode="rich"
)
app.add_typer(teacher, name="teacher", rich_help_panel="Teacher")

TeacherArguments = Annotated[SweepArguments, Taken(only=("benchmark", "teacher", "teacher_mode"))]


@teacher.command("embed")
@expanded
def embed_command(
    asked: TeacherArguments,
    run: Annotated[
        RunArguments, Taken(only=("data_root", "query_budget", "price_per_1000", "gpus_per_worker", "address"))
    ],
    out: OutOption = None,
    store: StoreOption = None,
    tasks: Annotated[
        int,
        typer.Option(
            "--workers", metavar="N", help="Ray tasks that fill a store together; 0 fills it in this process."
        ),
    ] = 2,
    as_json: JsonOption = False,
) -> None:
    """Ask the teacher for every view of the source images that is not stored yet, before any fold needs it."""
    options = run.options
    if tasks < 0:
        raise UserError(f"--workers is 0 or more, got {tasks}")
    request, place = _asked(asked, run, out=out, store=store)
    place.check_writable()
    from orchestrator.embed import check_one_machine, fill_stores
    from orchestrator.store.sync import at_work
    from trainables.storage.leases import this_process

    jobs, resources = _jobs(request, place), request.options.resources
    filled = [place.folds.embeddings_folder, place.folds.queries_folder]
    try:
        with at_work(place, this_process(), sent=filled):
            check_one_machine(place, address=options.address, workers=tasks)
            place.mirrors.fetch(place.folds.embeddings_folder)
            _forecast(jobs, options.price_per_1000)
            with bars(unit="rows") as told:
                fill_stores(jobs, workers=tasks, resources=resources, address=options.address, told=told)
    except BudgetReached:
        _show(place, jobs, price_per_1000=options.price_per_1000, as_json=as_json)
        raise
    _show(place, jobs, price_per_1000=options.price_per_1000, as_json=as_json)


@teacher.command("verify")
@expanded
def verify_answers_command(
    asked: TeacherArguments,
    run: Annotated[RunArguments, Taken(only=("data_root", "query_budget"))],
    out: OutOption = None,
    store: StoreOption = None,
    sample: Annotated[
        int,
        typer.Option("--sample", metavar="N", help="Rows to ask again and compare; they are queries like any other."),
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Read every stored answer and compare it with its checksum and place; exit code 2 when something is wrong.

    What nobody asked for yet is not wrong.
    """
    from dataclasses import asdict

    if sample < 0:
        raise UserError(f"--sample is 0 or more, got {sample}")
    request, place = _asked(asked, run, out=out, store=store)
    _check_there(place)
    from trainables.teacher.stored.embedding import check, embedding_status

    jobs = _jobs(request, place)
    place.mirrors.fetch(place.folds.embeddings_folder)
    problems = [line for job in jobs for line in check(job.to_mapping(), sample=sample)]
    place.mirrors.send_now([place.folds.queries_folder])
    if as_json:
        stores = [{"benchmark": job.benchmark.name, **asdict(embedding_status(job))} for job in jobs]
        typer.echo(json.dumps({"problems": problems, "stores": stores}, indent=1))
    else:
        _show(place, jobs, price_per_1000=None, as_json=False)
    if problems:
        for line in problems:
            typer.echo(f"wrong: {line}", err=True)
        raise typer.Exit(ExitCode.USER_MISTAKE)


@teacher.command("status")
@expanded
def teacher_status_command(
    run: Annotated[RunArguments, Taken(only=("price_per_1000",))],
    out: OutOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what is stored of teachers and backbones, and what the ledger says was asked; opens no teacher."""
    from dataclasses import asdict

    from orchestrator.inspection.teacher_usage import stored_answers
    from trainables.teacher.ledger import query_counts

    price_per_1000 = run.options.price_per_1000
    place = _place(out, store)
    _check_there(place)
    place.mirrors.fetch(place.folds.embeddings_folder)
    rows, asked = stored_answers(place), query_counts(place.folds.queries_folder)
    price = place.price_per_1000 if price_per_1000 is None else price_per_1000
    if as_json:
        content: dict[str, Any] = {"stores": rows, "queries": asdict(asked)}
        typer.echo(json.dumps(content | ({} if price is None else {"price": asked.price(price)}), indent=1))
        return
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for title in ("store", "of", "views", "px", "shards", "MB", "data"):
        table.add_column(title, justify="right" if title in ("px", "shards", "MB") else "left", no_wrap=True)
    for row in rows:
        shards, size = str(row["shards"]), f"{row['bytes'] / 1e6:,.1f}"
        table.add_row(
            row["key"][:12], Text(row["of"]), row["views"], str(row["image_size"]), shards, size, row["manifest"][:12]
        )
    wide_console().print(table)
    cost = "" if price is None else f"; price {asked.price(price):,.2f}"
    lost = f", {asked.unconfirmed:,} unconfirmed" if asked.unconfirmed else ""
    typer.echo(
        f"teacher queries: {asked.images:,} images and {asked.texts:,} texts in {asked.calls:,} calls{lost}{cost}"
    )


def _place(out: str | None, store: str | None) -> SweepFolder:
    from orchestrator.store.sweep_folder import open_store

    if out is None and store is None:
        raise UserError("give --out DIR or --store DIR")
    return open_store(out or store or "", shared=store)


def _check_there(place: SweepFolder) -> None:
    """Raises `UserError` where nothing lies that could be looked at."""
    if not place.mirrors and not place.shared.is_dir():
        raise UserError(f"there is no folder {place.where_shared}; give the --out or --store of what was filled")


def _asked(
    asked: SweepArguments, run: RunArguments, *, out: str | None, store: str | None
) -> tuple[Request, SweepFolder]:
    """What is asked for, as far as it can be checked without loading a teacher."""
    request, place = build_request(asked, run), _place(out, store)
    check_names(request.sweep)
    for name in request.sweep.benchmarks:
        check_stores_answers(request.sweep.hyperparameters_for(name).teacher_mode)
    check_places(request.options)
    return request, place


def _jobs(request: Request, place: SweepFolder) -> list[EmbeddingJob]:
    """A job for each benchmark."""
    from orchestrator.embed import embedding_job

    options = request.options
    return [
        embedding_job(
            benchmark,
            request.sweep.hyperparameters_for(name),
            store=place,
            data_root=options.data_root,
            resources=options.resources,
            query_budget=options.query_budget,
        )
        for name, benchmark in options.benchmarks.items()
    ]


def _forecast(jobs: list[EmbeddingJob], price_per_1000: float | None) -> None:
    """What asking a vendor for what is missing will cost, on stderr, before the first query."""
    from trainables.teacher.ledger import QueryCounts
    from trainables.teacher.names import teacher_kind
    from trainables.teacher.stored.embedding import missing

    for job in jobs:
        if teacher_kind(job.teacher) != "remote":
            continue
        images, texts = missing(job)
        wanted = QueryCounts(images=images, texts=texts)
        cost = "" if price_per_1000 is None else f", price {wanted.price(price_per_1000):,.2f}"
        typer.echo(
            f"{job.benchmark.name} {job.teacher_mode}: {images:,} images and {texts:,} texts to ask {job.teacher} "
            f"for{cost}",
            err=True,
        )


def _show(place: SweepFolder, jobs: list[EmbeddingJob], *, price_per_1000: float | None, as_json: bool) -> None:
    """How far the stores are, whatever ended the filling."""
    from dataclasses import asdict

    from trainables.teacher.ledger import query_counts
    from trainables.teacher.stored.embedding import embedding_status

    found = [embedding_status(job) for job in jobs]

    asked = query_counts(place.folds.queries_folder)
    if as_json:
        rows = [
            {
                "benchmark": job.benchmark.name,
                "teacher_mode": job.teacher_mode,
                **asdict(one),
                "complete": one.is_complete,
            }
            for job, one in zip(jobs, found, strict=True)
        ]
        typer.echo(json.dumps({"stores": rows, "queries": asdict(asked)}, indent=1))
        return
    for job, one in zip(jobs, found, strict=True):
        typer.echo(
            f"{job.benchmark.name} {job.teacher_mode}: {one.rows:,} of {one.rows_wanted:,} rows in {one.shards} of "
            f"{one.shards_wanted} shards, {one.bytes / 1e6:,.1f} MB"
            + ("" if one.is_complete else " (partly filled: `teacher embed` asks for the rest)")
        )
    cost = "" if price_per_1000 is None else f"; price {asked.price(price_per_1000):,.2f}"
    typer.echo(f"teacher queries of the whole store: {asked.images:,} images and {asked.texts:,} texts{cost}")
