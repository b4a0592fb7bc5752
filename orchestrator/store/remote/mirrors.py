"""The mirrors of a store's folders, as the head of a sweep uses them: what decisions need is fetched, the rest is sent.

A store whose folders are addresses works in their mirrors (`trainables.storage.mirror`). The head fetches everything
but weights and embeddings; a fold's and its Align stage's files once they are over (`StoreMirrors.fetch_folds`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.store.remote.lease import StorageLease, living_owner_at
from search_spaces.errors import UserError
from trainables.storage.background_threads import beside
from trainables.storage.leases import LeaseHeldError, Owner
from trainables.storage.mirror import CHECKPOINT, RESULT, Mirror, is_small, open_mirror
from trainables.storage.object_storage import reason

FOLLOW_S = 2.0


class StoreMirrors:
    """The mirrors of a store's folders; without any, every method does nothing."""

    def __init__(self, mirrors: Sequence[Mirror] = ()) -> None:
        self._mirrors = list(mirrors)
        self._noted: dict[Path, None] = {}
        self._mutex = threading.Lock()
        self.awaited: set[Path] = set()
        """Align stages that run somewhere: other folds wait for their results."""
        self.awaited_files: set[Path] = set()
        """Weights that are wanted here, once they are made: those of selected trials."""
        self.when_lost: Callable[[str], None] = lambda text: None
        """Told when another command has taken over."""

    def __bool__(self) -> bool:
        return bool(self._mirrors)

    @property
    def addresses(self) -> dict[str, str]:
        """Folders of this machine, and the addresses that they mirror."""
        return {str(mirror.folder): mirror.address for mirror in self._mirrors}

    def shown(self, path: Path) -> str:
        """A path for who reads it: where it is mirrored, its address without the options."""
        for mirror, name in self._names([path]):
            return f"{str(mirror.storage.address).partition('?')[0]}/{name}"
        return str(path)

    def open(self, address: str) -> Path:
        """Mirror one more address; returns its folder here. Raises `UserError` where it cannot be used."""
        for mirror in self._mirrors:
            if mirror.address == address:
                return mirror.folder
        self._mirrors.append(open_mirror(address))
        return self._mirrors[-1].folder

    def fetch_first(self, file: Path) -> None:
        """Fetch a file that tells what else is to be opened."""
        with self._told():
            self.fetch_files([file])

    def refresh(self) -> None:
        """Fetch what is new, but for weights and embeddings; raises `UserError` where a storage does not answer."""
        with self._told():
            for mirror in self._mirrors:
                mirror.pull(wanted=is_small)

    def fetch(self, folder: Path) -> None:
        """Fetch everything below a folder, weights and embeddings too."""
        with self._told():
            for mirror, name in self._names([folder]):
                mirror.pull(name)

    def fetch_folds(self, folders: Iterable[Path]) -> None:
        """Fetch what is new of folds or Align stages, but for their weights; what they left half-done is tidied."""
        for mirror, name in self._names(folders):
            mirror.pull(name, wanted=is_small)
            if (mirror.folder / name / RESULT).exists():
                mirror.push(name, wanted=_is_the_heads(mirror))
                if mirror.storage.look(f"{name}/{CHECKPOINT}") is not None:
                    mirror.storage.remove(f"{name}/{CHECKPOINT}")

    def fetch_awaited(self) -> None:
        """Fetch those of the awaited Align stages that are over, and of the awaited files that are there."""
        for path in list(self.awaited_files):
            there = all(mirror.pull_file(name) for mirror, name in self._names([path]))
            # A fold that is over and has none never gets one.
            if there or (path.parent / RESULT).exists():
                self.awaited_files.discard(path)
        for mirror, name in self._names(list(self.awaited)):
            if mirror.storage.look(f"{name}/{RESULT}") is not None:
                self.fetch_folds([mirror.folder / name])
                self.awaited.discard(mirror.folder / name)

    def fetch_files(self, paths: Iterable[Path]) -> None:
        """Fetch single files, where there are such."""
        for mirror, name in self._names(paths):
            mirror.pull_file(name)

    def note(self, path: Path) -> None:
        """Remember to send a file that was just written, or just removed."""
        if self._mirrors:
            with self._mutex:
                self._noted[path] = None

    def send_noted(self) -> None:
        """Send what was noted; what could not be sent is tried again next time."""
        with self._mutex:
            noted, self._noted = list(self._noted), {}
        try:
            self.send(noted)
        except OSError:
            with self._mutex:
                self._noted = dict.fromkeys([*noted, *self._noted])
            raise

    def send(self, paths: Iterable[Path]) -> None:
        """Send what has changed of files, and of folders with all that is below."""
        files: dict[str, list[str]] = {}
        for mirror, name in self._names(paths):
            if (mirror.folder / name).is_dir():
                mirror.push(name, wanted=_is_the_heads(mirror))
            else:
                files.setdefault(mirror.address, []).append(name)
        for mirror in self._mirrors:
            mirror.push_files(files.get(mirror.address, ()))

    def send_now(self, paths: Iterable[Path]) -> None:
        """Send what has changed; raises `UserError` where a storage does not take it."""
        with self._told():
            self.send(paths)

    def send_all(self) -> None:
        """Send everything that has changed here; raises `UserError` where a storage does not take it."""
        with self._told():
            for mirror in self._mirrors:
                mirror.push(wanted=_is_the_heads(mirror))

    def fetch_ledger(self, folder: Path) -> None:
        """Fetch what the workers' ledgers say; what cannot be had now is had later."""
        with suppress(OSError):
            for mirror, name in self._names([folder]):
                mirror.pull(name)

    def living_owner(self) -> Owner | None:
        """The owner of one of the addresses, on whatever machine; None where there is none."""
        for mirror in self._mirrors:
            with suppress(OSError):
                owner = living_owner_at(mirror.storage)
                if owner is not None:
                    return owner
        return None

    def leave_request(self, file: Path) -> None:
        """Send a request to the owner: such a file is sent in no other way."""
        with self._told():
            for mirror, name in self._names([file]):
                mirror.storage.write(name, file.read_bytes())

    def remove_request(self, file: Path) -> None:
        """Take a request out of the storage."""
        with suppress(OSError):
            for mirror, name in self._names([file]):
                mirror.storage.remove(name)

    def look_for_request(self, file: Path) -> None:
        """Fetch a request that somebody left."""
        for mirror, name in self._names([file]):
            content = mirror.storage.read(name)
            if content is not None:
                file.write_bytes(content)

    @contextmanager
    def alone(self, owner: Owner) -> Iterator[list[StorageLease]]:
        """Be the only command that works at these addresses.

        Raises:
            UserError: another one is, or a storage does not take the lease.
        """
        taken: list[StorageLease] = []
        try:
            with self._told():
                for mirror in self._mirrors:
                    taken.append(_taken(StorageLease(mirror.storage, owner)))
            yield taken
        finally:
            for lease in taken:
                lease.release()

    @contextmanager
    def kept_fresh(self) -> Iterator[None]:
        """Fetch what is new again and again, for who only looks."""
        with repeated(lambda: self.refresh() if self else None, FOLLOW_S):
            yield

    def _names(self, paths: Iterable[Path]) -> Iterator[tuple[Mirror, str]]:
        """Each path's mirror and its name there; what no mirror holds is left out."""
        for path in paths:
            for mirror in self._mirrors:
                if path.is_relative_to(mirror.folder):
                    yield mirror, mirror.name_of(path)
                    break

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Say in one line that a storage does not answer."""
        try:
            yield
        except OSError as error:
            where = " and ".join(mirror.address for mirror in self._mirrors)
            raise UserError(f"{where} cannot be used: {reason(error)}; run the same command later to resume") from None


@contextmanager
def repeated(call: Callable[[], object], pause: float) -> Iterator[None]:
    """Call again and again in a thread; a storage that does not answer for a while ends nothing."""

    def follow(ended: threading.Event) -> None:
        while not ended.wait(pause):
            with suppress(OSError, UserError):
                call()

    with beside("storage", follow):
        yield


def _taken(lease: StorageLease) -> StorageLease:
    try:
        lease.take()
    except LeaseHeldError as held:
        raise UserError(
            f"another command works at {lease.storage.address} (process {held.owner.process} on "
            f"{held.owner.host}); wait for it, stop it, or give another address"
        ) from None
    return lease


def _is_the_heads(mirror: Mirror) -> Callable[[str], bool]:
    """A checkpoint is sent by who writes it, beside its journal; the head only takes it away."""
    return lambda name: not name.endswith(f"/{CHECKPOINT}") or not (mirror.folder / name).exists()
