"""A local folder that mirrors an address: processes work on local files, and whole files are moved there and back.

    MIRRORS/DIGEST/               the files, named as in the storage; DIGEST names the address, MIRRORS is a local disk
    MIRRORS/DIGEST/.mirror/       what is known of each file (`trainables.storage.mirror_index`), and locks

The storage is the truth. Of each file that was moved, the version here and the version there are kept, so that an
unchanged file is moved once; of one that the storage lost they are forgotten, and the next push sends it again. A file
that changed on both sides is taken from the storage, save where it was only appended to here. A JSON file that lost its
bytes here (its machine lost its power) is fetched again and never sent. What belongs to one machine (leases, scratch,
MLflow's copy, caches) is never sent. A folder's `result.json` is the last of its files to be sent, and the last to be
fetched.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from search_spaces.errors import UserError
from trainables.storage.mirror_index import KnownFile, Records
from trainables.storage.object_storage import Storage, Version, open_storage, parse_address, patiently

MIRRORS_VARIABLE = "VL2V_MIRRORS"
OWN_FOLDER = ".mirror"
TRANSFERS = 16
"""Files that are moved side by side."""
FEW = 200
"""Up to so many files are looked up one by one; of more, everything that is known is read."""

RESULT = "result.json"
JOURNAL = "journal.jsonl"
CHECKPOINT = "checkpoint.pt"
STUDENT = "student.safetensors"

HERE_ONLY = frozenset({"lease.json", "worker.json", "request.json", "mlartifacts", "mlflow-server.log", "ray"})
"""Names of files and folders that belong to one machine."""

CACHES = frozenset({"data"})
"""Top folders that are made again where they are missing."""

MARK = "running.json"
"""Says that a fold runs, while it does; taken away here too once it is gone from the storage."""

PASSING = frozenset({CHECKPOINT, MARK})
"""Files that are taken out of the storage once they are gone here; of others, losing the local copy means nothing."""

RACY_NS = 3 * 10**9
"""Two versions of equal size this close to each other may look the same: S3's clock ticks once a second."""

Chosen = Callable[[str], bool]


def mirror_folder(address: str) -> Path:
    """Where this machine mirrors an address."""
    root = os.environ.get(MIRRORS_VARIABLE) or Path.home() / ".cache" / "vl2v-orchestrate" / "mirrors"
    return Path(root).absolute() / parse_address(address).digest


def everything(name: str) -> bool:
    return True


def is_small(name: str) -> bool:
    """What decisions, tables and logs are made of: everything but weights and embeddings."""
    return not name.startswith("embeddings/") and name.rpartition("/")[2] not in (CHECKPOINT, STUDENT)


def is_shared(name: str) -> bool:
    """Whether a file belongs into the storage."""
    parts = name.split("/")
    if any(part.startswith((".", "mlflow.db")) or part in HERE_ONLY for part in parts):
        return False
    return parts[0] not in CACHES and not name.endswith(".part")


class MirrorLostError(OSError):
    """The mirror's folder was removed, or replaced, after it was opened."""


class Mirror:
    """The mirror of one address on this machine; any number of processes may work in it."""

    def __init__(self, storage: Storage, folder: Path) -> None:
        self.storage, self.folder = storage, folder
        self._own = folder / OWN_FOLDER
        self._mutex = threading.Lock()
        self._records: Records | None = None

    @property
    def address(self) -> str:
        return str(self.storage.address)

    def pull(self, prefix: str = "", *, wanted: Chosen = everything) -> list[str]:
        """Fetch what is new in the storage below a folder; returns the names of what was fetched.

        Raises:
            OSError: the storage does not answer.
        """
        known = self._known(prefix)
        listed = patiently(lambda: self.storage.list(prefix))
        found = {name: version for name, version in listed.items() if is_shared(name) and wanted(name)}
        gone = [name for name in known if name not in listed]
        for name in gone:
            if _last(name) == MARK:
                self._drop(name, known[name])
        # Passing files were taken away; of all others, nobody ever takes one out of the storage.
        lost = [name for name in gone if _last(name) not in PASSING]
        self._side_by_side(lambda name: self._forget_lost(name, known[name]), lost)
        new = [name for name, version in found.items() if self._is_new(name, version, known.get(name))]
        # Of a fold that somebody still writes, the journal then holds every step up to the checkpoint.
        first = [name for name in new if _last(name) == CHECKPOINT]
        last = [name for name in new if _last(name) == RESULT]
        others = [name for name in new if _last(name) not in (CHECKPOINT, RESULT)]
        for names in (first, others, last):
            self._side_by_side(lambda name: self._fetch(name, found[name], known.get(name)), names)
        return new

    def pull_file(self, name: str) -> bool:
        """Fetch one file if it is new in the storage; False where it is not there at all."""
        version = patiently(lambda: self.storage.look(name))
        if version is None:
            return False
        known = self._known(name).get(name)
        if self._is_new(name, version, known):
            with suppress(FileNotFoundError):
                self._fetch(name, version, known)
        return True

    def push(self, prefix: str = "", *, wanted: Chosen = everything) -> list[str]:
        """Send what has changed here below a folder; returns the names of what was sent.

        Raises:
            OSError: the storage does not take it.
        """
        return self.push_files(name for name in self._local(prefix) if wanted(name))

    def push_files(self, names: Iterable[str]) -> list[str]:
        """Send those of some files that have changed here, and take away the passing ones that are gone."""
        chosen = [name for name in dict.fromkeys(names) if is_shared(name)]
        known = self._known("") if len(chosen) > FEW else _joined(self._known(name) for name in chosen)
        changed = [name for name in chosen if _is_changed(known.get(name), self.folder / name)]
        damaged = {name for name in changed if _is_damaged(self.folder / name)}
        self._side_by_side(self._fetch_again, list(damaged))
        changed = [name for name in changed if name not in damaged]
        checkpoints = [name for name in changed if _last(name) == CHECKPOINT]
        # Opened first: a checkpoint that is replaced meanwhile stays as it was, and its journal is at least as far.
        with _pinned(self.folder, checkpoints) as pinned:
            self._side_by_side(self._send, [name for name in changed if _last(name) not in (CHECKPOINT, RESULT)])
            self._side_by_side(lambda name: self._send(name, pinned[name]), list(pinned))
        self._side_by_side(self._send, [name for name in changed if _last(name) == RESULT])
        gone = [name for name in chosen if _last(name) in PASSING and name in known]
        self._side_by_side(self._remove, [name for name in gone if not (self.folder / name).exists()])
        return changed

    def resume(self, prefix: str) -> None:
        """Make a fold's (or an Align stage's) folder here what it is in the storage, so that work continues from there.

        A journal or checkpoint that was never sent is left behind: all nodes go on from one place. What is finished
        here and was not sent yet stays, and is sent.
        """
        with self._locked(f"{prefix}/", kind="folders"):
            self._resume(prefix)

    def _resume(self, prefix: str) -> None:
        if (self.folder / prefix / RESULT).exists():
            self.push(prefix)
        self.pull(prefix)
        there = patiently(lambda: self.storage.list(prefix))
        if (self.folder / prefix / RESULT).exists():
            return
        known = self._known(prefix)
        for name in (f"{prefix}/{CHECKPOINT}", f"{prefix}/{JOURNAL}"):
            path, before = self.folder / name, known.get(name)
            if path.exists() and (before is None or before.here != _version_of(path) or name not in there):
                path.unlink()
                self._forget(name)
                self.pull_file(name)

    def name_of(self, path: Path) -> str:
        """A local file's name in the storage."""
        return path.relative_to(self.folder).as_posix()

    def _is_new(self, name: str, version: Version, known: KnownFile | None) -> bool:
        path = self.folder / name
        try:
            here = _version_of(path)
        except FileNotFoundError:
            return True
        if known is None or known.there != version:
            return True
        return known.racy if known.here == here else _is_damaged(path)

    def _fetch_again(self, name: str) -> None:
        """Fetch a file that lost its bytes here, if the storage has it."""
        version = patiently(lambda: self.storage.look(name))
        if version is not None:
            self._fetch(name, version, self._known(name).get(name))

    def _fetch(self, name: str, version: Version, known: KnownFile | None) -> None:
        path = self.folder / name
        with self._locked(name):
            if self._known(name).get(name) != known:
                # Another process of this machine has moved it meanwhile.
                return
            aside = path.with_name(f".{path.name}.fetched.part")
            try:
                patiently(lambda: self.storage.fetch(name, aside))
            except FileNotFoundError:
                return
            if _continues(path, aside, known):
                aside.unlink()
                self._keep(name, KnownFile(None, version))
                return
            aside.replace(path)
            racy = time.time_ns() - version.changed_ns < RACY_NS
            self._keep(name, KnownFile(_version_of(path), version, racy))

    def _send(self, name: str, file: IO[bytes] | None = None) -> None:
        path = self.folder / name
        with self._locked(name), _pinned(self.folder, [] if file else [name]) as pinned:
            file = file or pinned.get(name)
            if file is None:
                return
            here = _version_of(file)
            known = self._known(name).get(name)
            if known is not None and known.here == here:
                return
            opened = file

            def send() -> Version:
                opened.seek(0)
                return self.storage.send(name, opened, here.size)

            there = patiently(send)
            self._keep(name, KnownFile(here, there))
        if _last(name) in PASSING and not path.exists():
            self._remove(name)

    def _remove(self, name: str) -> None:
        with self._locked(name):
            if not (self.folder / name).exists():
                patiently(lambda: self.storage.remove(name))
                self._forget(name)

    def _drop(self, name: str, known: KnownFile) -> None:
        """Take away a file that is gone from the storage, and that nobody has changed here."""
        with self._locked(name):
            path = self.folder / name
            if self._known(name).get(name) == known and path.exists() and known.here == _version_of(path):
                path.unlink()
                self._forget(name)

    def _forget_lost(self, name: str, known: KnownFile) -> None:
        """Forget a file that the storage has lost: the next push sends it again."""
        with self._locked(name):
            if self._known(name).get(name) != known:
                # Another process of this machine has sent it meanwhile.
                return
            # A folder's listing may overlook what another node is just replacing.
            if patiently(lambda: self.storage.look(name)) is None:
                self._forget(name)

    def _local(self, prefix: str) -> Iterator[str]:
        top = self.folder / prefix
        if top.is_file():
            yield prefix
            return
        for folder, folders, files in os.walk(top):
            inside = Path(folder).relative_to(self.folder)
            folders[:] = [name for name in folders if is_shared((inside / name).as_posix())]
            for name in files:
                yield (inside / name).as_posix()
        # Passing files that are gone are looked at too.
        for name in self._known(prefix):
            if _last(name) in PASSING and not (self.folder / name).exists():
                yield name

    def _side_by_side(self, call: Callable[[str], None], names: Sequence[str]) -> None:
        """In threads even where there is one: a signal then never ends a transfer in the middle."""
        from concurrent.futures import ThreadPoolExecutor

        if not names:
            return
        with ThreadPoolExecutor(min(TRANSFERS, len(names)), thread_name_prefix="transfer") as pool:
            for _ in pool.map(call, names):
                pass

    @contextmanager
    def _locked(self, name: str, *, kind: str = "files") -> Iterator[None]:
        """One process of this machine moves a file at a time."""
        folder = self._own / "locks" / kind
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / hashlib.sha256(name.encode()).hexdigest()[:3], os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            # A process that was forked meanwhile (a loader of images) holds the descriptor too.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def _known(self, prefix: str) -> Mapping[str, KnownFile]:
        with self._opened() as records:
            return records.read(prefix)

    def _keep(self, name: str, known: KnownFile) -> None:
        with self._opened() as records:
            records.keep(name, known)

    def _forget(self, name: str) -> None:
        with self._opened() as records:
            records.forget(name)

    @contextmanager
    def _opened(self) -> Iterator[Records]:
        """The records, for one thread at a time; raises `OSError` where they cannot be used."""
        import sqlite3

        with self._mutex:
            try:
                yield self._existing()
            except sqlite3.Error as error:
                raise OSError(f"the records of the mirror {self.folder} cannot be used ({error}); remove it") from None

    def _existing(self) -> Records:
        if self._records is None:
            self._own.mkdir(parents=True, exist_ok=True)
            self._records = Records(self._own / "files.sqlite")
        if not self._records.are_there:
            # What this process wrote is gone or not whole any more: none of it may take the place of what was sent.
            raise MirrorLostError(f"the mirror {self.folder} was taken away while a process worked in it")
        return self._records


def open_mirror(address: str) -> Mirror:
    """The mirror of an address on this machine; raises `UserError` where either cannot be used."""
    storage, folder = open_storage(address), mirror_folder(address)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the mirror folder {folder} ({MIRRORS_VARIABLE}): {error.strerror}") from None
    return Mirror(storage, folder)


def _version_of(place: Path | IO[bytes]) -> Version:
    status = place.stat() if isinstance(place, Path) else os.fstat(place.fileno())
    return Version(status.st_size, status.st_mtime_ns)


def _is_changed(known: KnownFile | None, path: Path) -> bool:
    try:
        return known is None or known.here != _version_of(path)
    except FileNotFoundError:
        return False


def _is_damaged(path: Path) -> bool:
    """Whether a JSON file holds none: whoever writes one writes it whole, so its bytes were lost later."""
    if path.suffix != ".json":
        return False
    try:
        json.loads(path.read_bytes())
    except FileNotFoundError:
        return False
    except ValueError:
        return True
    return False


def _continues(path: Path, fetched: Path, known: KnownFile | None) -> bool:
    """Whether a file that lines are only ever added to continues what was fetched, and was not sent as it is."""
    if path.suffix != ".jsonl" or not path.exists() or (known is not None and known.here == _version_of(path)):
        return False
    return path.read_bytes().startswith(fetched.read_bytes())


def _joined(parts: Iterable[Mapping[str, KnownFile]]) -> dict[str, KnownFile]:
    return {name: known for part in parts for name, known in part.items()}


@contextmanager
def _pinned(folder: Path, names: Iterable[str]) -> Iterator[dict[str, IO[bytes]]]:
    """Files as they are now, by name; those that are gone are left out."""
    opened: dict[str, IO[bytes]] = {}
    try:
        for name in names:
            with suppress(FileNotFoundError):
                opened[name] = (folder / name).open("rb")
        yield opened
    finally:
        for file in opened.values():
            file.close()


def _last(name: str) -> str:
    return name.rpartition("/")[2]
