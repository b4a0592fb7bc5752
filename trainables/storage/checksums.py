"""SHA-256 of a file's bytes."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, read once per version of the file (path, size, time of change)."""
    status = path.stat()
    return _file_sha256(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _file_sha256(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
