"""What one sweep holds in a store that others share: the folds it has handed out, and the Align stages they run.

A fold that a living owner holds is left alone and looked at again later; a dead owner's is taken over and goes on from
its checkpoint. The leases themselves are `trainables.leases`; the workers' own are a second guard below these.
"""

from __future__ import annotations

import time
from pathlib import Path

from trainables.leases import Lease, LeaseHeldError, Owner
from trainables.record import FoldFolder

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
