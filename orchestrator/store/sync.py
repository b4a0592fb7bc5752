"""At work at a store's addresses: what is new is fetched, and what was decided is sent.

A trial's record is sent before its folds are handed out; the rest follows in the background, and at the end, whatever
that is. How the files move is in `orchestrator.store.remote.mirrors`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.store.remote.lease import StorageLease
from orchestrator.store.remote.mirrors import FOLLOW_S, repeated
from orchestrator.store.sweep_folder import SweepFolder
from search_spaces.errors import UserError
from trainables.storage.leases import Owner

LEDGER_S = 30.0
"""Between two looks for what the workers' ledgers say: there may be many thousands of files."""


@contextmanager
def at_work(store: SweepFolder, owner: Owner, *, sent: Sequence[Path] = ()) -> Iterator[None]:
    """Be the only command at a store's addresses; fetch what is new, and send what is made here until the end.

    Args:
        owner: of the sweep's lease, in whose name the addresses' leases are taken.
        sent: folders that the work fills, sent now and then.

    Raises:
        UserError: another command works there, or a storage does not answer.
    """
    mirrors = store.mirrors
    if not mirrors:
        yield
        return
    with mirrors.alone(owner) as leases:
        mirrors.refresh()
        mirrors.remove_request(store.request_file)
        mirrors.send_all()
        follower = _Follower(store, leases, sent)
        try:
            with repeated(follower.look, FOLLOW_S):
                yield
        except BaseException:
            # What went wrong is said, and not that the storage does not answer either.
            with suppress(UserError, OSError):
                if not follower.is_lost:
                    mirrors.send_all()
            raise
        if follower.is_lost:
            return
        # What the storage lost meanwhile is sent once more.
        mirrors.refresh()
        mirrors.send_all()


class _Follower:
    """What the head does again and again while it runs."""

    def __init__(self, store: SweepFolder, leases: Sequence[StorageLease], sent: Sequence[Path]) -> None:
        self._store, self._leases, self._sent = store, leases, sent
        self._looked = time.monotonic()

    @property
    def is_lost(self) -> bool:
        """Another command has taken over: nothing of this one's goes into the storage any more."""
        return any(lease.lost_to is not None for lease in self._leases)

    def look(self) -> None:
        mirrors, store = self._store.mirrors, self._store
        for lease in self._leases:
            if lease.lost_to is not None:
                other = lease.lost_to
                mirrors.when_lost(
                    f"process {other.process} on {other.host} has taken over {lease.storage.address}: this command "
                    f"gave no sign of life for too long"
                )
                return
        mirrors.send_noted()
        files = [path for path in store.out.iterdir() if path.is_file()]
        mirrors.send([*files, store.usage_folder])
        mirrors.fetch_awaited()
        mirrors.look_for_request(store.request_file)
        if time.monotonic() - self._looked > LEDGER_S:
            self._looked = time.monotonic()
            mirrors.fetch_ledger(store.folds.queries_folder)
            mirrors.send(self._sent)
