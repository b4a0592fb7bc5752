"""`data fetch` and `data pack`: the commands that bring benchmarks and write packs, with progress bars."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.app import USER_MISTAKE
from orchestrator.cli.commands.data import data, refuse_address, show_verifications
from orchestrator.cli.options import BenchmarkOption, DataRootOption, JsonOption
from orchestrator.cli.sweep_arguments import resolve_names
from search_spaces.benchmarks import BENCHMARKS, Benchmark, parse_benchmarks
from search_spaces.errors import UserError, unknown_name

if TYPE_CHECKING:
    from rich.progress import TaskID

    from trainables.data.formats.images import ImageSource

Told = Callable[[str, int, int | None], None]
"""Called with what is worked on, how much of it is done, and how much there is (None where unknown)."""


@data.command()
def fetch(
    benchmark: BenchmarkOption = None,
    data_root: DataRootOption = None,
    own_files: Annotated[
        str | None,
        typer.Option(
            "--own-files", metavar="DIR", help="Folder with files that you have already, by the names in the registry."
        ),
    ] = None,
    attempts: Annotated[
        int, typer.Option("--attempts", metavar="N", help="Failures in a row after which a mirror is given up.")
    ] = 5,
    sources: Annotated[
        str | None,
        typer.Option("--sources", metavar="FILE.yaml", help="Another registry of sources (mirrors, checksums)."),
    ] = None,
    accept_unknown: Annotated[
        bool,
        typer.Option("--accept-unknown", help="Keep a whole copy that is none of the variants that papers use."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Fetch benchmarks below --data-root and verify them; an interrupted fetch goes on where it stopped."""
    from trainables.data.acquire.fetch import FetchSettings
    from trainables.data.acquire.fetch import fetch as bring
    from trainables.data.acquire.sources import SOURCES_FILE, read_sources

    if not benchmark or data_root is None:
        raise UserError("fetch wants --benchmark NAME (or all) and --data-root DIR")
    refuse_address("--data-root", data_root, "fetch writes files; pack what came and copy the pack there")
    if attempts < 1:
        raise UserError(f"--attempts is 1 or more, got {attempts}")
    root, names = Path(data_root).expanduser(), parse_benchmarks(",".join(benchmark))
    settings = FetchSettings(
        attempts=attempts,
        own_files=Path(own_files).expanduser() if own_files else None,
        accept_unknown=accept_unknown,
    )
    known = read_sources(Path(sources).expanduser() if sources else SOURCES_FILE)
    found, failed = [], []
    with counters() as counting:
        for name in names:
            told = {"progress": counting("bytes"), "stages": counting("")}
            try:
                if name not in known:
                    raise unknown_name("benchmark with a source", name, known)
                found.append(bring(BENCHMARKS[name], root, sources=known[name], settings=settings, **told))
            except UserError as error:
                failed.append(error)
    if found:
        show_verifications(found, as_json=as_json)
    for mistake in failed:
        typer.echo(f"error: {' '.join(str(mistake).split())}", err=True)
    if failed:
        raise typer.Exit(USER_MISTAKE)


@data.command()
def pack(
    benchmark: BenchmarkOption = None,
    data_root: DataRootOption = None,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="DIR", help="Data root to write FOLDER.pack below; --data-root itself if absent."),
    ] = None,
    encoding: Annotated[
        str, typer.Option("--encoding", metavar="stored|pixels", help="Keep the files' bytes, or store decoded pixels.")
    ] = "stored",
    max_side: Annotated[
        int | None,
        typer.Option("--max-side", metavar="N", help="Scale longer images down to N pixels; that is other data."),
    ] = None,
    jpeg_quality: Annotated[
        int, typer.Option("--jpeg-quality", metavar="N", help="Quality of images that are scaled down, 1 to 95.")
    ] = 95,
    shard_mb: Annotated[int, typer.Option("--shard-mb", metavar="N", help="Size of a shard in MiB.")] = 256,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a pack of other data or settings.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write benchmarks as memory-mapped packs in the order of their folders: the same batches, read quicker."""
    from trainables.data.formats.pack import PACK_SUFFIX, PackSettings
    from trainables.data.formats.pack import pack as write_pack
    from trainables.data.formats.pack_reader import read_description

    if not benchmark:
        raise UserError("name what to pack with --benchmark")
    refuse_address(
        "--to", to, "write the pack to a folder and copy it there: its files are read from there as they are"
    )
    if not 1 <= jpeg_quality <= 95:
        raise UserError(f"--jpeg-quality is 1 to 95, got {jpeg_quality}")
    if shard_mb < 1:
        raise UserError(f"--shard-mb is 1 or more, got {shard_mb}")
    settings = PackSettings(encoding=encoding, max_side=max_side, jpeg_quality=jpeg_quality)  # type: ignore[arg-type]
    written = {}
    with bars(unit="images") as told:
        for one in resolve_names(benchmark, data_root).values():
            written[one.name] = write_pack(
                unpacked(one, data_root),
                _pack_root(one, to or data_root) / f"{Path(one.folder).name}{PACK_SUFFIX}",
                settings=settings,
                shard_mb=shard_mb,
                overwrite=overwrite,
                progress=lambda done, total, name=one.name: told(name, done, total),  # type: ignore[misc]
            )
    facts = {name: {"pack": str(place), **read_description(place)} for name, place in written.items()}
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
        return
    for name, fact in facts.items():
        images, size = sum(fact["domains"].values()), _bytes_below(Path(fact["pack"]))
        typer.echo(
            f"{name}: {images:,} images, {size / 1e6:,.1f} MB in {fact['pack']} (manifest {fact['manifest'][:12]})"
        )


def unpacked(benchmark: Benchmark, data_root: str | None) -> ImageSource:
    """A benchmark's folder, or the packaged icons, even where there is a pack already.

    Raises:
        UserError: there is no such folder, or not in DomainBed's layout.
    """
    from trainables.data.formats.folder import FolderSource
    from trainables.data.formats.open import open_benchmark, packaged_icons

    folder = Path(data_root or "").expanduser() / benchmark.folder
    if folder.is_dir() and (data_root is not None or folder.is_absolute()):
        return FolderSource(folder, benchmark)
    return packaged_icons(benchmark) if benchmark.name == "icons" else open_benchmark(benchmark, data_root)


@contextmanager
def bars(*, unit: str) -> Iterator[Told]:
    """`counters`, for a command that counts one unit alone."""
    with counters() as counting:
        yield counting(unit)


@contextmanager
def counters() -> Iterator[Callable[[str], Told]]:
    """Progress bars on a terminal; elsewhere one line on stderr for each thing that is done.

    Gives a function from a unit (`bytes`, `images`) to what is told the progress. No unit (an empty one) is for stages:
    each is shown until the next one begins, and only on a terminal.
    """
    if not sys.stderr.isatty():
        yield _lines
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[amount]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks: dict[str, TaskID] = {}
        stages: list[str] = []

        def counting(unit: str) -> Told:
            def show(name: str, done: int, total: int | None) -> None:
                if not unit and stages != [name]:
                    forget_stages()
                    stages.append(name)
                if name not in tasks:
                    tasks[name] = progress.add_task(name, total=total, amount="")
                progress.update(tasks[name], completed=done, total=total, amount=_amount(done, total, unit))

            return show

        def forget_stages() -> None:
            while stages:
                progress.remove_task(tasks.pop(stages.pop()))

        try:
            yield counting
        finally:
            forget_stages()


def _lines(unit: str) -> Told:
    """One line for each thing that is done; nothing about stages."""
    finished: set[str] = set()

    def tell(name: str, done: int, total: int | None) -> None:
        if unit and done == total and name not in finished:
            finished.add(name)
            print(f"{name}: {done:,} {unit}", file=sys.stderr, flush=True)

    return tell


def _amount(done: int, total: int | None, unit: str) -> str:
    if unit == "bytes":
        return f"{done / 1e6:,.1f}" + (f" of {total / 1e6:,.1f} MB" if total is not None else " MB")
    return f"{done:,} of {total:,}" if total is not None else f"{done:,}" if done else ""


def _pack_root(benchmark: Benchmark, target: str | None) -> Path:
    if target is not None:
        return Path(target).expanduser()
    if Path(benchmark.folder).is_absolute():
        return Path(benchmark.folder).parent
    raise UserError(f"the pack of {benchmark.name} goes below --to DIR or --data-root DIR")


def _bytes_below(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())
