"""Bring one file from one mirror to disk: resumed where it stopped, checked, and in place only when it is whole."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from search_spaces.errors import UserError
from trainables.data.http_transport import (
    TIMEOUT_S,
    MirrorError,
    Progress,
    TemporaryError,
    UnreachableError,
    check_status,
    connection_fault,
    fetch_http,
    part_of,
    resume_point,
    state_of,
    unreachable,
    words,
    write_state,
)
from trainables.data.sources import Mirror, RemoteFile

_DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT)
MAX_WAIT_S = 60.0
UNREACHABLE_ATTEMPTS = 2
"""Times that a host which never answered is asked."""
OWN_RETRIES_S = 1
"""Seconds that Google's client may try again by itself, which by default is a quarter of an hour."""


def download(
    file: RemoteFile,
    mirror: Mirror,
    destination: Path,
    *,
    attempts: int = 5,
    first_wait_s: float = 1.0,
    progress: Progress | None = None,
) -> None:
    """Bring `file` to `destination`; raises `MirrorError` when this mirror cannot give it, `UserError` on a full disk.

    What has arrived stays beside it as `.part`, and a later call asks only for the rest. A host that cannot be reached
    is given up after one quick retry, unless it had answered in this call: then it is an outage that may pass.
    """
    answered = False
    for attempt in range(attempts):
        try:
            with _disk_faults(destination):
                arrived = _TRANSPORTS[mirror.transport](file, mirror, destination, progress)
                check_arrived(file, arrived)
                arrived.replace(destination)
            return
        except TemporaryError as error:
            answered = answered or not isinstance(error, UnreachableError)
            if attempt + 1 >= (attempts if answered else min(attempts, UNREACHABLE_ATTEMPTS)):
                raise MirrorError(f"{error} ({attempt + 1} attempts)") from None
            wait = first_wait_s * 2**attempt if error.retry_after_s is None else error.retry_after_s
            time.sleep(min(wait, MAX_WAIT_S))


def check_arrived(file: RemoteFile, path: Path) -> None:
    """Check size, checksum and kind of a file; a wrong one is deleted and `MirrorError` says what it is."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(512).lstrip().lower()
    problem = ""
    if head.startswith((b"<!doctype html", b"<html")):
        problem = "sent a web page instead of the file (a quota or log-in page)"
    elif file.size is not None and size != file.size:
        problem = f"sent {size:,} bytes instead of {file.size:,}"
    elif file.sha256 is not None and (found := sha256_of(path)) != file.sha256:
        problem = f"wrong checksum: SHA-256 {found[:16]}... instead of {file.sha256[:16]}..."
    elif size == 0:
        problem = "sent an empty file"
    if problem:
        path.unlink()
        path.with_name(f"{path.name}.json").unlink(missing_ok=True)
        raise MirrorError(problem)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def _disk_faults(destination: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_FAULTS:
            raise connection_fault(error) from None
        raise UserError(
            f"cannot write {destination}: {error.strerror or error}; what has arrived is kept, run the same again"
        ) from None


def _fetch_google_drive(file: RemoteFile, mirror: Mirror, destination: Path, progress: Progress | None) -> Path:
    import gdown
    import requests
    from gdown.exceptions import DownloadError, FileURLRetrievalError

    arrived = destination.with_name(f"{destination.name}.drive")
    arrived.unlink(missing_ok=True)
    is_url = "://" in mirror.address

    def report(have: int, total: int | None) -> None:
        if progress is not None:
            progress(file.name, have, total)

    try:
        gdown.download(
            url=mirror.address if is_url else None,
            id=None if is_url else mirror.address,
            output=str(arrived),
            quiet=True,
            resume=True,
            use_cookies=False,
            timeout=TIMEOUT_S,
            progress=report,
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


def _fetch_hugging_face(file: RemoteFile, mirror: Mirror, destination: Path, progress: Progress | None) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError: of the HTTP library that it uses
        EntryNotFoundError,
        HfHubHTTPError,
        HTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    owner, name, path = mirror.address.split("/", 2)
    endpoint = mirror.endpoint or None
    folder = destination.with_name(f"{destination.name}.hub")
    try:
        # A download would ask a hub that cannot be reached seven times; this asks once.
        url = hf_hub_url(f"{owner}/{name}", path, repo_type="dataset", endpoint=endpoint)
        get_hf_file_metadata(url, token=False, timeout=TIMEOUT_S, endpoint=endpoint)
        found = hf_hub_download(
            f"{owner}/{name}",
            path,
            repo_type="dataset",
            local_dir=folder,
            endpoint=endpoint,
            token=False,
        )
    except LocalEntryNotFoundError as error:
        raise connection_fault(error) from None
    except (EntryNotFoundError, RepositoryNotFoundError) as error:
        raise MirrorError(f"not found: {words(error)}") from None
    except HfHubHTTPError as error:
        check_status(error.response.status_code, error.response.headers.get("retry-after"))
        raise MirrorError(words(error)) from None
    except HTTPError as error:
        raise connection_fault(error) from None
    if progress is not None:
        size = os.path.getsize(found)
        progress(file.name, size, size)
    return Path(found)


def _fetch_bucket(file: RemoteFile, mirror: Mirror, destination: Path, progress: Progress | None) -> Path:
    part = part_of(destination)
    filesystem, path = _bucket(mirror)
    try:
        info = filesystem.get_file_info(path)
        if not info.is_file:
            raise MirrorError("not found in the bucket")
        if file.size is not None and info.size != file.size:
            raise MirrorError(f"offers {info.size:,} bytes instead of {file.size:,}")
        version = f"{info.size} {info.mtime_ns}"
        have, known_version = resume_point(part, mirror)
        have = have if known_version == version else 0
        write_state(part, mirror, version, info.size)
        with filesystem.open_input_file(path) as remote, part.open("ab" if have else "wb") as stream:
            while have < info.size:
                chunk = remote.read_at(min(2**23, info.size - have), have)
                if not chunk:
                    raise TemporaryError(f"stopped after {have:,} of {info.size:,} bytes")
                stream.write(chunk)
                have += len(chunk)
                if progress is not None:
                    progress(file.name, have, info.size)
    except OSError as error:
        if error.errno in _DISK_FAULTS:
            raise
        raise (unreachable(error) or TemporaryError(words(error))) from None
    state_of(part).unlink(missing_ok=True)
    return part


def _bucket(mirror: Mirror) -> tuple[Any, str]:
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


_TRANSPORTS: dict[str, Callable[[RemoteFile, Mirror, Path, Progress | None], Path]] = {
    "http": fetch_http,
    "google_drive": _fetch_google_drive,
    "hugging_face": _fetch_hugging_face,
    "bucket": _fetch_bucket,
}
