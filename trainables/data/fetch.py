"""Fetch a benchmark: mirrors, resume, unpacking, DomainBed's folders, verification; the folder appears last and whole.

    ROOT/.fetch-FOLDER/ROUTE/downloads/    files and their .part
    ROOT/.fetch-FOLDER/ROUTE/unpacked/     one folder per archive; there once it is whole
    ROOT/.fetch-FOLDER/ROUTE/assembled/    becomes ROOT/FOLDER by one rename
    ROOT/FOLDER/.fetch.json                the receipt: which mirrors gave which bytes

Running the same command again goes on where it stopped.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from search_spaces.benchmarks import Benchmark
from search_spaces.errors import UserError
from trainables.data.archives import ArchiveError, is_archive, unpack
from trainables.data.assemble import run_step
from trainables.data.http_transport import MirrorError, Progress
from trainables.data.sources import BenchmarkSources, RemoteFile, Route, sources_of
from trainables.data.transports import check_arrived, download, sha256_of
from trainables.data.variants import Variant
from trainables.data.verify import Verification, verify
from trainables.record import read_json, write_json

RECEIPT = ".fetch.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchSettings:
    """How a fetch goes about it."""

    attempts: int = 5
    """Times a mirror is asked when its fault may pass."""
    first_wait_s: float = 1.0
    """Seconds before the second attempt; doubled each time, a server's Retry-After goes before."""
    own_files: Path | None = None
    """Folder with files that the user has already, by the names in the registry."""
    variants: Sequence[Variant] | None = None
    """The variants that count as whole; those of the registry unless given."""
    cache: Path | None = None
    """Folder that remembers what a scan of the finished benchmark found."""


def fetch(
    benchmark: Benchmark,
    data_root: Path,
    *,
    sources: BenchmarkSources | None = None,
    settings: FetchSettings | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Bring a benchmark below `data_root` and verify it; one that is there and whole is only verified.

    Raises `UserError`: every mirror tried with what it said and the manual steps; a folder that is there and is not
    whole (it is never touched); too little space; a root that cannot be written.
    """
    sources = sources or sources_of(benchmark.name)
    settings = settings or FetchSettings()
    target = data_root / benchmark.folder
    work = data_root / f".fetch-{benchmark.folder}"
    if target.exists():
        present = _check_present(benchmark, target, settings)
        shutil.rmtree(work, ignore_errors=True)
        return present
    said: list[str] = []
    with _locked(work):
        _check_space(benchmark, data_root, sources, work)
        for route in sources.routes:
            try:
                found = _follow(benchmark, route, sources, work / _slug(route.name), settings, progress)
            except _RouteError as error:
                said.append(f"[{route.name}] {error}")
                continue
            _move_into_place(work / _slug(route.name) / "assembled", target)
            shutil.rmtree(work, ignore_errors=True)
            return found
    raise UserError(f"{benchmark.name} could not be fetched: {'; '.join(said)}. By hand: {sources.manual}")


class _RouteError(Exception):
    """Why a route does not lead to the benchmark."""


def _check_present(benchmark: Benchmark, target: Path, settings: FetchSettings) -> Verification:
    found = verify(target, benchmark, cache=settings.cache, variants=settings.variants)
    if not found.accepted:
        raise UserError(
            f"{target} is there, but {_what_is_wrong(found)}; it is left as it is: move it away to fetch it again"
        )
    return found


def _what_is_wrong(found: Verification) -> str:
    return "; ".join([*found.errors, *found.notes][:5]) or f"it is the variant '{found.variant}'"


def _follow(
    benchmark: Benchmark,
    route: Route,
    sources: BenchmarkSources,
    work: Path,
    settings: FetchSettings,
    progress: Progress | None,
) -> Verification:
    """Fetch, unpack and assemble along one route, and verify the result."""
    files = {file.name: _obtain(file, work, sources.unpacked_bytes * 2, settings, progress) for file in route.files}
    assembled = work / "assembled"
    try:
        for number, step in enumerate(route.steps):
            run_step(step, number, files, assembled, benchmark)
    except UserError as error:
        raise _RouteError(str(error)) from None
    found = verify(assembled, benchmark, variants=settings.variants)
    if not found.accepted:
        shutil.rmtree(assembled)
        assembled.with_name("steps.json").unlink(missing_ok=True)
        assembled.with_name("removing.json").unlink(missing_ok=True)
        shutil.rmtree(work / "unpacked", ignore_errors=True)
        raise _RouteError(f"what came is not the benchmark: {_what_is_wrong(found)}")
    receipt = {"route": route.name, "files": (read_json(work / "files.json") or {}), "manifest": found.manifest}
    write_json(assembled / RECEIPT, receipt)
    return found


def _obtain(file: RemoteFile, work: Path, max_bytes: int, settings: FetchSettings, progress: Progress | None) -> Path:
    """The file, or the folder it was unpacked into; the mirrors are asked in order."""
    arrived, unpacked = work / "downloads" / file.name, work / "unpacked" / file.name
    wanted = unpacked if is_archive(file.name) else arrived
    if wanted.exists():
        return wanted
    arrived.parent.mkdir(parents=True, exist_ok=True)
    said = []
    if settings.own_files is not None and (own := settings.own_files / file.name).is_file():
        try:
            shutil.copyfile(own, arrived)
            check_arrived(file, arrived)
            return _accept(file, arrived, wanted, f"own file {own.name}", max_bytes)
        except (MirrorError, ArchiveError) as error:
            said.append(f"own file {own}: {error}")
    for mirror in file.mirrors:
        try:
            if not arrived.exists():
                download(
                    file,
                    mirror,
                    arrived,
                    attempts=settings.attempts,
                    first_wait_s=settings.first_wait_s,
                    progress=progress,
                )
            return _accept(file, arrived, wanted, str(mirror), max_bytes)
        except (MirrorError, ArchiveError) as error:
            arrived.unlink(missing_ok=True)
            said.append(f"{mirror}: {error}")
    raise _RouteError(f"{file.name}: {'; '.join(said) or 'no mirror is known'}")


def _accept(file: RemoteFile, arrived: Path, wanted: Path, origin: str, max_bytes: int) -> Path:
    """Note what came from where, and unpack it."""
    facts = {"from": origin, "size": arrived.stat().st_size, "sha256": sha256_of(arrived)}
    if wanted != arrived:
        wanted.parent.mkdir(parents=True, exist_ok=True)
        unpack(arrived, wanted, max_bytes=max_bytes)
        arrived.unlink()
    notes = arrived.parent.parent / "files.json"
    write_json(notes, {**(read_json(notes) or {}), file.name: facts})
    return wanted


def _check_space(benchmark: Benchmark, data_root: Path, sources: BenchmarkSources, work: Path) -> None:
    if not sources.routes:
        raise UserError(f"no source is known for {benchmark.name}; by hand: {sources.manual}")
    sizes = [file.size for file in sources.routes[0].files]
    downloads = sum(size or 0 for size in sizes) if all(sizes) else sources.unpacked_bytes
    here = sum(path.stat().st_size for path in work.rglob("*") if path.is_file())
    needed = max(0, downloads + sources.unpacked_bytes - here)
    free = shutil.disk_usage(data_root).free
    if free < needed:
        raise UserError(
            f"{benchmark.name} needs about {needed / 1e9:.1f} GB below {data_root}, where {free / 1e9:.1f} GB are free"
        )


@contextmanager
def _locked(work: Path) -> Iterator[None]:
    """Hold the work folder for this process alone."""
    try:
        work.mkdir(parents=True, exist_ok=True)
        lock = (work / "lock").open("w")
    except OSError as error:
        raise UserError(f"cannot write below {work.parent}: {error.strerror or error}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"another fetch works in {work}; wait for it, or end it") from None
        yield


def _move_into_place(assembled: Path, target: Path) -> None:
    try:
        os.rename(assembled, target)
    except OSError as error:
        raise UserError(f"cannot put the benchmark at {target}: {error.strerror or error}") from None


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
