"""Unpack an archive that nobody vouches for: only plain files and folders, only below the target, only so much.

The target folder appears whole or not at all.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from search_spaces.errors import UserError


class ArchiveError(UserError):
    """The archive itself is at fault (and not the disk): another copy may be better."""


ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_MEMBERS = 2_000_000
MAX_DEPTH = 64
"""Folders inside each other; real archives have five."""
MAX_HEADER_BYTES = 2**20
"""Names and notes of one member of a tar file; real ones have some hundred."""
CHUNK_BYTES = 2**20
_COMPRESSIONS: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
"""By the first bytes of a file."""
_IGNORED = ("__MACOSX/",)
_NAME_FAULTS = frozenset(
    {
        *(errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP),
        *(errno.ENOTEMPTY, errno.EOVERFLOW),
    }
)
"""What the system says of a name that it does not take, and of a place in a file that there is not."""


def is_archive(name: str) -> bool:
    """Whether a file of this name is unpacked."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def unpack_archive(archive: Path, target: Path, *, max_bytes: int) -> None:
    """Unpack `archive` into the new folder `target`.

    Raises `ArchiveError` for a name that leads outside, is not UTF-8 or cannot be written, a link, device or sparse
    file, more than `max_bytes` (declared or real), a tar header of more than a MiB, a truncated or damaged archive, and
    whatever else its readers stumble over; `UserError` for a disk that is full or cannot be written.
    """
    aside = target.with_name(f".{target.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    budget = Budget(archive.name, max_bytes)
    try:
        aside.mkdir(parents=True)
        with _faults_of(archive):
            if archive.name.lower().endswith(".zip"):
                _unpack_zip(archive, aside, budget)
            else:
                _unpack_tar(archive, aside, budget)
        aside.rename(target)
    except OSError as error:
        raise UserError(f"cannot unpack {archive.name}: {error.strerror or error}") from None
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
                raise ArchiveError(f"{archive.name} has a link or device: {_cut(member.filename)}; not unpacked")
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
            if not (member.isreg() or member.isdir()) or member.issparse():
                raise ArchiveError(f"{archive.name} has a link or device: {_cut(member.name)}; not unpacked")
            budget.declare(member.size)
            if member.isdir():
                place.mkdir(parents=True, exist_ok=True)
                continue
            content = opened.extractfile(member)
            assert content is not None
            with content:
                if _write(content, place, budget) != member.size:
                    raise ArchiveError(f"{archive.name} is truncated or damaged: {_cut(member.name)} is cut short")


class _TarStream(io.RawIOBase):
    """The bytes of a tar file, of which only so many may be read while a header is awaited.

    `tarfile` reads an extended header into memory at once, however large it says it is.
    """

    def __init__(self, archive: Path, content: IO[bytes]) -> None:
        self.archive = archive
        self.content = content
        self.header_bytes_left: int | None = MAX_HEADER_BYTES
        """None while a member's content is read."""
        self.last = b""
        """What was read last."""

    def read(self, size: int = -1) -> bytes:
        if self.header_bytes_left is not None:
            if size < 0 or size > self.header_bytes_left:
                raise ArchiveError(
                    f"{self.archive.name} has a header of more than {MAX_HEADER_BYTES:,} bytes: not unpacked"
                )
            self.header_bytes_left -= size
        self.last = self.content.read(size)
        return self.last

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
    # It keeps every member, which are millions.
    opened.members.clear()  # type: ignore[attr-defined]
    if member is None and stream.last.strip(b"\0"):
        # For `tarfile` a damaged header is the end of the archive; that is made of zeros.
        raise ArchiveError(f"{stream.archive.name} is truncated or damaged: a header in its middle is none")
    return member


def _place(folder: Path, name: str, archive: Path) -> Path:
    path = PurePosixPath(name)
    is_drive = len(name) > 1 and name[1] == ":"
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or is_drive:
        raise ArchiveError(f"{archive.name} has a name that leads outside: {_cut(name)}; not unpacked")
    if len(path.parts) > MAX_DEPTH:
        raise ArchiveError(f"{archive.name} has folders more than {MAX_DEPTH} deep: {_cut(name)}; not unpacked")
    # One that is not UTF-8 cannot be encoded again.
    name.encode()
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
def _faults_of(archive: Path) -> Iterator[None]:
    """Whatever goes wrong in here is the archive's fault, unless the disk says that it is its own."""
    try:
        yield
    except UserError:
        raise
    except FileExistsError as error:
        raise ArchiveError(f"{archive.name} has the same file twice: {_cut(_last_part(error))}") from None
    except UnicodeError:
        raise ArchiveError(f"{archive.name} has a file name that is not UTF-8: not unpacked") from None
    except (RuntimeError, NotImplementedError) as error:
        raise ArchiveError(f"{archive.name} cannot be unpacked: {' '.join(str(error).split())}") from None
    except OSError as error:
        if is_disk_fault(error):
            raise
        if error.filename is not None:
            said = f"{_cut(_last_part(error))}: {error.strerror}"
            raise ArchiveError(f"{archive.name} has a name that cannot be written: {said}") from None
        raise _damaged(archive, error) from None
    except Exception as error:
        # The readers of zip, tar and compressed bytes check little: any error may come out of a malformed one.
        raise _damaged(archive, error) from None


def is_disk_fault(error: OSError) -> bool:
    """Whether the disk is at fault; else it is a name that it does not take, or a library's word for damaged bytes."""
    return error.errno is not None and error.errno not in _NAME_FAULTS


def _damaged(archive: Path, error: Exception) -> ArchiveError:
    said = " ".join(str(error).split())[:200] or "cut short"
    return ArchiveError(f"{archive.name} is truncated or damaged: {said}")


def _last_part(error: OSError) -> str:
    return os.path.basename(str(error.filename))


def _cut(name: str) -> str:
    return repr(name) if len(name) <= 100 else f"{name[:100]!r}..."
