"""Stop or cancel a sweep from another process: a request in its folder, which the running sweep looks for.

    OUT/request.json    what is asked, and of which owner of the sweep's lease

A request names the identity of the process it is for, so that one which came too late never stops the next sweep.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Literal, Protocol

from orchestrator.store.sweep_folder import SweepFolder
from search_spaces.configuration import from_mapping
from search_spaces.errors import UserError
from trainables.storage.background_threads import beside
from trainables.storage.json_files import read_json, write_json
from trainables.storage.leases import Owner

POLL_S = 0.5
"""How often a running sweep looks, and a command that waits for its end."""

Wish = Literal["stop", "cancel"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlRequest:
    """What somebody asks of a running sweep."""

    wish: Wish
    """`stop`: finish the running folds and start nothing new; `cancel`: stop now, keep everything."""
    owner: str
    """Identity of the lease owner that is asked; nobody else listens."""
    time: float
    """When it was asked, in Unix seconds."""


class Stoppable(Protocol):
    """What a request changes in a running sweep."""

    wanted: bool
    """Stop now."""
    draining: bool
    """Start nothing new."""


def ask(store: SweepFolder, wish: Wish) -> ControlRequest:
    """Leave a request for the running sweep; a `cancel` that was asked before is not taken back.

    Raises:
        UserError: no sweep, or none that runs.
    """
    store.existing_sweep()
    owner = store.living_owner()
    if owner is None:
        raise UserError(f"no sweep runs in {store.where}: there is nothing to {wish}")
    before = _readable_request(store)
    if before is not None and before.owner == owner and before.wish == "cancel":
        return before
    request = ControlRequest(wish=wish, owner=owner, time=time.time())
    write_json(store.request_file, asdict(request))
    store.mirrors.leave_request(store.request_file)
    return request


def read_request(store: SweepFolder) -> ControlRequest | None:
    """The request that lies in the folder, whomever it is for."""
    content = read_json(store.request_file)
    return None if content is None else from_mapping(ControlRequest, content)


def wait_until_ended(store: SweepFolder, request: ControlRequest, tell: Callable[[], object] = lambda: None) -> None:
    """Return once the process that was asked is gone, and take the request away if it could not do so itself."""
    while store.living_owner() == request.owner:
        tell()
        time.sleep(POLL_S)
    _forget(store, request.owner)


@contextmanager
def listening(store: SweepFolder, owner: Owner, stop: Stoppable) -> Iterator[None]:
    """Follow requests for this owner while the sweep runs; requests that an earlier process left are taken away."""

    def follow(ended: threading.Event) -> None:
        last = False
        while not last:
            request = _readable_request(store)
            if request is not None and request.owner == owner.identity:
                stop.draining = True
                stop.wanted = stop.wanted or request.wish == "cancel"
            last = ended.wait(POLL_S)

    stale = _readable_request(store)
    if stale is not None and stale.owner != owner.identity:
        store.request_file.unlink(missing_ok=True)
    try:
        with beside("requests", follow):
            yield
    finally:
        _forget(store, owner.identity)


def _readable_request(store: SweepFolder) -> ControlRequest | None:
    """A folder that cannot be read for a moment must not end the sweep."""
    try:
        return read_request(store)
    except (OSError, ValueError):
        return None


def _forget(store: SweepFolder, owner: str) -> None:
    request = _readable_request(store)
    if request is not None and request.owner == owner:
        store.request_file.unlink(missing_ok=True)
        store.mirrors.remove_request(store.request_file)
