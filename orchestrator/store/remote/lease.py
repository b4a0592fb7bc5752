"""One command at a time at an address: a lease object with a heartbeat, in the storage itself.

    ADDRESS/.owner.json    which process runs the sweep, written again every few seconds

Limits: pyarrow knows no conditional write, so who takes the lease writes, waits a moment, and reads back who stands
there. Two commands that start within that moment are told apart; a command that is stopped between looking and writing
for longer than it (a swapped-out machine) may run beside another until its next heartbeat, which sees the other's name
and ends it. Their folds have equal results either way: what is at stake is work done twice, and queries asked twice.
A dead owner of this very machine is recognised by its process; one elsewhere by a heartbeat older than `STALE_S` on the
storage's own clock.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from contextlib import suppress
from dataclasses import asdict

from search_spaces.configuration import from_mapping
from trainables.storage.leases import STALE_S, LeaseHeldError, Owner, is_of_this_machine, runs_here
from trainables.storage.object_storage import Storage
from trainables.storage.processes import this_machine

LEASE_NAME = ".owner.json"
HEARTBEAT_S = 10.0
SETTLE_S = 1.0
"""How long who takes the lease waits before reading back who has it."""


class StorageLease:
    """The lease of one address, held by this process."""

    def __init__(self, storage: Storage, owner: Owner) -> None:
        self.storage, self.owner = storage, owner
        self.lost_to: Owner | None = None
        """Who took the lease over while this process had it."""
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self) -> None:
        """Hold the lease from now on.

        Raises:
            LeaseHeldError: a living owner has it.
            OSError: the storage does not take it.
        """
        self._refuse_living()
        self._write()
        time.sleep(SETTLE_S)
        found = read_lease(self.storage)
        if found is None or found.identity != self.owner.identity:
            raise LeaseHeldError(found or self.owner)
        self._thread = threading.Thread(target=self._beat, name="storage lease", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Let go; a lease that somebody else took meanwhile is theirs."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        # A storage that does not answer forgets it by itself.
        with suppress(OSError):
            found = read_lease(self.storage)
            if found is not None and found.identity == self.owner.identity:
                self.storage.remove(LEASE_NAME)

    def _refuse_living(self) -> None:
        owner = living_owner_at(self.storage)
        if owner is not None and owner.identity != self.owner.identity:
            raise LeaseHeldError(owner)

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_S):
            # Missing one or another does not end it: there is time for several.
            with suppress(OSError):
                found = read_lease(self.storage)
                if found is not None and found.identity != self.owner.identity:
                    self.lost_to = found
                    return
                self._write()

    def _write(self) -> None:
        self.storage.write(LEASE_NAME, (json.dumps(asdict(self.owner)) + "\n").encode())


def read_lease(storage: Storage) -> Owner | None:
    """Who stands in the lease, alive or dead; raises `OSError` where the storage does not answer."""
    content = storage.read(LEASE_NAME)
    try:
        return None if content is None else from_mapping(Owner, json.loads(content))
    except ValueError:
        return None


def living_owner_at(storage: Storage) -> Owner | None:
    """Who holds the lease of an address and lives; raises `OSError` where the storage does not answer."""
    owner = read_lease(storage)
    if owner is None:
        return None
    if is_of_this_machine(owner):
        return owner if runs_here(owner) else None
    return owner if _age(storage) < STALE_S else None


def _age(storage: Storage) -> float:
    """Seconds since the lease's last heartbeat, by the storage's own clock where it may be written to."""
    beat = storage.look(LEASE_NAME)
    if beat is None:
        return float("inf")
    # One name per machine: what a process leaves that is killed in this moment, the next one removes.
    probe = f".clock.{hashlib.sha256(this_machine().encode()).hexdigest()[:8]}"
    try:
        now = storage.write(probe, b".").changed_ns
        storage.remove(probe)
    except OSError:
        now = time.time_ns()
    return (now - beat.changed_ns) / 1e9
