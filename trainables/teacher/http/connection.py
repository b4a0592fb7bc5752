"""The connection to a remote teacher: attempts, pauses, the token, what the server says of itself. No torch."""

from __future__ import annotations

import json
import math
import os
import random
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn

from search_spaces.errors import UserError
from search_spaces.hyperparameters import Resources, check_shows_no_secret, content_key
from trainables.storage.redaction import redact
from trainables.teacher.http.exchange import Answer, BoundedClient, LostExchangeError, UnusableAnswerError
from trainables.teacher.http.wire import FINGERPRINT, IDEMPOTENCY_KEY, MAX_IMAGES, PROTOCOL, TOKEN_VARIABLE
from trainables.teacher.names import another_teacher

RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
OPENING_S = 60.0
"""Patience for the first contact: a restart is waited for, a wrong address is told within a minute."""
TELLING_S = 1.0
"""An attempt of that many seconds has had its chance."""
FACTS_BYTES = 2**16
"""Of what a server says of itself; it needs some hundred."""
MAX_DIM, MAX_SIDE, MAX_SCALE, MOST_IMAGES = 2**16, 2**14, 1e6, 2**20
"""Beyond these, what a server says of itself cannot be. (Of images at once it may allow any number.)"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How long a remote teacher is waited for. Nothing here changes an answer."""

    timeout_s: float = 60.0
    """For one attempt: connect, send a part, and each wait for more of the answer."""
    total_s: float = 300.0
    """For one query, whatever happens in it, with all its attempts: long enough for a server that is restarted."""
    first_pause_s: float = 0.25
    """Before the second attempt; it doubles from then on, and a random part of it is waited (full jitter)."""
    longest_pause_s: float = 15.0
    """The doubling ends here. `Retry-After` may ask for more, within `total_s`."""
    concurrency: int = 4
    """Requests under way at once."""


def patience_of(resources: Resources) -> Patience:
    """The user's choice."""
    return Patience(
        timeout_s=resources.teacher_timeout_s,
        total_s=resources.teacher_patience_s,
        concurrency=resources.teacher_requests,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherFacts:
    """What a server says of the teacher it serves."""

    embedding_dim: int
    logit_scale: float
    fingerprint: str
    image_size: int | None
    max_images: int


class Connection:
    """Attempts at one address until there is an answer; safe to use from several threads.

    The bearer token comes from the environment variable VL2V_TEACHER_TOKEN alone; it is kept in no attribute that is
    printed, and a connection cannot be pickled.

    Args:
        fingerprint: what the server must say of itself, and at every answer where it does; of a connection without
            one, what it said first.
    """

    def __init__(self, url: str, patience: Patience | None = None, *, fingerprint: str = "") -> None:
        self.url = checked_url(url)
        self._fingerprint = fingerprint
        self.patience = patience or Patience()
        self._client = _client(self.url, self.patience)

    def __repr__(self) -> str:
        return f"Connection({self.url!r})"

    def close(self) -> None:
        """Close the sockets."""
        self._client.close()

    def facts(self) -> TeacherFacts:
        """Ask the server what it serves.

        Raises:
            UserError: it cannot be reached, refuses us, speaks another protocol, is no teacher, or another one.
        """
        total_s = min(OPENING_S, self.patience.total_s)
        answer = self._request("GET", "/v1/teacher", total_s=total_s, max_bytes=FACTS_BYTES)
        try:
            said = json.loads(answer.content, parse_constant=_no_number)
            protocol = said["protocol"]
            facts = _facts(said) if protocol == PROTOCOL else None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise UserError(
                f"{self.url}/v1/teacher is not a teacher's answer; see trainables/teacher/http/wire.py"
            ) from None
        except _ImpossibleFactError as error:
            raise UserError(f"the teacher at {self.url} says of itself what cannot be: {error}") from None
        if facts is None:
            raise UserError(f"the teacher at {self.url} speaks protocol {repr(protocol)[:20]}, we speak {PROTOCOL}")
        self._check(facts.fingerprint)
        self._fingerprint = facts.fingerprint
        return facts

    def post(self, path: str, body: bytes, *, content_type: str, max_bytes: int) -> bytes:
        """Ask a query: one idempotency key for all its attempts, so the server counts it once.

        Raises:
            UserError: there is no answer, it is longer than `max_bytes`, or another model made it.
        """
        headers = {"Content-Type": content_type, IDEMPOTENCY_KEY: uuid.uuid4().hex}
        total_s = self.patience.total_s
        return self._request("POST", path, total_s=total_s, max_bytes=max_bytes, body=body, headers=headers).content

    def _request(self, method: str, path: str, *, total_s: float, **asked: Any) -> Answer:
        """Ask until there is an answer, patience ends, or the server says that asking again is no use."""
        deadline = time.monotonic() + total_s
        pause_s, attempts, problem = self.patience.first_pause_s, 0, ""
        while True:
            attempts += 1
            wanted_s: float | None = None
            within_s = deadline - time.monotonic()
            try:
                answer = self._client.ask(method, path, within_s=within_s, **asked)
                if answer.status < 300:
                    if (said := answer.headers.get(FINGERPRINT)) is not None:
                        self._check(_fingerprint(said))
                    return answer
                problem = f"{answer.status} {_error_of(answer)}"
                if answer.status not in RETRIED_STATUSES:
                    raise self._refused(answer.status, problem)
                wanted_s = retry_after_s(answer.headers.get("Retry-After"))
            except LostExchangeError as error:
                # A last attempt that had no time says nothing.
                problem = problem if problem and within_s < TELLING_S else str(error)
            except UnusableAnswerError as error:
                raise UserError(f"the answer of the teacher at {self.url} {_shown(str(error))}") from None
            # Full jitter: clients that failed together do not come back together.
            wait_s = (wanted_s or 0.0) + random.uniform(0, pause_s)
            if time.monotonic() + wait_s >= deadline:
                tries = f"{attempts} attempt{'s' * (attempts > 1)}"
                raise UserError(f"the teacher at {self.url} did not answer after {tries}; last: {problem}")
            time.sleep(wait_s)
            pause_s = min(2 * pause_s, self.patience.longest_pause_s)

    def _check(self, found: str) -> None:
        if self._fingerprint and found != self._fingerprint:
            raise another_teacher(f"remote:{self.url}", found=found, planned=self._fingerprint)

    def _refused(self, status: int, problem: str) -> UserError:
        if status in (401, 403):
            held = "the token in" if os.environ.get(TOKEN_VARIABLE) else "no token is in"
            return UserError(f"the teacher at {self.url} refuses us ({status}): check {held} {TOKEN_VARIABLE}")
        return UserError(f"the teacher at {self.url} refuses the request: {problem}")


def remote_fingerprint(url: str) -> str:
    """Name a remote teacher by what its server says it serves, not by its address.

    Raises:
        UserError: the server cannot be reached or refuses us.
    """
    connection = Connection(url, Patience(total_s=20.0))
    try:
        return connection.facts().fingerprint
    finally:
        connection.close()


def _fingerprint(said: str) -> str:
    return content_key({"kind": "remote", "fingerprint": said.strip()})


def checked_url(url: str) -> str:
    """The address without a trailing slash.

    Raises:
        UserError: it is no http address, or holds what may be a secret (it would stand in logs and records): a user, a
            password, a query string, a fragment.
    """
    import httpx

    check_shows_no_secret(f"remote:{url}")
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UserError("a remote teacher is remote:http://HOST:PORT or remote:https://HOST")
    return url.rstrip("/")


def retry_after_s(value: str | None) -> float | None:
    """Seconds that a `Retry-After` header asks for (RFC 9110, section 10.2.3); None where it says nothing."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError, OverflowError, IndexError):
            return None
    return None if math.isnan(seconds) else max(0.0, seconds)


class _ImpossibleFactError(Exception):
    """A server says of itself what no teacher can be."""


def _facts(said: dict[str, Any]) -> TeacherFacts:
    size, images, fingerprint = said.get("image_size"), said.get("max_images"), said["fingerprint"]
    images = MAX_IMAGES if images is None else images
    if not isinstance(fingerprint, str) or not fingerprint.strip():
        raise _ImpossibleFactError(f"fingerprint {_shown(repr(fingerprint))}")
    return TeacherFacts(
        embedding_dim=int(_number("embedding_dim", said["embedding_dim"], MAX_DIM, is_whole=True)),
        logit_scale=_number("logit_scale", said["logit_scale"], MAX_SCALE),
        fingerprint=_fingerprint(fingerprint),
        image_size=None if size is None else int(_number("image_size", size, MAX_SIDE, is_whole=True)),
        max_images=min(MOST_IMAGES, int(_number("max_images", images, is_whole=True))),
    )


def _number(name: str, value: Any, most: float = math.inf, *, is_whole: bool = False) -> float:
    """A number above 0 (1 or more, of whole ones)."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value <= most or value == math.inf or (is_whole and value != int(value)):
        raise _ImpossibleFactError(f"{name} {_shown(repr(value))}")
    return value  # type: ignore[no-any-return]


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _client(url: str, patience: Patience) -> BoundedClient:
    token = os.environ.get(TOKEN_VARIABLE)
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise UserError(f"the token in {TOKEN_VARIABLE} holds a space, a line break or another odd character")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return BoundedClient(url, headers=headers, timeout_s=patience.timeout_s, concurrency=patience.concurrency)


def _error_of(answer: Answer) -> str:
    """What a server says beside an error status, on one line, without the token that it may repeat."""
    try:
        said = str(json.loads(answer.content)["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        is_text = answer.headers.get("Content-Type", "").startswith("text/plain")
        said = answer.content.decode(errors="replace") if is_text else answer.reason
    lines = said.splitlines() or [answer.reason]
    return _shown(lines[0])


def _shown(text: str) -> str:
    """What others said, as it may be printed."""
    return "".join(letter for letter in redact(text[:2000]) if letter.isprintable())[:200]
