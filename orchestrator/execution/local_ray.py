"""The temporary folders that local Rays live in: one per process, and those of killed processes removed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY_PREFIX = "vl2v-ray-"
LONGEST_TEMPORARY = 30
"""Characters of the folder that Ray's own is made in: the sockets below may not be longer than 107."""

LAST_WRITES_S = 5.0


@contextmanager
def ray_folder() -> Iterator[Path]:
    """A new folder for Ray's sessions, short enough for its sockets; folders of processes that were killed go too.

    A lock on the folder tells the living from the dead: the system drops it with the process.
    """
    base = _temporary_base()
    remove_abandoned_ray_folders()
    hidden = Path(tempfile.mkdtemp(prefix=f".{TEMPORARY_PREFIX}", dir=base))
    lock = os.open(hidden, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    folder = hidden.rename(base / hidden.name.removeprefix("."))
    try:
        yield folder
    finally:
        _remove(folder)
        os.close(lock)


def _temporary_base() -> Path:
    base = Path(tempfile.gettempdir())
    return Path("/tmp") if len(str(base)) > LONGEST_TEMPORARY else base


def _remove(folder: Path) -> None:
    """Ray's processes may write for a moment after they were told to end."""
    ended = time.monotonic() + LAST_WRITES_S
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
        if time.monotonic() > ended:
            return
        time.sleep(0.05)


def remove_abandoned_ray_folders() -> None:
    """Remove the folders of local Rays whose process was killed."""
    for folder in _temporary_base().glob(f"{TEMPORARY_PREFIX}*"):
        try:
            lock = os.open(folder, os.O_RDONLY)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue
        finally:
            os.close(lock)
