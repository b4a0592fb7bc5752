"""The manifest of a benchmark: which image has which content, class and domain; its SHA-256 names the data.

Rows are `path, size, sha256, class, domain` (and, for a benchmark whose images have roles, the pool), one line each,
sorted by path in byte order. Reading a large benchmark takes minutes, so what a scan found is kept in a cache by
(path, size, modification time).
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from trainables.data.formats.images import problem_of
from trainables.storage.atomic_files import aside_of

CHUNK = 256
"""Files handed to a thread at a time."""
READER = 2
"""Counts the changes of what `problem_of` says of the same bytes: an older scan is not taken for known."""
NEVER_NS = -1
"""Modification time of a file that could not be read: no cache takes it for known."""


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One image; `path` is `DOMAIN/CLASS/file`."""

    path: str
    size: int
    sha256: str
    class_name: str
    domain: str
    pool: str = ""
    """`train` or `test` where a benchmark fixes who may train on the image (icons); else empty."""

    def line(self) -> str:
        """The row's line in the manifest, without a line end."""
        fields = [self.path, str(self.size), self.sha256, self.class_name, self.domain]
        return "\t".join([*fields, self.pool] if self.pool else fields)


@dataclass(frozen=True, slots=True)
class ScannedFile:
    """What one look at a file found."""

    size: int
    mtime_ns: int
    sha256: str
    problem: str
    """Why it cannot be decoded, or not even be read; empty when it can."""

    @property
    def is_read(self) -> bool:
        """Whether the file's bytes could be read, so that size and hash are known."""
        return bool(self.sha256)


def is_utf8(name: str) -> bool:
    """Whether a file name from the disk is UTF-8; others do not go into tables and packs."""
    try:
        # By its bytes: what Python makes of them follows the locale.
        os.fsencode(name).decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def shown(name: str) -> str:
    """A file name as it can be printed everywhere: bytes that are no UTF-8 as `\\xNN`."""
    return os.fsencode(name).decode(errors="backslashreplace")


def manifest_lines(rows: Iterable[ManifestRow]) -> list[str]:
    """The manifest's lines, sorted by path in byte order."""
    return [row.line() for row in sorted(rows, key=lambda row: os.fsencode(row.path))]


def manifest_hash(rows: Iterable[ManifestRow]) -> str:
    """SHA-256 of the manifest."""
    digest = hashlib.sha256()
    for line in manifest_lines(rows):
        digest.update(line.encode(errors="surrogateescape") + b"\n")
    return digest.hexdigest()


def scan(root: Path, paths: Sequence[str], *, cache: Path | None = None) -> list[ScannedFile]:
    """Hash and decode every file below `root`, in the order of `paths`.

    `cache` is a folder; files that kept their size and modification time since the last scan are not read again. A file
    that cannot be read, or is none (a pipe, a device), has a problem and no hash.
    """
    known = read_scan_cache(root, cache) if cache else {}
    threads = os.cpu_count() or 1
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    with ThreadPoolExecutor(max_workers=threads) as pool:
        done = pool.map(lambda chunk: [_scan_file(root, path, known.get(path)) for path in chunk], chunks)
        found = [item for chunk in done for item in chunk]
    if cache and any(item is not known.get(path) for path, item in zip(paths, found, strict=True)):
        write_scan_cache(root, cache, paths, found)
    return found


def read_scan_cache(root: Path, cache: Path) -> dict[str, ScannedFile]:
    """What an earlier scan of `root` found, by path; empty when there is none or it cannot be read."""
    import pyarrow.parquet as parquet

    try:
        columns = parquet.read_table(_cache_file(root, cache)).to_pydict()
        if set(columns["reader"]) != {READER}:
            return {}
        rows = zip(columns["size"], columns["mtime_ns"], columns["sha256"], columns["problem"], strict=True)
        return {os.fsdecode(path): ScannedFile(*row) for path, row in zip(columns["path"], rows, strict=True)}
    except (OSError, KeyError, ValueError):
        return {}


def write_scan_cache(root: Path, cache: Path, paths: Sequence[str], found: Sequence[ScannedFile]) -> None:
    """Remember a scan of `root`; written aside, then renamed. A cache that cannot be written is left out."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    table = pa.table(
        {
            # Bytes, because a file's name need not be UTF-8.
            "path": pa.array([os.fsencode(path) for path in paths], pa.binary()),
            "size": [item.size for item in found],
            "mtime_ns": [item.mtime_ns for item in found],
            "sha256": [item.sha256 for item in found],
            "problem": [item.problem for item in found],
            "reader": [READER for _ in found],
        }
    )
    file = _cache_file(root, cache)
    aside = aside_of(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(table, aside)
        aside.replace(file)
    except OSError:
        aside.unlink(missing_ok=True)


def _cache_file(root: Path, cache: Path) -> Path:
    return cache / f"scan-{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]}.parquet"


def _scan_file(root: Path, path: str, known: ScannedFile | None) -> ScannedFile:
    file = os.path.join(root, path)
    try:
        state = os.stat(file)
        if known is not None and (known.size, known.mtime_ns) == (state.st_size, state.st_mtime_ns):
            return known
        if not stat.S_ISREG(state.st_mode):
            # Opening a pipe would wait for whoever writes into it.
            return ScannedFile(0, NEVER_NS, "", "not a regular file")
        with open(file, "rb") as stream:
            data = stream.read()
    except OSError as error:
        return ScannedFile(0, NEVER_NS, "", error.strerror or str(error))
    return ScannedFile(len(data), state.st_mtime_ns, hashlib.sha256(data).hexdigest(), problem_of(data))
