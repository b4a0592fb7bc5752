"""The registry of sources as values: which files make a benchmark, where they lie, and what becomes of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from search_spaces.configuration import from_mapping
from search_spaces.errors import UserError, unknown_name
from search_spaces.yaml_text import parse_yaml

SOURCES_FILE = Path(__file__).parent / "sources.yaml"

Transport = Literal["http", "google_drive", "hugging_face", "bucket"]
StepName = Literal["take", "parquet", "camera_traps", "remove_listed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DataMirror:
    """One place that a file can be had from."""

    transport: Transport
    address: str
    """`http`: a URL. `google_drive`: a file id, or a URL. `hugging_face`: OWNER/NAME/path of a data set's file.
    `bucket`: an `s3://` or `gs://` URI that is read without credentials."""
    endpoint: str = ""
    """Another server for `hugging_face` (a URL) or `bucket` (HOST:PORT over plain http); empty for the usual one."""
    revision: str = ""
    """`hugging_face`: the commit, tag or branch to take; empty for the newest of `main`, which may change."""

    def __post_init__(self) -> None:
        if self.transport == "hugging_face" and self.address.count("/") < 2:
            raise UserError(f"a hugging_face mirror is OWNER/NAME/path of a file, got {self.address!r}")
        if self.revision and self.transport != "hugging_face":
            raise UserError(f"a revision belongs to a hugging_face mirror, not to {self.transport} {self.address}")

    def __str__(self) -> str:
        return f"{self.transport} {self.address}" + (f" at {self.revision}" if self.revision else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteFile:
    """One file of a route."""

    name: str
    """File name; its ending (.zip, .tar, .tar.gz, .tgz) decides whether it is unpacked."""
    size: int | None = None
    """Bytes, where known."""
    sha256: str | None = None
    """Checksum, where known."""
    md5: str | None = None
    """Checksum of files of which nothing better is published; it tells a damaged copy, not a forged one."""
    mirrors: tuple[DataMirror, ...] = ()
    """Tried in order."""

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise UserError(f"a source file has a plain name, got {self.name!r}")

    @property
    def has_checksum(self) -> bool:
        """Whether what arrives can be told from what was meant."""
        return self.sha256 is not None or self.md5 is not None


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
    """How what comes this way differs from the first route; `fetch` and `verify` show it."""

    def __post_init__(self) -> None:
        known = [file.name for file in self.files]
        for step in self.steps:
            for name in filter(None, (step.source.partition("/")[0], step.annotations)):
                if name not in known:
                    raise UserError(f"the route {self.name!r} has a step for {name}, which is none of its files")


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
        content: Any = parse_yaml(file.read_bytes(), "it")
    except (OSError, UserError) as error:
        raise UserError(f"cannot read the registry of sources {file}: {error}") from None
    if not isinstance(content, dict):
        found = "nothing" if content is None else type(content).__name__
        raise UserError(f"the registry of sources {file} wants a mapping from benchmark to sources, got {found}")
    try:
        return {str(name): from_mapping(BenchmarkSources, entry, where=str(name)) for name, entry in content.items()}
    except UserError as error:
        raise UserError(f"the registry of sources {file} cannot be used: {error}") from None


def sources_of(benchmark: str, file: Path = SOURCES_FILE) -> BenchmarkSources:
    """The sources of one benchmark (`UserError` with the nearest names)."""
    sources = read_sources(file)
    if benchmark not in sources:
        raise unknown_name("benchmark with a source", benchmark, sources)
    return sources[benchmark]
