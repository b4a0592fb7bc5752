"""The registry of sources as values: which files make a benchmark, where they lie, and what becomes of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from search_spaces.configuration import from_mapping
from search_spaces.errors import UserError, unknown_name

SOURCES_FILE = Path(__file__).parent / "sources.yaml"

Transport = Literal["http", "google_drive", "hugging_face", "bucket"]
StepName = Literal["take", "parquet", "camera_traps", "remove_listed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Mirror:
    """One place that a file can be had from."""

    transport: Transport
    address: str
    """`http`: a URL. `google_drive`: a file id, or a URL. `hugging_face`: OWNER/NAME/path of a data set's file.
    `bucket`: an `s3://` or `gs://` URI that is read without credentials."""
    endpoint: str = ""
    """Another server for `hugging_face` (a URL) or `bucket` (HOST:PORT over plain http); empty for the usual one."""

    def __str__(self) -> str:
        return f"{self.transport} {self.address}"


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteFile:
    """One file of a route."""

    name: str
    """File name; its ending (.zip, .tar, .tar.gz, .tgz) decides whether it is unpacked."""
    size: int | None = None
    """Bytes, where known."""
    sha256: str | None = None
    """Checksum, where known."""
    mirrors: tuple[Mirror, ...] = ()
    """Tried in order."""

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise UserError(f"a source file has a plain name, got {self.name!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One step from files to folders; see `assemble.py`."""

    step: StepName
    source: str
    """A file's name, with a folder inside it for `take` (`PACS.zip/kfold`)."""
    annotations: str = ""
    """`camera_traps`: the archive with the annotation files."""
    count: int | None = None
    """`remove_listed`: how many of the listed images must have been there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """One way to the whole benchmark."""

    name: str
    files: tuple[RemoteFile, ...]
    steps: tuple[Step, ...]
    note: str = ""
    """How what comes this way differs from the first route."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkSources:
    """Where a benchmark comes from."""

    licence: str
    citation: str
    manual: str
    """What to do by hand when every mirror fails."""
    unpacked_bytes: int
    """About how much the unpacked benchmark takes; twice as much is refused as a bomb."""
    routes: tuple[Route, ...] = field(default_factory=tuple)
    """Tried in order."""


def read_sources(file: Path = SOURCES_FILE) -> dict[str, BenchmarkSources]:
    """Read a registry of sources, by benchmark; raises `UserError` naming a wrong key."""
    try:
        content: dict[str, Any] = yaml.safe_load(file.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"cannot read the registry of sources {file}: {' '.join(str(error).split())}") from None
    return {name: from_mapping(BenchmarkSources, entry, where=name) for name, entry in content.items()}


def sources_of(benchmark: str, file: Path = SOURCES_FILE) -> BenchmarkSources:
    """The sources of one benchmark (`UserError` with the nearest names)."""
    sources = read_sources(file)
    if benchmark not in sources:
        raise unknown_name("benchmark with a source", benchmark, sources)
    return sources[benchmark]
