"""Bring a file by HTTP, resumed where it stopped; and the errors that every transport raises.

MirrorError            this mirror will not do; the caller tries the next one
  TemporaryError       the same mirror may do later (a dropped connection, 429, 5xx): tried again with back-off
    UnreachableError   the host is not found or not reached (no network, a refused port): tried once more, and soon
"""

from __future__ import annotations

import errno
import json
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from trainables.data.acquire.sources import DataMirror, RemoteFile
from trainables.storage.redaction import redact

if TYPE_CHECKING:
    import httpx

TIMEOUT_S = 30.0
Progress = Callable[[str, int, int | None], None]
"""Called with what is worked on (a file's name), how much of it is done and how much there is (None where unknown)."""

_UNREACHABLE = (errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN)
_CURL_CODE = re.compile(r"curl(?:code: | error \[)(\d+)", re.IGNORECASE)
"""How pyarrow's S3 and GCS clients name the fault; they give no error number of the system."""
_CURL_UNREACHABLE = {"5": "Could not resolve proxy", "6": "Could not resolve host", "7": "Could not connect to server"}


class MirrorError(Exception):
    """What a mirror said, in words."""


class TemporaryError(MirrorError):
    """A fault that may pass."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnreachableError(TemporaryError):
    """The host has no address, or nobody answers there; without a network waiting does not help."""


def part_of(destination: Path) -> Path:
    """Where a file stays while it arrives."""
    return destination.with_name(f"{destination.name}.part")


def quiet(what: str, done: int, total: int | None) -> None:
    """A `Progress` that nobody looks at."""


def fetch_http(file: RemoteFile, mirror: DataMirror, destination: Path, progress: Progress) -> Path:
    """Bring a file by HTTP to its `.part`; what an earlier attempt brought is asked for no more.

    Raises `MirrorError`, or `TemporaryError` for what may pass.
    """
    return fetch_url(mirror.address, file, mirror, destination, progress)


def fetch_url(
    url: str, file: RemoteFile, mirror: DataMirror, destination: Path, progress: Progress, *, version: str = ""
) -> Path:
    """`fetch_http` from an address that stands for the mirror.

    `version` names the file's content where the mirror says so apart from the answer (a hub that redirects to
    another server); otherwise the answer's own ETag or date does.
    """
    import httpx

    part = part_of(destination)
    have, validator, is_whole = resume_point(part, mirror)
    if version and version != validator:
        have, is_whole = 0, False
    if is_whole:
        return part
    headers = {"Accept-Encoding": "identity"}
    if have and (validator or file.has_checksum):
        headers |= {"Range": f"bytes={have}-"} | ({"If-Range": validator} if validator and not version else {})
    try:
        with httpx.stream("GET", url, headers=headers, timeout=TIMEOUT_S, follow_redirects=True) as response:
            if response.status_code == 416 and have:
                part.unlink()
                raise TemporaryError("refused to resume")
            check_status(response.status_code, response.headers.get("retry-after"))
            if "text/html" in response.headers.get("content-type", "") and not file.name.endswith((".html", ".htm")):
                raise MirrorError("sent a web page instead of the file (a quota or log-in page)")
            have = have if response.status_code == 206 else 0
            _save(response, file, mirror, part, have, version or _validator(response.headers), progress)
    except httpx.TransportError as error:
        raise connection_fault(error) from None
    except (httpx.InvalidURL, httpx.TooManyRedirects) as error:
        raise MirrorError(words(error)) from None
    return part


def _save(
    response: httpx.Response,
    file: RemoteFile,
    mirror: DataMirror,
    part: Path,
    have: int,
    validator: str,
    progress: Progress,
) -> None:
    length = _number(response.headers.get("content-length"))
    total = None if length is None else have + length
    if file.size is not None and total is not None and total != file.size:
        raise MirrorError(f"offers {total:,} bytes instead of {file.size:,}")
    if not have:
        # A kill between the next two lines must not leave old bytes under a new name.
        part.unlink(missing_ok=True)
    write_state(part, mirror, validator, total)
    with part.open("ab") as stream:
        for chunk in response.iter_raw():
            stream.write(chunk)
            have += len(chunk)
            progress(file.name, have, total)
    if total is None:
        write_state(part, mirror, validator, have)
    elif have != total:
        raise TemporaryError(f"stopped after {have:,} of {total:,} bytes")


def state_of(part: Path) -> Path:
    """Where it is noted which version of which address a `.part` holds."""
    return part.with_name(f"{part.name}.json")


def write_state(part: Path, mirror: DataMirror, validator: str, total: int | None) -> None:
    """Note which version of which address a `.part` holds, and how many bytes it will have (None: not known)."""
    state_of(part).write_text(json.dumps({"address": mirror.address, "validator": validator, "total": total}))


def resume_point(part: Path, mirror: DataMirror) -> tuple[int, str, bool]:
    """Bytes of an earlier attempt that can be kept, the validator that names their version, whether they are all."""
    try:
        known = json.loads(state_of(part).read_text())
        size = part.stat().st_size
    except (OSError, ValueError):
        return 0, "", False
    if not isinstance(known, dict) or known.get("address") != mirror.address:
        return 0, "", False
    total, validator = known.get("total"), known.get("validator")
    if not isinstance(validator, str) or not isinstance(total, int | None) or (total is not None and size > total):
        return 0, "", False
    return size, validator, 0 < size == total


def _validator(headers: Mapping[str, str]) -> str:
    """What names the version of a file in `If-Range`: a strong ETag, else the date; empty when there is neither."""
    etag = headers.get("etag", "")
    return etag if etag and not etag.startswith("W/") else headers.get("last-modified", "")


def check_status(status: int, retry_after: str | None) -> None:
    """Raise the error that an HTTP status stands for; 200 and 206 pass."""
    if status in (200, 206):
        return
    meaning = {404: "not found", 403: "forbidden", 410: "gone", 401: "wants a log-in", 429: "too many requests"}
    said = f"answered {status} {meaning.get(status, 'server error' if status >= 500 else '')}".strip()
    if status in (408, 429) or status >= 500:
        seconds = _number(retry_after)
        raise TemporaryError(said, None if seconds is None else float(seconds))
    raise MirrorError(said)


def connection_fault(error: BaseException) -> TemporaryError:
    """What a failed connection stands for: an `UnreachableError` where there was none to begin with."""
    return unreachable(error) or TemporaryError(f"the connection failed: {words(error)}")


def unreachable(error: BaseException) -> UnreachableError | None:
    """The fault of a host that is not found or not reached, by what the system said below a library's own error."""
    for cause in _causes(error):
        if isinstance(cause, socket.gaierror) or (isinstance(cause, OSError) and cause.errno in _UNREACHABLE):
            return UnreachableError(f"the host cannot be reached: {cause.strerror or words(cause)}")
    curl = _CURL_CODE.search(str(error))
    said = _CURL_UNREACHABLE.get(curl[1]) if curl else None
    return UnreachableError(f"the host cannot be reached: {said}") if said else None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _number(header: str | None) -> int | None:
    """A header's whole number; None where it holds none, or more digits than any number of ours."""
    return int(header) if header and header.isascii() and header.isdecimal() and len(header) < 19 else None


def words(error: BaseException) -> str:
    """What an error says, on one line, without a secret (a mirror may lead to a signed address)."""
    said = redact(" ".join(str(error).split()))
    return "".join(letter for letter in said if letter.isprintable())[:200] or type(error).__name__
