"""Who works in a folder: a lease with a heartbeat, taken over when its owner is dead. Needs no `flock`.

    FOLDER/lease.json                   the owner; its modification time is the heartbeat
    FOLDER/.lease.json.IDENTITY         for a moment: the owner that wants it; of a dead one, whoever has it removes it
    FOLDER/.lease.json.heir-IDENTITY    for a moment: who takes over from that dead owner

A lease is made, and a dead owner's is taken over, by a hard link: who comes second finds the name taken, on NFS too.
On the owner's own machine a lease is alive while its process is; from elsewhere, while its heartbeat is fresh.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from search_spaces.configuration import from_mapping
from trainables.storage.atomic_files import aside_of
from trainables.storage.json_files import read_json, write_json
from trainables.storage.processes import process_started, this_machine

HEARTBEAT_S = 5.0
STALE_S = 60.0
"""A heartbeat older than this belongs to a dead owner; twelve heartbeats, so that a busy disk does not kill anybody."""
LOOK_AGAIN_S = 0.5
HEIR = ".heir-"
UNREADABLE = "unreadable"
"""Identity of an owner whose lease file was cut short."""
NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
"""What file systems without hard links answer; there, creating a file that must be new decides."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Owner:
    """A process that may hold leases."""

    identity: str
    host: str
    process: int
    process_started: int
    """When the process started, in clock ticks since boot: a process id may be given out again."""
    machine: str = ""
    """Where process ids mean the same: a boot of a machine, and a PID namespace (a container) on it."""


def this_process() -> Owner:
    """The owner that this process is, with a fresh identity."""
    return Owner(
        identity=uuid.uuid4().hex,
        host=socket.gethostname(),
        process=os.getpid(),
        process_started=process_started(os.getpid()),
        machine=this_machine(),
    )


class LeaseHeldError(Exception):
    """A living owner holds the lease."""

    def __init__(self, owner: Owner) -> None:
        super().__init__(f"held by process {owner.process} on {owner.host}")
        self.owner = owner


class LeaseLostError(RuntimeError):
    """Another process took this one for dead, and works in its folder."""


def lost_to(other: Owner) -> LeaseLostError:
    """What is said of a fold that another process took over."""
    who = f"process {other.process} on {other.host}" if other.process else "another process, which has released it,"
    return LeaseLostError(f"{who} has taken over this fold: this process gave no sign of life for too long")


class Lease:
    """A lease file that is refreshed while it is held."""

    def __init__(self, path: Path, owner: Owner, *, when_lost: Callable[[Owner], None] = lambda other: None) -> None:
        """Remember who wants to hold which file; `when_lost` is called at every heartbeat after the loss."""
        self.path, self.owner = path, owner
        self.lost_to: Owner | None = None
        """Who took the lease over while this owner held it and gave no sign of life."""
        self._when_lost, self._is_held = when_lost, False
        self._checked = float("-inf")

    def take(self) -> Owner | None:
        """Hold the lease from now on; returns the dead owner that was replaced, if any.

        Raises:
            LeaseHeldError: a living owner has it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        own = self.path.with_name(f".{self.path.name}.{self.owner.identity}")
        own.write_text(json.dumps(asdict(self.owner)) + "\n")
        try:
            before = self._take(own)
        finally:
            own.unlink(missing_ok=True)
        self.lost_to, self._is_held, self._checked = None, True, time.monotonic()
        self._forget_dead()
        _heart.beat_for(self)
        return before

    def take_when_free(self) -> Owner | None:
        """Wait until no living owner has the lease, then hold it."""
        while True:
            try:
                return self.take()
            except LeaseHeldError:
                time.sleep(LOOK_AGAIN_S)

    def release(self) -> None:
        """Let go; a lease that somebody else took meanwhile is theirs."""
        self._is_held = False
        _heart.stop_for(self)
        owner = read_owner(self.path)
        if owner is not None and owner.identity == self.owner.identity:
            self.path.unlink(missing_ok=True)

    def refresh(self) -> None:
        """One heartbeat, for a lease that is still this owner's; says so where it is somebody else's."""
        other = self._other()
        if other is None:
            with suppress(FileNotFoundError):
                os.utime(self.path)
        elif other.identity != UNREADABLE and self._is_held:
            self.lost_to = other
            self._when_lost(other)

    def check(self, *, every_s: float = 0.0) -> None:
        """Look whether the lease is still this owner's, before something is written that the next owner may have.

        Args:
            every_s: a look that is younger counts; a process that stood still looks again.

        Raises:
            LeaseLostError: somebody else has it, or had it and is done.
        """
        now = time.monotonic()
        if every_s and now - self._checked < every_s:
            return
        other = self.lost_to or self._other()
        if other is not None and other.identity != UNREADABLE:
            raise lost_to(other)
        self._checked = now

    def _other(self) -> Owner | None:
        """Who has the lease in place of this owner; a file that is gone was taken over and released."""
        owner = read_owner(self.path)
        if owner is None:
            return Owner(identity="released", host="another machine", process=0, process_started=-1)
        return None if owner.identity == self.owner.identity else owner

    def _take(self, own: Path) -> Owner | None:
        while True:
            before = read_owner(self.path)
            if before is None:
                if _linked(own, self.path):
                    return None
                continue
            if before.identity == self.owner.identity:
                return before
            last = self._last_heir(before)
            marker = self._heir(last)
            # The marker proves that nobody else takes over from `last`, unless it all happened before it was made.
            if not _linked(own, marker):
                continue
            if read_owner(self.path) == before and self._heir_before(before, self.owner) == last:
                own.replace(self.path)
                self._forget_heirs()
                return before
            marker.unlink(missing_ok=True)

    def _last_heir(self, owner: Owner) -> Owner:
        """Who died last: the owner, or somebody who was to take over. Raises `LeaseHeldError` for a living one."""
        path = self.path
        while True:
            if is_alive(path, owner):
                raise LeaseHeldError(owner)
            path = self._heir(owner)
            heir = read_owner(path)
            if heir is None:
                return owner
            owner = heir

    def _heir_before(self, first: Owner, heir: Owner) -> Owner | None:
        """Whose heir `heir` is, along the line that begins with `first`."""
        owner: Owner | None = first
        while owner is not None:
            following = read_owner(self._heir(owner))
            if following is not None and following.identity == heir.identity:
                return owner
            owner = following
        return None

    def _heir(self, owner: Owner) -> Path:
        return self.path.with_name(f".{self.path.name}{HEIR}{owner.identity}")

    def _forget_dead(self) -> None:
        """Remove what owners left that were killed while they took the lease."""
        # A disk that does not answer now is asked again by whoever takes the lease next.
        with suppress(OSError):
            for path in self.path.parent.glob(f".{self.path.name}.*"):
                owner = None if path.suffix.startswith(HEIR) else read_owner(path)
                if owner is not None and not is_alive(path, owner):
                    path.unlink(missing_ok=True)

    def _forget_heirs(self) -> None:
        for path in self.path.parent.glob(f".{self.path.name}{HEIR}*"):
            if path != self._heir(self.owner):
                path.unlink(missing_ok=True)


def read_owner(path: Path) -> Owner | None:
    """Who a lease file names; None where there is no lease."""
    try:
        content = read_json(path)
        return None if content is None else from_mapping(Owner, content)
    except ValueError:
        # Cut short by a crash of the machine; nobody waits for the disk at every lease.
        return Owner(identity=UNREADABLE, host="an unknown machine", process=0, process_started=-1)


def living_owner_of(path: Path) -> Owner | None:
    """Who holds a lease file; None where there is no lease, or a dead owner's."""
    owner = read_owner(path)
    return owner if owner is not None and is_alive(path, owner) else None


def is_alive(path: Path, owner: Owner) -> bool:
    """Whether the owner of a lease file still runs."""
    if is_of_this_machine(owner):
        return runs_here(owner)
    try:
        return _now(path.parent) - path.stat().st_mtime < STALE_S
    except FileNotFoundError:
        return False


def is_of_this_machine(owner: Owner) -> bool:
    """Whether the owner's process id means the same here."""
    return owner.machine == this_machine()


def runs_here(owner: Owner) -> bool:
    """Whether a process of this machine still runs."""
    return process_started(owner.process) == owner.process_started


def clear_dead(path: Path) -> None:
    """Remove the lease of an owner that died, if there is one."""
    if not path.exists():
        return
    lease = Lease(path, this_process())
    with suppress(LeaseHeldError):
        lease.take()
        lease.release()


def write_first(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file that must be new, in one step.

    Raises:
        LeaseLostError: there is one: whoever finished first stands.
    """
    aside = aside_of(path)
    write_json(aside, content)
    try:
        if not _linked(aside, path):
            raise LeaseLostError(f"another process has finished {path.parent} first; its result stands")
    finally:
        aside.unlink(missing_ok=True)


class _Heart:
    """Refreshes every lease that this process holds, in one thread that lives while there are any."""

    def __init__(self) -> None:
        self._leases: dict[int, Lease] = {}
        self._changed = threading.Condition()
        self._running = False

    def beat_for(self, lease: Lease) -> None:
        with self._changed:
            self._leases[id(lease)] = lease
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="lease heartbeats", daemon=True).start()

    def stop_for(self, lease: Lease) -> None:
        with self._changed:
            self._leases.pop(id(lease), None)
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                until = time.monotonic() + HEARTBEAT_S
                while self._leases and time.monotonic() < until:
                    self._changed.wait(until - time.monotonic())
                if not self._leases:
                    self._running = False
                    return
                leases = list(self._leases.values())
            for lease in leases:
                with suppress(OSError):
                    lease.refresh()


_heart = _Heart()


def _now(folder: Path) -> float:
    """The file system's own time: another machine's clock may differ from this one's."""
    probe = aside_of(folder / "now")
    try:
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
    except OSError:
        return time.time()
    return now


def _linked(content: Path, path: Path) -> bool:
    """Make `path` with a file's content in one step; False where there is such a file already."""
    try:
        os.link(content, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        try:
            with path.open("x") as file:
                file.write(content.read_text())
        except FileExistsError:
            return False
    return True
