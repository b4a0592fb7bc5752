"""The files of one route: brought from the first origin that gives them, and discarded when they turn out to be wrong.

    WORK/downloads/     files and their .part; a file without .part is whole and checked
    WORK/unpacked/      one folder per archive; there once it is whole
    WORK/assembled/     what the steps make of them
    WORK/files.json     where each file came from, its size and SHA-256

An archive is kept until the benchmark is in place, so that what was made of it can be made again without asking.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search_spaces.errors import UserError
from trainables.data.acquire.archives import ArchiveError, is_archive, unpack_archive
from trainables.data.acquire.http_transport import MirrorError, Progress, quiet
from trainables.data.acquire.sources import RemoteFile
from trainables.data.acquire.transports import check_arrived, download
from trainables.storage.json_files import DamagedFileError, read_json, write_json

_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


class NoOriginError(Exception):
    """A file that no origin gives; names each with what it said."""


@dataclass(kw_only=True, slots=True)
class Arrivals:
    """What has arrived along one route, and who has been asked for it in this call."""

    work: Path
    max_bytes: int
    """Bytes that one archive may unpack to, and one Parquet file hold."""
    attempts: int = 5
    first_wait_s: float = 1.0
    own_files: Path | None = None
    """Folder with files that the user has already; they go before every mirror."""
    progress: Progress = quiet
    """Told the bytes of each file as they arrive."""
    stages: Progress = quiet
    """Told what is done with them."""
    _asked: dict[str, list[str]] = field(default_factory=dict)
    _said: dict[str, list[str]] = field(default_factory=dict)

    @property
    def assembled(self) -> Path:
        return self.work / "assembled"

    def facts(self) -> dict[str, Any]:
        """Origin, size and SHA-256 of each file that has arrived, by name; what is damaged is found out again."""
        try:
            found = read_json(self.work / "files.json") or {}
        except DamagedFileError:
            return {}
        return {name: fact for name, fact in found.items() if isinstance(fact, dict)}

    def obtain(self, file: RemoteFile) -> Path:
        """The file, or the folder it was unpacked into.

        Raises `NoOriginError` when nobody gives it, `UserError` when the disk is at fault.
        """
        arrived, unpacked = self.work / "downloads" / file.name, self.work / "unpacked" / file.name
        wanted = unpacked if is_archive(file.name) else arrived
        while not (wanted.exists() and file.name in self.facts()):
            arrived.parent.mkdir(parents=True, exist_ok=True)
            try:
                if not arrived.exists():
                    self._bring(file, arrived)
                elif file.name not in self.facts():
                    self._note(file, arrived, "an earlier run", check_arrived(file, arrived))
                if wanted == unpacked and not unpacked.exists():
                    self.stages(f"unpacking {file.name}", 0, None)
                    unpacked.parent.mkdir(parents=True, exist_ok=True)
                    unpack_archive(arrived, unpacked, max_bytes=self.max_bytes)
            except (ArchiveError, MirrorError) as error:
                self._let_go(file, str(error))
        return wanted

    def reject(self, files: Sequence[RemoteFile], at_fault: str, why: str) -> None:
        """Undo what was made of the files, and discard those at fault, so that other origins are asked for them.

        `at_fault` names a file; empty where nobody knows which it is: then it may be any whose checksum is not known.
        A file that has its known checksum is kept. Raises `NoOriginError` when there is nobody else to ask.
        """
        for made in (self.assembled, self.work / "unpacked"):
            shutil.rmtree(made, ignore_errors=True)
        for note in ("steps.json", "removing.json"):
            (self.work / note).unlink(missing_ok=True)
        suspects = [file for file in files if not file.has_checksum and at_fault in ("", file.name)]
        hopeful = [file for file in suspects if self._left(file)]
        earlier = [line for file in suspects for line in self._said.get(file.name, [])]
        for file in hopeful or suspects:
            self._let_go(file, why)
        if not hopeful:
            raise NoOriginError("; ".join([why, *earlier]))

    def _bring(self, file: RemoteFile, arrived: Path) -> None:
        for name, bring in self._left(file):
            self._asked.setdefault(file.name, []).append(name)
            try:
                digest = bring(arrived)
            except MirrorError as error:
                self._say(file, f"{name}: {error}")
                continue
            return self._note(file, arrived, name, digest)
        said = self._said.get(file.name, [])
        raise NoOriginError(f"{file.name}: {'; '.join(said) or 'no mirror is known'}")

    def _left(self, file: RemoteFile) -> list[tuple[str, Callable[[Path], str]]]:
        """The origins of a file that have not been asked in this call."""
        return [origin for origin in self._origins(file) if origin[0] not in self._asked.get(file.name, [])]

    def _origins(self, file: RemoteFile) -> Iterator[tuple[str, Callable[[Path], str]]]:
        """Everything that may give a file: its name, and how it brings the file and returns its SHA-256."""
        if self.own_files is not None and (own := self.own_files / file.name).is_file():
            yield f"own file {own}", lambda arrived: self._take_own(file, own, arrived)
        for mirror in file.mirrors:
            yield (
                str(mirror),
                lambda arrived, mirror=mirror: download(  # type: ignore[misc]
                    file,
                    mirror,
                    arrived,
                    attempts=self.attempts,
                    first_wait_s=self.first_wait_s,
                    progress=self.progress,
                    stages=self.stages,
                ),
            )

    def _take_own(self, file: RemoteFile, own: Path, arrived: Path) -> str:
        """Link (or copy) the user's file aside, check it, and put it in place."""
        # Not the `.part` of the transports, which they append to: it would be the user's own file.
        aside = arrived.with_name(f"{arrived.name}.own")
        self.stages(f"checking {file.name}", 0, None)
        try:
            aside.unlink(missing_ok=True)
            with own.open("rb"):
                _link_or_copy(own, aside)
            digest = check_arrived(file, aside)
            aside.replace(arrived)
        except OSError as error:
            if error.errno in _FULL_DISK:
                raise UserError(f"cannot copy {own} to {arrived.parent}: {error.strerror or error}") from None
            raise MirrorError(f"cannot be read: {error.strerror or error}") from None
        finally:
            aside.unlink(missing_ok=True)
        return digest

    def _note(self, file: RemoteFile, arrived: Path, origin: str, digest: str) -> None:
        fact = {"from": origin, "size": arrived.stat().st_size, "sha256": digest}
        write_json(self.work / "files.json", {**self.facts(), file.name: fact})

    def _let_go(self, file: RemoteFile, why: str) -> None:
        """Delete a file and what was unpacked of it, and remember what was wrong with it."""
        facts = self.facts()
        origin = facts.pop(file.name, {}).get("from", "an earlier run")
        self._say(file, f"{origin}: {why}")
        shutil.rmtree(self.work / "unpacked" / file.name, ignore_errors=True)
        (self.work / "downloads" / file.name).unlink(missing_ok=True)
        write_json(self.work / "files.json", facts)

    def _say(self, file: RemoteFile, line: str) -> None:
        said = self._said.setdefault(file.name, [])
        if line not in said:
            said.append(line)


def _link_or_copy(own: Path, aside: Path) -> None:
    try:
        os.link(own.resolve(), aside)
    except OSError:
        shutil.copyfile(own, aside)
