"""Who is at work in a folder: a lease with a heartbeat, taken over when its owner is dead.

On the owner's own machine a lease is alive while its process is; from elsewhere, while its heartbeat is fresh.
"""

from __future__ import annotations

import fcntl
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from search_spaces.configuration import from_mapping
from trainables.record import read_json, write_json

HEARTBEAT_S = 5.0
STALE_S = 60.0
"""A heartbeat older than this belongs to a dead owner; twelve heartbeats, so that a busy disk does not kill anybody."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Owner:
    """A process that may hold leases."""

    identity: str
    host: str
    process: int
    process_started: int
    """When the process started, in clock ticks since boot: a process id may be given out again."""


def this_process() -> Owner:
    """The owner that this process is, with a fresh identity."""
    return Owner(
        identity=uuid.uuid4().hex,
        host=socket.gethostname(),
        process=os.getpid(),
        process_started=_process_started(os.getpid()),
    )


class Lease:
    """A lease file that is refreshed while it is held.

    `take` returns the dead owner that was replaced, if any, and raises `LeaseHeldError` where a living one holds it.
    """

    def __init__(self, path: Path, owner: Owner) -> None:
        self.path, self.owner = path, owner
        self._ended = threading.Event()
        self._heart: threading.Thread | None = None

    def take(self) -> Owner | None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _folder_lock(self.path.parent):
            before = read_owner(self.path)
            if before is not None and before.identity != self.owner.identity and is_alive(self.path, before):
                raise LeaseHeldError(before)
            write_json(self.path, asdict(self.owner))
        self._heart = threading.Thread(target=self._beat, name="lease heartbeat", daemon=True)
        self._heart.start()
        return before

    def release(self) -> None:
        self._ended.set()
        if self._heart is not None:
            self._heart.join()
        owner = read_owner(self.path)
        if owner is not None and owner.identity == self.owner.identity:
            self.path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_S):
            try:
                os.utime(self.path)
            except OSError:
                continue


class LeaseHeldError(Exception):
    """A living owner holds the lease."""

    def __init__(self, owner: Owner) -> None:
        super().__init__(f"held by process {owner.process} on {owner.host}")
        self.owner = owner


def read_owner(path: Path) -> Owner | None:
    """Who a lease file names; None where there is no lease."""
    content = read_json(path)
    return None if content is None else from_mapping(Owner, content)


def is_alive(path: Path, owner: Owner) -> bool:
    """Whether the owner of a lease file still runs."""
    if owner.host == socket.gethostname():
        return _process_started(owner.process) == owner.process_started
    try:
        return time.time() - path.stat().st_mtime < STALE_S
    except FileNotFoundError:
        return False


def _process_started(process: int) -> int:
    """Start time from /proc, 0 where the system has none but the process runs, -1 where it does not run."""
    try:
        # The command name in field 2 may hold spaces and brackets; field 22 counts from after its last bracket.
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return -1 if fields[0] in "ZX" else int(fields[19])
    except OSError:
        pass
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return -1
    except PermissionError:
        return 0
    return 0


@contextmanager
def _folder_lock(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
