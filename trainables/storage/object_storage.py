"""Addresses of object storage, and whole files going there and back; pyarrow's file systems do the talking.

    s3://bucket/prefix?region=eu-west-1&endpoint_override=localhost:9000&scheme=http
    gs://bucket/prefix
    file:///mnt/disk/prefix          a shared disk, or a test

Credentials come from the environment and nowhere else: an address that carries some is refused, and no error repeats
any. An object appears whole or not at all: object stores show it when its upload ends, elsewhere it is written aside
and moved. Loads neither torch nor, before it is used, pyarrow.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from search_spaces.errors import UserError
from trainables.storage.atomic_files import aside_of
from trainables.storage.redaction import SECRET_NAMES, redact

T = TypeVar("T")

OPEN_TIMEOUT_S = 12.0
"""A storage that has not answered its first question by then is given up."""

CONNECT_TIMEOUT_S = 3.0
PIECE_BYTES = 8 * 2**20
ATTEMPTS = 6
"""Of one transfer, beside those that the file system makes itself; the waits between them add up to half a minute."""

OBJECT_STORES = frozenset({"s3", "gs"})
"""What shows an object only once its upload has ended, and knows no folders."""

OPTIONS = {
    "s3": ("region", "scheme", "endpoint_override"),
    "gs": ("scheme", "endpoint_override"),
}
"""What the query of an address may say, by scheme."""


NO_FILE = frozenset({"", ".", ".."})
"""Parts of a key that no file below a folder has."""


def is_address(text: object) -> bool:
    """Whether a place is an address, and not a local folder."""
    return "://" in str(text)


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """A place in an object storage, without any secret."""

    scheme: str
    path: str
    """`bucket/prefix`, or an absolute path for `file`."""
    options: tuple[tuple[str, str], ...] = ()
    anonymous: bool = False

    def __str__(self) -> str:
        user = "anonymous@" if self.anonymous else ""
        query = f"?{urlencode(self.options, safe=':/')}" if self.options else ""
        return f"{self.scheme}://{user}{quote(self.path)}{query}"

    @property
    def digest(self) -> str:
        """SHA-256 of what makes two addresses the same place: a region, or how one connects, does not."""
        endpoint = dict(self.options).get("endpoint_override", "")
        return sha256(f"{self.scheme}://{self.path}@{endpoint}".encode()).hexdigest()

    @property
    def bucket(self) -> str:
        return self.path.partition("/")[0]


def parse_address(text: str) -> Address:
    """Read an address; every spelling of a place gives an equal one.

    Raises:
        UserError: no bucket, an unknown option, or a password.
    """
    parts = urlsplit(text)
    scheme = {"gcs": "gs"}.get(parts.scheme.lower(), parts.scheme.lower())
    anonymous = scheme == "gs" and parts.username == "anonymous" and parts.password is None
    # Nothing of the address is repeated: where its secret begins and ends is not known for sure.
    secret = f"an address of {scheme}:// carries no user, password or key: credentials come from the environment"
    if "@" in text and not (anonymous and text.count("@") == 1):
        raise UserError(secret)
    query = parse_qsl(parts.query, keep_blank_values=True)
    allowed = OPTIONS.get(scheme, ())
    for name, _ in query:
        if SECRET_NAMES.search(name):
            raise UserError(secret)
        if name not in allowed:
            known = ", ".join(allowed) or "none"
            raise UserError(f"an address of {scheme}:// has no option {name!r}; it takes {known}")
    host = parts.hostname or ""
    inner = "/".join(part for part in unquote(parts.path).split("/") if part)
    if scheme == "file":
        if host or not inner:
            raise UserError(f"a file:// address is file:///FOLDER with an absolute path, got {text}")
        return Address(scheme=scheme, path=f"/{inner}")
    # urlsplit lowers a host; buckets are lower case, but an endpoint of one's own may know others.
    bucket = parts.netloc.rpartition("@")[2]
    if not bucket:
        raise UserError(f"an address names a bucket: {scheme}://BUCKET/PREFIX, got {text}")
    path = f"{bucket}/{inner}" if inner else bucket
    return Address(scheme=scheme, path=path, options=tuple(sorted(query)), anonymous=anonymous)


@dataclass(frozen=True, slots=True)
class Version:
    """What tells one state of an object from another."""

    size: int
    changed_ns: int
    """When it was written, by the storage's clock; S3's ticks once a second."""


class Storage:
    """The objects below one address, by names relative to it."""

    def __init__(self, address: Address, filesystem: Any) -> None:
        self.address, self._filesystem = address, filesystem

    def list(self, prefix: str = "") -> dict[str, Version]:
        """Every object below a folder; empty where there is no such folder.

        A key such as `a//b` or `../b` names no file below the folder, is none of ours, and is passed over.
        """
        from pyarrow import fs

        selector = fs.FileSelector(self._path(prefix), recursive=True, allow_not_found=True)
        start = len(self.address.path) + 1
        found = {
            info.path[start:]: _version(info)
            for info in self._filesystem.get_file_info(selector)
            if info.type == fs.FileType.File and not info.path.endswith(".part")
        }
        return {name: version for name, version in found.items() if not NO_FILE.intersection(name.split("/"))}

    def look(self, name: str) -> Version | None:
        """An object's version; None where there is none."""
        from pyarrow import fs

        info = self._filesystem.get_file_info(self._path(name))
        return _version(info) if info.type == fs.FileType.File else None

    def read(self, name: str) -> bytes | None:
        """An object's content; None where there is none."""
        try:
            with self._filesystem.open_input_stream(self._path(name)) as stream:
                content: bytes = stream.read()
        except FileNotFoundError:
            return None
        return content

    def write(self, name: str, content: bytes) -> Version:
        """Make an object, or replace it."""
        return self._write(name, [content], len(content))

    def fetch(self, name: str, path: Path) -> None:
        """Copy an object to a local file, which appears whole or not at all.

        Raises:
            FileNotFoundError: there is no such object.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = aside_of(path)
        try:
            with self._filesystem.open_input_stream(self._path(name)) as stream, aside.open("wb") as file:
                while piece := stream.read(PIECE_BYTES):
                    file.write(piece)
                file.flush()
                # What is known of the file would outlive its bytes if the machine lost its power.
                os.fsync(file.fileno())
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)

    def send(self, name: str, file: IO[bytes], size: int) -> Version:
        """Make an object of the next `size` bytes of an open file."""
        return self._write(name, _pieces(file, size), size)

    def remove(self, name: str) -> None:
        """Take an object away, if it is there."""
        try:
            self._filesystem.delete_file(self._path(name))
        except FileNotFoundError:
            return

    def _path(self, name: str) -> str:
        return f"{self.address.path}/{name}" if name else self.address.path

    def _write(self, name: str, pieces: Iterable[bytes], size: int) -> Version:
        path = self._path(name)
        if self.address.scheme in OBJECT_STORES:
            self._upload(path, pieces, size)
            place = path
        else:
            folder, _, last = path.rpartition("/")
            self._filesystem.create_dir(folder, recursive=True)
            place = f"{folder}/.{last}.{uuid.uuid4().hex}.part"
            self._upload(place, pieces, size)
            self._filesystem.move(place, path)
        found = self.look(name)
        if found is None:
            raise OSError(f"{name} is gone right after it was written to {self.address}")
        return found

    def _upload(self, path: str, pieces: Iterable[bytes], size: int) -> None:
        """Write an object; what did not arrive in full is taken away again."""
        sent = 0
        stream = self._filesystem.open_output_stream(path)
        try:
            for piece in pieces:
                stream.write(piece)
                sent += len(piece)
        finally:
            # pyarrow has no way to give an upload up.
            stream.close()
            if sent != size:
                self._filesystem.delete_file(path)
        if sent != size:
            raise OSError(f"{path} was cut short while it was sent")


def open_storage(text: str) -> Storage:
    """Open an address, and ask it one question, so that a mistake shows before anything expensive.

    Raises:
        UserError: nobody answers there, there is no such bucket, or the credentials do not permit it; one line.
    """
    address = parse_address(text)
    try:
        storage = _within(OPEN_TIMEOUT_S, lambda: _opened(address))
    except TimeoutError:
        raise UserError(f"{address} does not answer within {OPEN_TIMEOUT_S:.0f} s; check its endpoint") from None
    except FileNotFoundError:
        raise UserError(f"{address}: there is no bucket {address.bucket!r}; make it first") from None
    except Exception as error:
        raise UserError(f"{address} cannot be used: {reason(error)}") from None
    return storage


def patiently(call: Callable[[], T]) -> T:
    """Call, and again after a while where the storage did not take it; a missing object is no reason to wait."""
    for attempt in range(ATTEMPTS):
        try:
            return call()
        except FileNotFoundError:
            raise
        except OSError:
            if attempt == ATTEMPTS - 1:
                raise
            time.sleep(2.0**attempt)
    raise AssertionError("the last attempt returns or raises")


def reason(error: BaseException) -> str:
    """Why a storage did not do what it was asked: one line, without a secret."""
    text = redact(" ".join(str(error).split()) or type(error).__name__)
    if any(word in text for word in ("ACCESS_DENIED", "INVALID_ACCESS_KEY", "SIGNATURE_DOES_NOT", "HTTP status 403")):
        return "access is denied; check the credentials in the environment (for S3: AWS_ACCESS_KEY_ID and its secret)"
    if "NETWORK_CONNECTION" in text or "Could not connect" in text:
        details = text.rpartition("Details: ")[2][:120]
        return f"nobody answers ({details})"
    if "Unrecognized filesystem" in text:
        return "there is no such kind of address; s3://, gs:// and file:// are known"
    return text[:300]


def _opened(address: Address) -> Storage:
    from pyarrow import fs

    storage = Storage(address, _filesystem(address))
    if address.scheme in OBJECT_STORES:
        found = _filesystem(address, first=True).get_file_info(address.bucket)
        if found.type == fs.FileType.NotFound:
            raise FileNotFoundError(address.bucket)
    return storage


def _filesystem(address: Address, *, first: bool = False) -> Any:
    """The file system that talks to it; the `first` question is given up sooner than later ones."""
    from pyarrow import fs

    options = dict(address.options)
    if address.scheme == "s3":
        return fs.S3FileSystem(
            **options,
            connect_timeout=CONNECT_TIMEOUT_S,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=2 if first else 8),
        )
    if address.scheme == "gs":
        limit = timedelta(seconds=8 if first else 60)
        return fs.GcsFileSystem(anonymous=address.anonymous, retry_time_limit=limit, **options)
    if address.scheme == "file":
        return fs.LocalFileSystem()
    return fs.FileSystem.from_uri(str(address))[0]


def _within(seconds: float, call: Callable[[], T]) -> T:
    """The call's answer, or its error; raises `TimeoutError` where it takes longer."""
    answers: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            answers.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="first question", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not answers:
        raise TimeoutError
    return answers[0]


def _version(info: Any) -> Version:
    return Version(int(info.size), int(info.mtime_ns or 0))


def _pieces(file: IO[bytes], size: int) -> Iterator[bytes]:
    left = size
    while left > 0 and (piece := file.read(min(PIECE_BYTES, left))):
        left -= len(piece)
        yield piece
