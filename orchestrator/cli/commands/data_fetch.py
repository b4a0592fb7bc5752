"""`data fetch` and `data pack`: the commands that bring benchmarks and write packs, with progress bars."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.bars import bars, counters
from orchestrator.cli.commands.data import data, refuse_address, show_verifications
from orchestrator.cli.options import BenchmarkOption, DataRootOption, JsonOption
from orchestrator.cli.sweep_arguments import resolve_names
from orchestrator.exit_codes import ExitCode
from search_spaces.benchmarks import BENCHMARKS, Benchmark, parse_benchmarks
from search_spaces.errors import UserError, unknown_name

if TYPE_CHECKING:
    from trainables.data.formats.images import ImageSource


@data.command("fetch")
def fetch_command(
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
    """Fetch benchmarks below --data-root and verify them; an interrupted fetch resumes."""
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
        raise typer.Exit(ExitCode.USER_MISTAKE)


@data.command("pack")
def pack_command(
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
    from trainables.data.formats.pack import PACK_SUFFIX, PackSettings, write_pack
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


def _pack_root(benchmark: Benchmark, target: str | None) -> Path:
    if target is not None:
        return Path(target).expanduser()
    if Path(benchmark.folder).is_absolute():
        return Path(benchmark.folder).parent
    raise UserError(f"the pack of {benchmark.name} goes below --to DIR or --data-root DIR")


def _bytes_below(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())
