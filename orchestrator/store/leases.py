"""What one sweep holds: its own folder, the folds that it has handed out, and the Align stages that they run.

A fold that a living owner holds is left alone and looked at again later. A dead owner's is taken over and continues
from its checkpoint. The leases themselves are `trainables.storage.leases`; the workers' own are a second guard below
these.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.store.sweep_folder import SweepFolder
from orchestrator.store.sync import at_work
from search_spaces.errors import UserError
from trainables.storage.atomic_files import remove_abandoned
from trainables.storage.fold_folder import FoldFolder
from trainables.storage.leases import Lease, LeaseHeldError, Owner, living_owner_of, this_process

LOOK_AGAIN_S = 2.0
"""How long a folder that somebody else holds is left alone."""


class FoldLeases:
    """The leases of one sweep, by folder."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self._held: dict[Path, Lease] = {}
        self._elsewhere: dict[Path, tuple[Owner, float]] = {}

    def take(self, folder: FoldFolder) -> bool:
        """Hold a folder from now on; False where a living owner elsewhere does, or did a moment ago."""
        if folder.path in self._held:
            return True
        _, until = self._elsewhere.get(folder.path, (None, 0.0))
        if time.monotonic() < until:
            return False
        lease = Lease(folder.lease, self.owner)
        try:
            lease.take()
        except LeaseHeldError as held:
            self._elsewhere[folder.path] = held.owner, time.monotonic() + LOOK_AGAIN_S
            return False
        self._elsewhere.pop(folder.path, None)
        self._held[folder.path] = lease
        return True

    def release(self, folder: FoldFolder) -> None:
        """Let others have a folder, if it is held."""
        lease = self._held.pop(folder.path, None)
        if lease is not None:
            lease.release()

    def close(self) -> None:
        """Let go of everything."""
        for path in list(self._held):
            self.release(FoldFolder(path))

    @property
    def somebody_elsewhere(self) -> bool:
        """Whether any folder was held by somebody else when it was last tried."""
        return bool(self._elsewhere)

    def elsewhere(self, folder: FoldFolder) -> Owner | None:
        """Who held a folder when it was last tried; None where nobody did, or it is held here."""
        return self._elsewhere.get(folder.path, (None, 0.0))[0]


def check_alone(store: SweepFolder) -> None:
    """Raises `UserError` where a living process works in a sweep's folder; a look that takes nothing."""
    owner = living_owner_of(store.lease_file)
    if owner is not None:
        raise _at_work(store, owner)


def _at_work(store: SweepFolder, owner: Owner) -> UserError:
    return UserError(
        f"another sweep runs in {store.where} (process {owner.process} on {owner.host}); wait for it, stop it, "
        "or give another --out"
    )


def remove_half_files(store: SweepFolder) -> None:
    """Take away what killed writers left below OUT and STORE; on a disk that cannot be written it stays."""
    with suppress(OSError):
        for folder in {store.out, store.shared}:
            remove_abandoned(folder)


@contextmanager
def alone_in(store: SweepFolder, *, sent: Sequence[Path] = ()) -> Iterator[Owner]:
    """Be the only process that works in a sweep's folder, and at its addresses.

    Args:
        sent: folders that the work fills, sent to the addresses now and then.

    Raises:
        UserError: another one is, and lives.
    """

    def tell(other: Owner) -> None:
        store.mirrors.when_lost(
            f"process {other.process} on {other.host} has taken over {store.where}: this command gave no sign of life "
            "for too long"
        )

    lease = Lease(store.lease_file, this_process(), when_lost=tell)
    try:
        lease.take()
    except LeaseHeldError as held:
        raise _at_work(store, held.owner) from None
    try:
        remove_half_files(store)
        with at_work(store, lease.owner, sent=sent):
            yield lease.owner
    finally:
        lease.release()
