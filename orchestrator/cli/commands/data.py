"""`data ...`: benchmarks on disk - which there are, where they lie, what is wrong with them, and drawn look-alikes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.app import CommandGroup, app
from orchestrator.cli.console import wide_console
from orchestrator.cli.options import BenchmarkOption, DataRootOption, JsonOption
from orchestrator.cli.sweep_arguments import resolve_names
from orchestrator.exit_codes import ExitCode
from search_spaces.benchmarks import BENCHMARKS
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from trainables.data.formats.verify import Verification

data = typer.Typer(cls=CommandGroup, no_args_is_help=False, help="Benchmarks on disk.", rich_markup_mode="rich")
app.add_typer(data, name="data", rich_help_panel="Data")


@data.command("list")
def list_command(as_json: JsonOption = False) -> None:
    """List the registered benchmarks: domains, classes, images, routes to fetch them by, licences and citations."""
    from trainables.data.acquire.sources import read_sources

    sources = read_sources()
    rows: list[dict[str, Any]] = []
    for benchmark in BENCHMARKS.values():
        known = sources.get(benchmark.name)
        routes = [route.name for route in known.routes] if known else ["in the package"]
        rows.append(
            {
                "benchmark": benchmark.name,
                "folder": benchmark.folder,
                "domains": list(benchmark.domain_names),
                "classes": benchmark.num_classes,
                "images": benchmark.num_images,
                "unpacked_bytes": known.unpacked_bytes if known else 0,
                "routes": routes,
                "licence": known.licence if known else "see the licence table in the package",
                "citation": known.citation if known else "",
            }
        )
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    _print_table(
        ("benchmark", "folder", "domains", "classes", "images", "GB unpacked", "routes"),
        [
            (row["benchmark"], row["folder"], ", ".join(row["domains"]), str(row["classes"]), _count(row["images"]),
             f"{row['unpacked_bytes'] / 1e9:.1f}", ", ".join(row["routes"]))
            for row in rows
        ],
    )  # fmt: skip
    for row in rows:
        typer.echo("; ".join(filter(None, (f"{row['benchmark']}: {row['licence']}", row["citation"]))))


@data.command("where")
def where_command(
    benchmark: BenchmarkOption = None, data_root: DataRootOption = None, as_json: JsonOption = False
) -> None:
    """Say where each benchmark is read from: the package, a pack or a folder; the registered ones if none is named."""
    from trainables.data.formats.open import locate
    from trainables.data.formats.pack import PACK_SUFFIX

    chosen = resolve_names(benchmark or list(BENCHMARKS), data_root)
    rows = []
    for one in chosen.values():
        place = locate(one, data_root)
        packaged = place is None and one.name == "icons"
        form = "package" if packaged else "-" if place is None else "pack" if place.endswith(PACK_SUFFIX) else "folder"
        rows.append({"benchmark": one.name, "form": form, "place": place})
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    there = {"package": "in the package", "-": "not there (vl2v-orchestrate data fetch brings it)"}
    _print_table(
        ("benchmark", "form", "place"),
        [(str(row["benchmark"]), str(row["form"]), row["place"] or there[str(row["form"])]) for row in rows],
    )


@data.command("verify")
def verify_command(
    benchmark: BenchmarkOption = None,
    data_root: DataRootOption = None,
    manifest: Annotated[
        str | None,
        typer.Option(
            "--manifest", metavar="DIR", help="Write each manifest (path, size, SHA-256, class, domain) here."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Read every image that training would read, name the known variant and list what is wrong.

    The exit code is 2 for no copy that papers use. Where a pack lies beside its folder, both are read and compared.
    """
    from trainables.data.acquire.receipt import receipt_notes
    from trainables.data.formats.pack import PACK_SUFFIX
    from trainables.data.formats.verify import verify_opened, write_manifest

    if not benchmark:
        raise UserError("name what to verify with --benchmark")
    refuse_address("--manifest", manifest, "manifests are written to a folder")
    found = []
    for one in resolve_names(benchmark, data_root).values():
        seen = verify_opened(one, data_root)
        # A pack's receipt lies in the folder that it was made of.
        found.append(replace(seen, notes=(*seen.notes, *receipt_notes(Path(seen.place.removesuffix(PACK_SUFFIX))))))
    for item in found:
        if manifest is not None and not item.errors:
            write_manifest(item, Path(manifest) / f"{item.benchmark}.manifest.tsv")
    show_verifications(found, as_json=as_json)
    bad = [item for item in found if not item.accepted]
    if bad:
        reasons = "; ".join(f"{item.benchmark}: {what_is_wrong(item)}" for item in bad)
        typer.echo(f"error: not a copy that papers use - {reasons}", err=True)
        raise typer.Exit(ExitCode.USER_MISTAKE)


@data.command("sample")
def sample_command(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Where to write; becomes a --data-root.")],
    benchmark: Annotated[
        list[str] | None,
        typer.Option("--benchmark", metavar="NAME[,NAME...]|all", help="Benchmarks to write; all five if absent."),
    ] = None,
    images_per_class: Annotated[
        int, typer.Option("--images-per-class", metavar="N", help="Drawn images for each class of each domain.")
    ] = 3,
    image_side: Annotated[int, typer.Option("--image-side", metavar="N", help="Side of an image in pixels.")] = 32,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed of the drawings.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Write small drawn look-alikes of the benchmarks in DomainBed's exact layout: all domains, all class names."""
    from search_spaces.benchmarks import parse_benchmarks
    from trainables.data.formats.sample import write_sample

    refuse_address("DIR", folder, "look-alikes are written to a folder")
    counts = write_sample(
        folder,
        images_per_class=images_per_class,
        image_side=image_side,
        benchmarks=parse_benchmarks(",".join(benchmark) if benchmark else "all"),
        seed=seed,
    )
    if as_json:
        typer.echo(json.dumps(counts, indent=1))
        return
    for name, count in counts.items():
        typer.echo(f"{name}: {count:,} images")


def show_verifications(found: list[Verification], *, as_json: bool) -> None:
    """Print what was found of each benchmark: a table and a line for each error and note, or JSON."""
    if as_json:
        typer.echo(json.dumps([item.to_mapping() for item in found], indent=1))
        return
    _print_table(
        ("benchmark", "form", "variant", "images", "per domain", "manifest"),
        [
            (item.benchmark, item.form, item.variant, f"{item.num_images:,}",
             ", ".join(f"{name} {count:,}" for name, count in item.counts.items()), item.manifest[:12] or "-")
            for item in found
        ],
    )  # fmt: skip
    for item in found:
        for kind, lines in (("wrong", item.errors), ("note", item.notes)):
            for line in lines:
                typer.echo(f"{item.benchmark}: {kind}: {line}")


def refuse_address(option: str, place: str | None, instead: str) -> None:
    """Refuse an address of object storage where only a folder will do: it would become a folder of that name.

    Raises:
        UserError: `place` is an address; `instead` says what to do.
    """
    from trainables.storage.object_storage import is_address

    if place is not None and is_address(place):
        raise UserError(f"{option} is a folder of this machine here, not an address of object storage: {instead}")


def what_is_wrong(found: Verification) -> str:
    """A verification's first finding, and how many more there are."""
    lines = [*found.errors, *found.notes] or [f"it is the variant '{found.variant}'"]
    return lines[0] + (f" (and {len(lines) - 1} more)" if len(lines) > 1 else "")


def _print_table(titles: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for title in titles:
        table.add_column(title, justify="right" if title in ("classes", "images", "GB unpacked") else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    wide_console().print(table)


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"
