"""Bring one file from one mirror to disk: resumed where it stopped, checked, and in place only when it is whole."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from search_spaces.errors import UserError
from trainables.data.acquire.http_transport import (
    TIMEOUT_S,
    MirrorError,
    Progress,
    TemporaryError,
    UnreachableError,
    check_status,
    connection_fault,
    fetch_http,
    fetch_url,
    part_of,
    quiet,
    resume_point,
    state_of,
    unreachable,
    words,
    write_state,
)
from trainables.data.acquire.sources import DataMirror, RemoteFile

_BUCKET_STATUS = re.compile(r"HTTP status (\d+)")
_DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT)
MAX_WAIT_S = 60.0
UNREACHABLE_ATTEMPTS = 2
"""Times that a host which never answered is asked."""
OWN_RETRIES_S = 1
"""Seconds that Google's client may try again by itself, which by default is a quarter of an hour."""


def download(
    file: RemoteFile,
    mirror: DataMirror,
    destination: Path,
    *,
    attempts: int = 5,
    first_wait_s: float = 1.0,
    progress: Progress = quiet,
    stages: Progress = quiet,
) -> str:
    """Bring `file` to `destination` and return its SHA-256.

    Raises `MirrorError` when this mirror cannot give it, `UserError` on a full disk.

    What has arrived stays beside it as `.part`, and a later call asks only for the rest. A mirror is given up after
    `attempts` failures without a new byte in between. A host that cannot be reached is given up after one quick retry,
    unless it had answered in this call: then it is an outage that may pass.
    """
    answered, failures, most = False, 0, _bytes_here(destination)
    while True:
        try:
            with _faults_of_disk_or_mirror(destination):
                arrived = _TRANSPORTS[mirror.transport](file, mirror, destination, progress)
                stages(f"checking {file.name}", 0, None)
                digest = check_arrived(file, arrived)
                arrived.replace(destination)
                state_of(arrived).unlink(missing_ok=True)
            return digest
        except TemporaryError as error:
            answered = answered or not isinstance(error, UnreachableError)
            have = _bytes_here(destination)
            failures = 0 if have > most else failures + 1
            most = max(most, have)
            if failures >= (attempts if answered else min(attempts, UNREACHABLE_ATTEMPTS)):
                raise MirrorError(f"{error} ({failures} attempts)") from None
            wait = first_wait_s * 2 ** max(0, failures - 1) if error.retry_after_s is None else error.retry_after_s
            time.sleep(min(wait, MAX_WAIT_S))


def _bytes_here(destination: Path) -> int:
    """Bytes of a file that have arrived so far, by whatever name its transport keeps them."""
    beside = [path for path in destination.parent.iterdir() if path.name.startswith(f"{destination.name}.")]
    return sum(path.stat().st_size for path in beside if path.suffix != ".json")


def check_arrived(file: RemoteFile, path: Path) -> str:
    """Check size, checksum and kind of a file and return its SHA-256.

    A wrong one is deleted, and `MirrorError` says what it is.
    """
    size, found = path.stat().st_size, ""
    with path.open("rb") as stream:
        head = stream.read(512).lstrip().lower()
    problem = ""
    if head.startswith((b"<!doctype html", b"<html")):
        problem = "sent a web page instead of the file (a quota or log-in page)"
    elif file.size is not None and size != file.size:
        problem = f"sent {size:,} bytes instead of {file.size:,}"
    elif size == 0:
        problem = "sent an empty file"
    else:
        found = digest_of(path, "sha256")
        problem = _wrong("SHA-256", found, file.sha256)
        if file.md5 is not None and not problem:
            problem = _wrong("MD5", digest_of(path, "md5"), file.md5)
    if problem:
        path.unlink()
        state_of(path).unlink(missing_ok=True)
        raise MirrorError(problem)
    return found


def digest_of(path: Path, algorithm: str) -> str:
    """A file's digest, in hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def _wrong(kind: str, found: str, wanted: str | None) -> str:
    return "" if wanted in (None, found) else f"wrong checksum: {kind} {found[:16]}... instead of {wanted[:16]}..."


@contextmanager
def _faults_of_disk_or_mirror(destination: Path) -> Iterator[None]:
    try:
        yield
    except (UserError, MirrorError):
        raise
    except OSError as error:
        if error.errno not in _DISK_FAULTS:
            raise connection_fault(error) from None
        raise UserError(
            f"cannot write {destination}: {error.strerror or error}; what has arrived is kept, run the same again"
        ) from None
    except Exception as error:
        # Answers are of any kind, and so are the errors of the libraries that read them.
        raise MirrorError(f"answered what cannot be understood: {words(error)}") from None


def _fetch_google_drive(file: RemoteFile, mirror: DataMirror, destination: Path, progress: Progress) -> Path:
    import gdown
    import requests
    from gdown.exceptions import DownloadError, FileURLRetrievalError

    arrived = destination.with_name(f"{destination.name}.drive")
    if not _holds(arrived, mirror):
        # gdown continues whatever partial file lies there. (It cannot tell whether the file has changed since; the
        # checksum, or the archive's own, then does.)
        for other in destination.parent.glob(f"{glob.escape(arrived.name)}*"):
            other.unlink()
        write_state(arrived, mirror, "", None)
    if arrived.exists():
        return arrived
    is_url = "://" in mirror.address
    try:
        gdown.download(
            url=mirror.address if is_url else None,
            id=None if is_url else mirror.address,
            output=str(arrived),
            quiet=True,
            resume=True,
            use_cookies=False,
            timeout=TIMEOUT_S,
            progress=lambda have, total: progress(file.name, have, total),
        )
    except FileURLRetrievalError as error:
        raise MirrorError(f"Google Drive gives no file: {words(error)}") from None
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else 500
        check_status(status, error.response.headers.get("retry-after") if error.response is not None else None)
        raise MirrorError(words(error)) from None
    except (DownloadError, requests.RequestException) as error:
        raise connection_fault(error) from None
    return arrived


def _holds(arrived: Path, mirror: DataMirror) -> bool:
    """Whether what lies here, whole or in part, is from this mirror."""
    try:
        known = json.loads(state_of(arrived).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(known, dict) and known.get("address") == mirror.address


def _fetch_hugging_face(file: RemoteFile, mirror: DataMirror, destination: Path, progress: Progress) -> Path:
    """Ask the hub which version it has, and bring that by HTTP (the hub's own download cannot resume after a kill)."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError: of the HTTP library that it uses
        EntryNotFoundError,
        HfHubHTTPError,
        HTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    owner, name, path = mirror.address.split("/", 2)
    endpoint = mirror.endpoint or None
    revision = mirror.revision or None
    url = hf_hub_url(f"{owner}/{name}", path, repo_type="dataset", revision=revision, endpoint=endpoint)
    try:
        found = get_hf_file_metadata(url, token=False, timeout=TIMEOUT_S, endpoint=endpoint)
    except (EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise MirrorError(f"not found: {words(error)}") from None
    except HfHubHTTPError as error:
        check_status(error.response.status_code, error.response.headers.get("retry-after"))
        raise MirrorError(words(error)) from None
    except HTTPError as error:
        raise connection_fault(error) from None
    return fetch_url(url, file, mirror, destination, progress, version=found.etag or "")


def _fetch_bucket(file: RemoteFile, mirror: DataMirror, destination: Path, progress: Progress) -> Path:
    part = part_of(destination)
    filesystem, path = _bucket(mirror)
    try:
        info = filesystem.get_file_info(path)
        if not info.is_file:
            raise MirrorError("not found in the bucket")
        if file.size is not None and info.size != file.size:
            raise MirrorError(f"offers {info.size:,} bytes instead of {file.size:,}")
        version = f"{info.size} {info.mtime_ns}"
        have, known_version, _ = resume_point(part, mirror)
        if known_version != version:
            have = 0
            part.unlink(missing_ok=True)
        write_state(part, mirror, version, info.size)
        with filesystem.open_input_file(path) as remote, part.open("ab") as stream:
            while have < info.size:
                chunk = remote.read_at(min(2**23, info.size - have), have)
                if not chunk:
                    raise TemporaryError(f"stopped after {have:,} of {info.size:,} bytes")
                stream.write(chunk)
                have += len(chunk)
                progress(file.name, have, info.size)
    except OSError as error:
        if error.errno in _DISK_FAULTS:
            raise
        raise _bucket_fault(error) from None
    return part


def _bucket_fault(error: OSError) -> MirrorError:
    """What a bucket's client says in one long sentence: an answer's status, a host not reached, or else its words."""
    said = str(error)
    answered = _BUCKET_STATUS.search(said)
    status = 404 if "NOT_FOUND" in said else 403 if "ACCESS_DENIED" in said else int(answered[1]) if answered else 200
    try:
        check_status(status, None)
    except MirrorError as fault:
        return fault
    return unreachable(error) or TemporaryError(words(error))


def _bucket(mirror: DataMirror) -> tuple[Any, str]:
    from pyarrow import fs

    kind, _, path = mirror.address.partition("://")
    server = {"endpoint_override": mirror.endpoint, "scheme": "http"} if mirror.endpoint else {}
    if kind == "gs":
        limit = timedelta(seconds=OWN_RETRIES_S)
        return fs.GcsFileSystem(anonymous=True, retry_time_limit=limit, **server), path
    if kind == "s3":
        region = {"region": "us-east-1"} if mirror.endpoint else {}
        once = fs.AwsStandardS3RetryStrategy(max_attempts=1)
        return (
            fs.S3FileSystem(anonymous=True, request_timeout=TIMEOUT_S, retry_strategy=once, **region, **server),
            path,
        )
    raise MirrorError(f"a bucket's address begins with s3:// or gs://, got {mirror.address}")


_TRANSPORTS: dict[str, Callable[[RemoteFile, DataMirror, Path, Progress], Path]] = {
    "http": fetch_http,
    "google_drive": _fetch_google_drive,
    "hugging_face": _fetch_hugging_face,
    "bucket": _fetch_bucket,
}
