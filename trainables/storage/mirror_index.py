"""What is known of a mirror's files: a small database that any number of processes of one machine may write."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from trainables.storage.object_storage import Version


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A file when it was last moved."""

    here: Version | None
    """None where what lies here was never sent as it is."""
    there: Version
    racy: bool = False
    """It was fetched so soon after it was written that a later version may look the same."""


class Records:
    """What is known of each file, in a small database that any number of processes of one machine may write."""

    def __init__(self, file: Path) -> None:
        import sqlite3

        self._file = file
        self._connection = sqlite3.connect(file, timeout=60.0, isolation_level=None, check_same_thread=False)
        for line in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=NORMAL", _TABLE):
            self._connection.execute(line)
        self._inode = file.stat().st_ino

    @property
    def are_there(self) -> bool:
        """Whether the database is still the one that was opened."""
        try:
            return self._file.stat().st_ino == self._inode
        except FileNotFoundError:
            return False

    def read(self, prefix: str) -> dict[str, KnownFile]:
        """The file, and the files below the folder, of this name."""
        where, values = ("", ()) if not prefix else ("WHERE name = ? OR name BETWEEN ? AND ?", _between(prefix))
        with closing(self._connection.execute(f"SELECT * FROM files {where}", values)) as rows:
            return {name: _known(*row) for name, *row in rows}

    def keep(self, name: str, known: KnownFile) -> None:
        here = (None, None) if known.here is None else (known.here.size, known.here.changed_ns)
        there = (known.there.size, known.there.changed_ns)
        self._connection.execute("REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)", (name, *here, *there, known.racy))

    def forget(self, name: str) -> None:
        self._connection.execute("DELETE FROM files WHERE name = ?", (name,))


_TABLE = (
    "CREATE TABLE IF NOT EXISTS files "
    "(name TEXT PRIMARY KEY, size INTEGER, changed INTEGER, size_there INTEGER, changed_there INTEGER, racy INTEGER)"
)


def _between(prefix: str) -> tuple[str, str, str]:
    # "0" follows "/" in ASCII.
    return prefix, f"{prefix}/", f"{prefix}0"


def _known(size: int | None, changed: int | None, size_there: int, changed_there: int, racy: int) -> KnownFile:
    here = None if size is None or changed is None else Version(size, changed)
    return KnownFile(here, Version(size_there, changed_there), bool(racy))
