"""Fetch a benchmark: mirrors, resume, unpacking, DomainBed's folders, verification; the folder appears last and whole.

    ROOT/.fetch-FOLDER/ROUTE/   what has arrived along a route, and what was made of it (`arrivals.py`)
    ROOT/FOLDER/.fetch.json     the receipt: which route and mirrors gave which bytes (`receipt.py`)

Running the same command again resumes. What turns out to be wrong is discarded, and its next mirror is
asked, then the next route; a whole copy that is no known variant is kept until the user has decided.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from search_spaces.benchmarks import Benchmark
from search_spaces.errors import UserError
from trainables.data.acquire.assemble import Assembly, StepError, run_step
from trainables.data.acquire.http_transport import Progress, quiet
from trainables.data.acquire.receipt import receipt_notes, was_accepted, write_receipt
from trainables.data.acquire.route import Arrivals, NoOriginError
from trainables.data.acquire.sources import BenchmarkSources, Route, sources_of
from trainables.data.formats.variants import Variant
from trainables.data.formats.verify import Verification, verify_benchmark


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchSettings:
    """How a fetch goes about it."""

    attempts: int = 5
    """Failures in a row, without a new byte, after which a mirror is given up."""
    first_wait_s: float = 1.0
    """Seconds before the second attempt; doubled each time, a server's Retry-After goes before."""
    own_files: Path | None = None
    """Folder with files that the user has already, by the names in the registry."""
    accept_unknown: bool = False
    """Whether a whole copy that is none of the variants that papers use is kept, with its own manifest."""
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
    progress: Progress = quiet,
    stages: Progress = quiet,
) -> Verification:
    """Bring a benchmark below `data_root` and verify it; one that is there and whole is only verified.

    `progress` is told the bytes of each file that arrives, `stages` what is done with them. The verification's notes
    say which route and mirrors it came by.

    Raises `UserError`: every mirror tried with what it said and the manual steps; a folder that is there and is not
    whole (it is never touched); too little space; a root that cannot be read or written.
    """
    sources = sources or sources_of(benchmark.name)
    settings = settings or FetchSettings()
    if settings.own_files is not None and not os.path.isdir(settings.own_files):
        raise UserError(f"there is no folder {settings.own_files} with files of your own")
    try:
        return _fetch(benchmark, data_root, sources, settings, progress, stages)
    except OSError as error:
        place = error.filename or data_root
        raise UserError(
            f"cannot fetch {benchmark.name}: {place}: {error.strerror or error}; what has arrived is kept"
        ) from None


def _fetch(
    benchmark: Benchmark,
    data_root: Path,
    sources: BenchmarkSources,
    settings: FetchSettings,
    progress: Progress,
    stages: Progress,
) -> Verification:
    target = data_root / benchmark.folder
    work = data_root / f".fetch-{benchmark.folder}"
    found = None
    if not target.exists():
        with _locked(work):
            # Another fetch may have ended between the look and the lock.
            if not target.exists():
                found = _bring(benchmark, target, work, sources, settings, progress, stages)
    if found is None:
        found = _check_present(benchmark, target, settings, stages)
    shutil.rmtree(work, ignore_errors=True)
    return replace(found, place=str(target), notes=(*found.notes, *receipt_notes(target)))


def _bring(
    benchmark: Benchmark,
    target: Path,
    work: Path,
    sources: BenchmarkSources,
    settings: FetchSettings,
    progress: Progress,
    stages: Progress,
) -> Verification:
    """Follow one route after the other until the benchmark is in place."""
    _check_space(benchmark, target.parent, sources, work)
    said: list[str] = []
    for route in sources.routes:
        arrivals = Arrivals(
            work=work / _slug(route.name),
            max_bytes=sources.unpacked_bytes * 2,
            attempts=settings.attempts,
            first_wait_s=settings.first_wait_s,
            own_files=settings.own_files,
            progress=progress,
            stages=stages,
        )
        try:
            found = _follow(benchmark, route, arrivals, settings, stages)
        except (NoOriginError, _UnknownCopyError) as error:
            said.append(f"[{route.name}] {error}")
            continue
        _move_into_place(arrivals.assembled, target)
        return found
    raise UserError(f"{benchmark.name} could not be fetched: {'; '.join(said)}. By hand: {sources.manual}")


class _UnknownCopyError(Exception):
    """A whole copy that is none that papers use; it is kept where it is."""


def _check_present(benchmark: Benchmark, target: Path, settings: FetchSettings, stages: Progress) -> Verification:
    stages(f"verifying {benchmark.name}", 0, None)
    found = verify_benchmark(target, benchmark, cache=settings.cache, variants=settings.variants)
    if not found.accepted and not was_accepted(target, found.manifest):
        raise UserError(
            f"{target} is there, but {_what_is_wrong(found)}; it is left as it is: move it away to fetch it again"
        )
    return found


def _what_is_wrong(found: Verification) -> str:
    return "; ".join([*found.errors, *found.notes][:5]) or f"it is the variant '{found.variant}'"


def _follow(
    benchmark: Benchmark, route: Route, arrivals: Arrivals, settings: FetchSettings, stages: Progress
) -> Verification:
    """Fetch, unpack and assemble along one route, and verify the result; again while a file's next mirror may help.

    Raises `NoOriginError` when none does, and `_UnknownCopyError`.
    """
    while True:
        files = {file.name: arrivals.obtain(file) for file in route.files}
        stages(f"assembling {benchmark.name}", 0, None)
        assembly = Assembly(
            benchmark=benchmark,
            files=files,
            target=arrivals.assembled,
            max_bytes=arrivals.max_bytes,
            stages=stages,
        )
        try:
            for number, step in enumerate(route.steps):
                run_step(step, number, assembly)
        except StepError as error:
            arrivals.reject(route.files, error.file, str(error))
            continue
        stages(f"verifying {benchmark.name}", 0, None)
        found = verify_benchmark(arrivals.assembled, benchmark, variants=settings.variants)
        wrong = f"what came is not the benchmark: {_what_is_wrong(found)}"
        if found.errors:
            arrivals.reject(route.files, "", wrong)
        elif found.accepted or settings.accept_unknown:
            write_receipt(arrivals.assembled, route, arrivals.facts(), found)
            return found
        else:
            # The mirrors of a file hold the same bytes: another would be asked for gigabytes in vain.
            raise _UnknownCopyError(
                f"{wrong}; it is whole and kept in {arrivals.work}: --accept-unknown takes it as it is, and removing "
                "that folder fetches it again"
            )


def _check_space(benchmark: Benchmark, data_root: Path, sources: BenchmarkSources, work: Path) -> None:
    if not sources.routes:
        raise UserError(f"no source is known for {benchmark.name}; by hand: {sources.manual}")
    sizes = [file.size for file in sources.routes[0].files]
    downloads = sum(size or 0 for size in sizes) if all(sizes) else sources.unpacked_bytes
    # One file may stand in several class folders by hard links: its bytes are there once.
    here = {state.st_ino: state.st_size for path in work.rglob("*") if stat.S_ISREG((state := path.lstat()).st_mode)}
    needed = max(0, downloads + sources.unpacked_bytes - sum(here.values()))
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
