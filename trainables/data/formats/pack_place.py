"""The place where a pack appears: one writer at a time, whole or not at all, whatever is killed when.

FOLDER.pack                      the pack
.FOLDER.pack.lease.json          who is writing (see `trainables.storage.leases`), from whatever machine
.FOLDER.pack.IDENTITY.part       what that owner has written so far
.FOLDER.pack.old                 the pack that is replaced, between the two renames of an overwrite
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from search_spaces.errors import UserError
from trainables.storage.leases import Lease, LeaseHeldError, living_owner_of, this_process


@contextmanager
def alone_at(destination: Path) -> Iterator[Path]:
    """Nobody else writes at `destination` during the block; gives the folder to write in, which is not there yet.

    What dead writers left is cleared away first, and what is left in the folder goes at the end. Raises `UserError`
    while another process writes there, on this machine or on another, and `OSError` where nothing can be written.
    """
    lease = Lease(_lease_file(destination), this_process())
    try:
        lease.take()
    except LeaseHeldError as held:
        raise UserError(f"{destination} is being written: {held}; wait for it, or end it") from None
    aside = destination.with_name(f".{destination.name}.{lease.owner.identity}.part")
    try:
        _settle(destination)
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        lease.release()


def move_into_place(aside: Path, destination: Path) -> None:
    """Let what was written become `destination`; raises `OSError` and leaves what was there."""
    old = _replaced(destination)
    is_replaced = destination.exists()
    if is_replaced:
        destination.rename(old)
    try:
        aside.rename(destination)
    except BaseException:
        if is_replaced:
            old.rename(destination)
        raise
    shutil.rmtree(old, ignore_errors=True)


def recover(destination: Path) -> None:
    """Put back the pack that an overwrite had moved away when it was killed; nothing where nobody was."""
    if destination.exists() or not _replaced(destination).is_dir() or living_owner_of(_lease_file(destination)):
        return
    # Where somebody else is at it, or nothing can be written, the pack stays away.
    with suppress(UserError, OSError), alone_at(destination):
        pass


def _settle(destination: Path) -> None:
    """Undo what dead owners of the lease left."""
    old = _replaced(destination)
    if old.is_dir() and not destination.exists():
        old.rename(destination)
    shutil.rmtree(old, ignore_errors=True)
    for left in destination.parent.glob(f".{destination.name}.*.part"):
        if re.fullmatch("[0-9a-f]{32}", left.name.split(".")[-2]):
            shutil.rmtree(left, ignore_errors=True)


def _lease_file(destination: Path) -> Path:
    return destination.with_name(f".{destination.name}.lease.json")


def _replaced(destination: Path) -> Path:
    return destination.with_name(f".{destination.name}.old")
