"""What a teacher was asked, on disk. Loads without torch.

    FOLDER/SCOPE--WRITER.jsonl   one writer's running totals, append-only; the last whole line counts
    FOLDER/.lock                 held for a moment by who must know the sum before asking (a budget)

Every writer (a process) has a file of its own, so nothing is lost to two writers or to kill -9. A query is *reserved*
before it is asked and *settled* once it is answered: the budget counts reservations, reports count settled queries, and
the difference of a killed process is shown as unconfirmed. The budget's lock is `flock`, which local disks and NFS 4
have.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from search_spaces.errors import UserError
from trainables.storage.atomic_files import aside_of

SEPARATOR = "--"
TAIL_BYTES = 4096
Pair = tuple[int, int]


class BudgetReached(Exception):
    """The next query would cross the budget; it was not asked. The command line ends with exit code 4."""

    def __init__(self, *, budget: int, asked: int, wanted: int) -> None:
        super().__init__(
            f"the query budget of {budget:,} is reached: {asked:,} asked, {wanted:,} more wanted; raise --query-budget "
            "and run the same command again"
        )
        self.budget, self.asked, self.wanted = budget, asked, wanted

    def __reduce__(self) -> tuple[object, ...]:
        return _budget_reached, (self.budget, self.asked, self.wanted)


def _budget_reached(budget: int, asked: int, wanted: int) -> BudgetReached:
    return BudgetReached(budget=budget, asked=asked, wanted=wanted)


@dataclass(frozen=True, kw_only=True, slots=True)
class QueryCounts:
    """Totals of one fold, one sweep or everything."""

    images: int = 0
    """Image queries answered: one per image of a batch, repeated images included."""
    texts: int = 0
    """Text queries answered: one per prompt."""
    unique_images: int = 0
    """Different images among them, where the caller named its images."""
    unique_views: int = 0
    """Different (image, view) pairs among them, where the caller named its views."""
    bytes_sent: int = 0
    """Bytes of images and prompts handed to the teacher."""
    calls: int = 0
    """Batches answered."""
    unconfirmed: int = 0
    """Queries reserved and not settled: under way now, or lost with a killed process, which may have asked them."""

    @property
    def queries(self) -> int:
        """Image and text queries together: what a budget counts and a vendor bills."""
        return self.images + self.texts

    def price(self, per_1000: float) -> float:
        """Cost of the answered queries at a price per thousand."""
        return self.queries / 1000.0 * per_1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Reservation:
    """Leave to ask: settle it with the answer, or release it when nothing was asked."""

    images: int = 0
    texts: int = 0
    bytes_sent: int = 0
    image_ids: tuple[int, ...] = ()
    views: tuple[Pair, ...] = ()
    """(image id, view) pairs."""

    @property
    def queries(self) -> int:
        return self.images + self.texts


@dataclass(slots=True)
class _Totals:
    reserved: int = 0
    settled: int = 0
    images: int = 0
    texts: int = 0
    bytes_sent: int = 0
    calls: int = 0


@dataclass(slots=True)
class _Seen:
    images: set[int] = field(default_factory=set)
    views: set[Pair] = field(default_factory=set)


class QueryLedger:
    """One writer's account of what it asks, within a budget that all writers of the folder share.

    `scope` names what the queries are for (a fold's key); `budget` is the most queries, images and texts together, that
    all writers may ever reserve.
    """

    def __init__(self, folder: Path, scope: str, *, budget: int | None = None) -> None:
        if SEPARATOR in scope or "/" in scope or not scope:
            raise ValueError(f"a scope is a plain name without {SEPARATOR!r} and '/', got {scope!r}")
        if budget is not None and budget < 0:
            raise UserError(f"the query budget is 0 or more, got {budget}")
        self.folder, self.scope, self.budget = folder, scope, budget
        self.path = folder / f"{scope}{SEPARATOR}{os.getpid()}-{uuid.uuid4().hex}.jsonl"
        self._totals, self._seen = _Totals(), _Seen()
        self._mutex = threading.Lock()
        self._others: dict[str, tuple[tuple[int, int], int]] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def reserve(self, reservation: Reservation) -> Reservation:
        """Write down that these queries are about to be asked.

        Raises:
            BudgetReached: they would cross the budget; nothing is written.
        """
        with self._mutex:
            if self.budget is None:
                self._totals.reserved += reservation.queries
                self._append()
                return reservation
            with _locked(self.folder):
                asked = self._reserved_by_others() + self._totals.reserved
                if asked + reservation.queries > self.budget:
                    raise BudgetReached(budget=self.budget, asked=asked, wanted=reservation.queries)
                self._totals.reserved += reservation.queries
                self._append()
        return reservation

    def settle(self, reservation: Reservation) -> None:
        """Write down that the reserved queries were answered."""
        with self._mutex:
            totals, seen = self._totals, self._seen
            totals.settled += reservation.queries
            totals.images += reservation.images
            totals.texts += reservation.texts
            totals.bytes_sent += reservation.bytes_sent
            totals.calls += 1
            new_images = sorted(set(reservation.image_ids) - seen.images)
            new_views = sorted(set(reservation.views) - seen.views)
            seen.images.update(new_images)
            seen.views.update(new_views)
            self._append(new_images=new_images, new_views=new_views)

    def release(self, reservation: Reservation) -> None:
        """Write down that the reserved queries were never asked."""
        with self._mutex:
            self._totals.reserved -= reservation.queries
            self._append()

    def counts(self) -> QueryCounts:
        """What this writer asked so far."""
        return _counts([self.path])

    def close(self) -> None:
        """Shrink the file to its last line; the ledger may go on afterwards."""
        with self._mutex:
            if not self.path.exists():
                return
            aside = aside_of(self.path)
            images, views = sorted(self._seen.images), sorted(self._seen.views)
            aside.write_bytes(_line(self._totals, {"new_images": images, "new_views": views}))
            aside.replace(self.path)

    def _append(self, **extra: Sequence[object]) -> None:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, _line(self._totals, {name: value for name, value in extra.items() if value}))
        finally:
            os.close(descriptor)

    def _reserved_by_others(self) -> int:
        """Sum over the other writers' files; a file that did not change is not read again."""
        total = 0
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if not entry.name.endswith(".jsonl") or entry.name.startswith(".") or entry.name == self.path.name:
                    continue
                status = entry.stat()
                version = (status.st_size, status.st_mtime_ns)
                known = self._others.get(entry.name)
                if known is None or known[0] != version:
                    known = (version, _last_totals(Path(entry.path)).reserved)
                    self._others[entry.name] = known
                total += known[1]
        return total


def query_counts(folder: Path, scopes: Iterable[str] | None = None) -> QueryCounts:
    """Totals over all writers: of everything, or of some scopes (a sweep's folds). Zero where there is no folder."""
    return _counts(_files(folder, scopes))


def reserved_queries(folder: Path) -> int:
    """Queries that all writers of a folder reserved so far: what a budget counts."""
    return sum(_last_totals(file).reserved for file in _files(folder))


def query_counts_by_scope(folder: Path) -> dict[str, QueryCounts]:
    """Totals of every scope, by name."""
    files: dict[str, list[Path]] = {}
    for file in _files(folder):
        files.setdefault(file.name.partition(SEPARATOR)[0], []).append(file)
    return {scope: _counts(paths) for scope, paths in files.items()}


def _files(folder: Path, scopes: Iterable[str] | None = None) -> list[Path]:
    """Every writer's file, or those of some scopes, by name. There may be many thousands, and every fold asks."""
    if not folder.is_dir():
        return []
    names = (name for name in os.listdir(folder) if SEPARATOR in name and name.endswith(".jsonl"))
    if scopes is not None:
        wanted = set(scopes)
        names = (name for name in names if name.partition(SEPARATOR)[0] in wanted)
    return [folder / name for name in sorted(names)]


def _counts(files: Iterable[Path]) -> QueryCounts:
    total, seen, unconfirmed = _Totals(), _Seen(), 0
    for file in files:
        last = _Totals()
        for totals, new in _read(file):
            last = totals
            seen.images.update(new.images)
            seen.views.update(new.views)
        for name, value in asdict(last).items():
            setattr(total, name, getattr(total, name) + value)
        unconfirmed += last.reserved - last.settled
    return QueryCounts(
        images=total.images,
        texts=total.texts,
        unique_images=len(seen.images),
        unique_views=len(seen.views),
        bytes_sent=total.bytes_sent,
        calls=total.calls,
        unconfirmed=unconfirmed,
    )


def _line(totals: _Totals, extra: Mapping[str, Sequence[object]]) -> bytes:
    return (json.dumps(asdict(totals) | dict(extra), separators=(",", ":")) + "\n").encode()


def _read(file: Path) -> Iterator[tuple[_Totals, _Seen]]:
    """Every whole line; a torn one (a full disk, a crash) is left out."""
    try:
        lines = file.read_bytes().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        if (parsed := _parse(line)) is not None:
            yield parsed


def _parse(line: bytes) -> tuple[_Totals, _Seen] | None:
    try:
        content = json.loads(line)
        images = set(content.pop("new_images", ()))
        views = {(image, view) for image, view in content.pop("new_views", ())}
        return _Totals(**content), _Seen(images, views)
    except (ValueError, TypeError, AttributeError):
        return None


def _last_totals(file: Path) -> _Totals:
    """The last whole line, read from the end of the file."""
    with file.open("rb") as stream:
        size, window = stream.seek(0, os.SEEK_END), TAIL_BYTES
        while True:
            start = max(0, size - window)
            stream.seek(start)
            lines = stream.read(size - start).split(b"\n")
            # The first piece of a window may be the end of a line.
            for line in reversed(lines if start == 0 else lines[1:]):
                if (parsed := _parse(line)) is not None:
                    return parsed[0]
            if start == 0:
                return _Totals()
            window *= 8


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
