"""A Ray of this process alone: how it is started, and the private folder that it lives in.

A killed process leaves its folder; the next one removes it.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from orchestrator.execution.ray_compat import in_folder
from search_spaces.errors import UserError, first_line

TEMPORARY_PREFIX = "vl2v-ray-"
LONGEST_TEMPORARY = 19
"""Bytes of the folder that ours is made in: macOS allows 103 for a socket's path, and this much comes behind it:
`/vl2v-ray-XXXXXXXX/0/session_2026-11-27_22-08-20_123456_1234567/sockets/plasma_store`."""

PLAIN = re.compile(r"[A-Za-z0-9/._+=@%-]*")
"""Letters that every part of Ray takes in the path of its folder."""

LAST_WRITES_S = 5.0

STARTS = 3
"""How often Ray's start is tried: a machine under load misses Ray's own limit of 30 s, which no setting changes."""

TOO_SLOW = re.compile(r"timed out", re.IGNORECASE)
"""What Ray says of a start that missed a limit of time."""


@contextmanager
def ray_folder() -> Iterator[Path]:
    """A new folder for Ray's sessions, which nobody else may enter; folders of processes that were killed go too.

    Ray opens its own folder to everybody (0777), so that one lies inside ours. A lock on the folder tells the living
    from the dead: the system drops it with the process.

    Raises:
        UserError: RAY_TMPDIR names no folder that Ray can use.
    """
    check_ray_folder()
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


def check_ray_folder() -> None:
    """Raises `UserError` where RAY_TMPDIR names no folder that Ray can use; without it there is always one."""
    wanted = os.environ.get("RAY_TMPDIR")
    if not wanted:
        return
    if not _is_usable(wanted):
        raise UserError(
            f"RAY_TMPDIR is a path of at most {LONGEST_TEMPORARY} plain letters, because Ray's sockets lie below it, "
            f"got {wanted}; give a shorter one, or unset it"
        )
    if not (os.path.isdir(wanted) and os.access(wanted, os.W_OK | os.X_OK)):
        raise UserError(f"RAY_TMPDIR: {wanted} is not a folder that can be written; make it, or unset it")


def start_in(folder: Path, **options: Any) -> Any:
    """Start Ray below a folder and return its context; a start that was too slow is tried again.

    Raises:
        UserError: whatever kept Ray from starting, in one line.
    """
    import ray

    for attempt in range(STARTS):
        try:
            # A stale address file of another Ray would be connected to instead of a new one.
            return ray.init(address="local", **options, **in_folder(folder / str(attempt)))
        except Exception as error:
            ray.shutdown()
            end_processes_in(folder)
            is_too_slow = TOO_SLOW.search(str(error)) is not None
            if is_too_slow and attempt + 1 < STARTS:
                continue
            if isinstance(error, OSError) and not is_too_slow:
                raise
            tried = f"{STARTS} times, each too slow: " if is_too_slow else ""
            raise UserError(
                f"Ray cannot be started on this machine ({tried}{first_line(error).rstrip('.')}); look with "
                "vl2v-orchestrate doctor --thorough, and run the same command again"
            ) from None
    raise AssertionError("the last try returns or raises")


def end_processes_in(folder: Path) -> None:
    """End the processes that a start which failed has left: those whose command line names our own new folder."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.fsencode(folder) + b"/" in (process / "cmdline").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)


def take_own_token() -> None:
    """Give a local Ray a token of its own, for this process's life; without one Ray writes a file into the home.

    The token is what keeps others out: Ray listens on the machine's network address, even when told 127.0.0.1.
    """
    given = any(name in os.environ for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if not given and not (Path.home() / ".ray" / "auth_token").exists():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _temporary_base() -> Path:
    """Where our folder is made: RAY_TMPDIR, the system's temporary folder, or /tmp where Ray cannot use that."""
    base = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    return Path(base if _is_usable(base) else "/tmp")


def _is_usable(base: str) -> bool:
    return len(os.fsencode(base)) <= LONGEST_TEMPORARY and PLAIN.fullmatch(base) is not None


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
