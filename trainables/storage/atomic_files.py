"""Files that are written aside and then renamed: `.NAME.WRITER.part`, where WRITER tells whether its process lives.

Process numbers are equal in containers that share a disk, so the machine is in the name, and so is the thread.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from trainables.storage.processes import GONE, process_started, this_machine

WRITER = re.compile(r"\.([0-9a-f]{8})-(\d+)-(\d+)-\d+\.part$")
"""Machine, process, the process's start, thread."""

ELSEWHERE_S = 3600.0
"""A half file of another machine is taken for abandoned once it is this old: no single file takes so long to write."""


def aside_of(path: Path) -> Path:
    """Where this thread writes a file before it is renamed to `path`."""
    process = os.getpid()
    writer = f"{_machine()}-{process}-{process_started(process)}-{threading.get_native_id()}"
    return path.with_name(f".{path.name}.{writer}.part")


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write: it takes its name once the block has ended and its bytes are on disk, or leaves nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = aside_of(path)
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if path.is_dir():
            # Damage: nothing of ours is a folder there. One that is not empty is somebody's, and stays.
            path.rmdir()
        aside.replace(path)
    except BaseException:
        # On a full disk, half a file would take the room that is left.
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise


def remove_path(path: Path) -> None:
    """Remove a file, or a folder in its place with all that is in it; nothing where there is nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_abandoned(folder: Path) -> None:
    """Take away the half files below a folder whose writers are dead; a living writer's stay."""
    for place, _, names in os.walk(folder):
        for name in names:
            if name.startswith(".") and name.endswith(".part"):
                file = Path(place, name)
                # It may be renamed or removed in this moment.
                with suppress(FileNotFoundError):
                    if _is_abandoned(file):
                        file.unlink()


def _is_abandoned(file: Path) -> bool:
    found = WRITER.search(file.name)
    if found is not None and found.group(1) == _machine():
        started = process_started(int(found.group(2)))
        return started == GONE or started != int(found.group(3))
    return time.time() - file.stat().st_mtime > ELSEWHERE_S


def _machine() -> str:
    return hashlib.sha256(this_machine().encode()).hexdigest()[:8]
