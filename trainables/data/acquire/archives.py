"""Unpack an archive that nobody vouches for: only plain files and folders, only below the target, only so much.

The target folder appears whole or not at all.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from search_spaces.errors import UserError


class ArchiveError(UserError):
    """The archive itself is at fault (and not the disk): another copy may be better."""


ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_MEMBERS = 2_000_000
MAX_HEADER_BYTES = 2**20
"""Names and notes of one member of a tar file; real ones have some hundred."""
CHUNK_BYTES = 2**20
_COMPRESSIONS: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
"""By the first bytes of a file."""
_IGNORED = ("__MACOSX/",)


def is_archive(name: str) -> bool:
    """Whether a file of this name is unpacked."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def unpack(archive: Path, target: Path, *, max_bytes: int) -> None:
    """Unpack `archive` into the new folder `target`.

    Raises `UserError` for a name that leads outside or is not UTF-8, a link or device, more than `max_bytes` (declared
    or real), a tar header of more than a MiB, a truncated or damaged archive, and a full disk.
    """
    aside = target.with_name(f".{target.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    budget = Budget(archive.name, max_bytes)
    try:
        with _named_faults(archive):
            aside.mkdir(parents=True)
            if archive.name.lower().endswith(".zip"):
                _unpack_zip(archive, aside, budget)
            else:
                _unpack_tar(archive, aside, budget)
            aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


class Budget:
    """Bytes and members that may still come out of an archive; what it declares is not taken at its word."""

    def __init__(self, archive: str, max_bytes: int) -> None:
        self.archive = archive
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self.declared_bytes = 0
        self.members = 0

    def declare(self, size: int) -> None:
        """Count a member that says how large it is; raises `ArchiveError` above the limit."""
        self.members += 1
        self.declared_bytes += size
        if self.declared_bytes > self.max_bytes or self.members > MAX_MEMBERS:
            raise self._bomb("declares")

    def use(self, size: int) -> None:
        """Count bytes that came out; raises `ArchiveError` above the limit."""
        self.used_bytes += size
        if self.used_bytes > self.max_bytes:
            raise self._bomb("unpacks to")

    def _bomb(self, verb: str) -> ArchiveError:
        return ArchiveError(
            f"{self.archive} {verb} more than {self.max_bytes:,} bytes or {MAX_MEMBERS:,} files: not unpacked"
        )


def _unpack_zip(archive: Path, folder: Path, budget: Budget) -> None:
    with zipfile.ZipFile(archive) as opened:
        members = opened.infolist()
        for member in members:
            budget.declare(member.file_size)
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise ArchiveError(f"{archive.name} has a link or device: {member.filename!r}; not unpacked")
            _place(folder, member.filename, archive)
        for member in members:
            place = _place(folder, member.filename, archive)
            if member.filename.startswith(_IGNORED):
                continue
            if member.is_dir():
                place.mkdir(parents=True, exist_ok=True)
                continue
            with opened.open(member) as content:
                _write(content, place, budget)


def _unpack_tar(archive: Path, folder: Path, budget: Budget) -> None:
    with _decompressed(archive) as stream, tarfile.open(fileobj=stream, mode="r:") as opened:
        while (member := _next_member(opened, stream)) is not None:
            place = _place(folder, member.name, archive)
            if not (member.isreg() or member.isdir()):
                raise ArchiveError(f"{archive.name} has a link or device: {member.name!r}; not unpacked")
            budget.declare(member.size)
            if member.isdir():
                place.mkdir(parents=True, exist_ok=True)
                continue
            content = opened.extractfile(member)
            assert content is not None
            with content:
                if _write(content, place, budget) != member.size:
                    raise ArchiveError(f"{archive.name} is truncated or damaged: {member.name!r} is cut short")


class _TarStream(io.RawIOBase):
    """The bytes of a tar file, of which only so many may be read while a header is awaited.

    `tarfile` reads an extended header into memory at once, however large it says it is.
    """

    def __init__(self, archive: Path, content: IO[bytes]) -> None:
        self.archive = archive
        self.content = content
        self.header_bytes_left: int | None = MAX_HEADER_BYTES
        """None while a member's content is read."""

    def read(self, size: int = -1) -> bytes:
        if self.header_bytes_left is not None:
            if size < 0 or size > self.header_bytes_left:
                raise ArchiveError(
                    f"{self.archive.name} has a header of more than {MAX_HEADER_BYTES:,} bytes: not unpacked"
                )
            self.header_bytes_left -= size
        return self.content.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self.content.seek(offset, whence)

    def tell(self) -> int:
        return self.content.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


@contextmanager
def _decompressed(archive: Path) -> Iterator[_TarStream]:
    with archive.open("rb") as file:
        start = file.read(6)
    reader = next((reader for magic, reader in _COMPRESSIONS.items() if start.startswith(magic)), open)
    with reader(archive, "rb") as content:
        yield _TarStream(archive, content)


def _next_member(opened: tarfile.TarFile, stream: _TarStream) -> tarfile.TarInfo | None:
    stream.header_bytes_left = MAX_HEADER_BYTES
    member = opened.next()
    stream.header_bytes_left = None
    return member


def _place(folder: Path, name: str, archive: Path) -> Path:
    path = PurePosixPath(name)
    is_drive = len(name) > 1 and name[1] == ":"
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or is_drive:
        raise ArchiveError(f"{archive.name} has a name that leads outside: {name!r}; not unpacked")
    return folder / path


def _write(content: IO[bytes], place: Path, budget: Budget) -> int:
    place.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    with place.open("xb") as stream:
        while chunk := content.read(CHUNK_BYTES):
            budget.use(len(chunk))
            stream.write(chunk)
            size += len(chunk)
    return size


@contextmanager
def _named_faults(archive: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError as error:
        raise ArchiveError(f"{archive.name} has the same file twice: {os.path.basename(str(error.filename))}") from None
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, lzma.LZMAError) as error:
        raise ArchiveError(
            f"{archive.name} is truncated or damaged: {' '.join(str(error).split()) or 'cut short'}"
        ) from None
    except UnicodeDecodeError:
        raise ArchiveError(
            f"{archive.name} has a file name that is not UTF-8, though it says so: not unpacked"
        ) from None
    except (RuntimeError, NotImplementedError) as error:
        raise ArchiveError(f"{archive.name} cannot be unpacked: {' '.join(str(error).split())}") from None
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise ArchiveError(f"{archive.name} is truncated or damaged: {' '.join(str(error).split())}") from None
        raise UserError(f"cannot unpack {archive.name}: {error.strerror or error}") from None
