"""The connection to a remote teacher: attempts, pauses, the token, what the server says of itself. No torch."""

from __future__ import annotations

import math
import os
import random
import threading
import time
import uuid
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from search_spaces.errors import UserError
from search_spaces.hyperparameters import Resources, check_shows_no_secret, content_key
from trainables.teacher.http.wire import FINGERPRINT, IDEMPOTENCY_KEY, MAX_IMAGES, PROTOCOL, TOKEN_VARIABLE
from trainables.teacher.names import another_teacher

if TYPE_CHECKING:
    import httpx

RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
OPENING_S = 60.0
"""Patience for the first contact: a restart is waited for, a wrong address is told within a minute."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How long a remote teacher is waited for. Nothing here changes an answer."""

    timeout_s: float = 60.0
    """For one attempt: connect, send, and each wait for more of the answer."""
    total_s: float = 300.0
    """For one query with all its attempts: long enough for a server that is restarted."""
    first_pause_s: float = 0.25
    """Before the second attempt; it doubles from then on, and a random part of it is waited (full jitter)."""
    longest_pause_s: float = 15.0
    """The doubling ends here. `Retry-After` may ask for more, within `total_s`."""
    concurrency: int = 4
    """Requests at work at once."""


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
    """One HTTP client with a number of slots; safe to use from several threads.

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
        weakref.finalize(self, self._client.close)
        self._slots = threading.Semaphore(self.patience.concurrency)

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
        response = self.request("GET", "/v1/teacher", total_s=min(OPENING_S, self.patience.total_s))
        try:
            said: Any = response.json()
            protocol, size = said["protocol"], said.get("image_size")
            facts = TeacherFacts(
                embedding_dim=int(said["embedding_dim"]),
                logit_scale=float(said["logit_scale"]),
                fingerprint=_fingerprint(str(said["fingerprint"])),
                image_size=None if size is None else int(size),
                max_images=int(said.get("max_images", MAX_IMAGES)),
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(
                f"{self.url}/v1/teacher is not a teacher's answer; see trainables/teacher/http/wire.py"
            ) from None
        if protocol != PROTOCOL:
            raise UserError(f"the teacher at {self.url} speaks protocol {protocol}, we speak {PROTOCOL}")
        if not math.isfinite(facts.logit_scale) or facts.embedding_dim < 1 or facts.max_images < 1:
            raise UserError(f"the teacher at {self.url} says of itself what cannot be: {facts}")
        self._check(facts.fingerprint)
        self._fingerprint = facts.fingerprint
        return facts

    def post(self, path: str, *, headers: Mapping[str, str] | None = None, **content: Any) -> httpx.Response:
        """Ask a query: one idempotency key for all its attempts, so the server counts it once."""
        keyed = {**(headers or {}), IDEMPOTENCY_KEY: uuid.uuid4().hex}
        return self.request("POST", path, headers=keyed, **content)

    def request(self, method: str, path: str, *, total_s: float | None = None, **content: Any) -> httpx.Response:
        """Ask until there is an answer, patience ends, or the server says that asking again is no use.

        Raises:
            UserError: there is no answer, or another model made it.
        """
        import httpx

        deadline = time.monotonic() + (self.patience.total_s if total_s is None else total_s)
        pause_s, attempts = self.patience.first_pause_s, 0
        while True:
            attempts += 1
            wanted_s: float | None = None
            try:
                with self._slots:
                    response = self._client.request(method, path, **content)
                if response.status_code < 300:
                    if (said := response.headers.get(FINGERPRINT)) is not None:
                        self._check(_fingerprint(said))
                    return response
                problem = f"{response.status_code} {_error_of(response)}"
                if response.status_code not in RETRIED_STATUSES:
                    raise self._refused(response.status_code, problem)
                wanted_s = retry_after_s(response.headers.get("Retry-After"))
            except httpx.TransportError as error:
                problem = type(error).__name__
            # Full jitter: clients that failed together do not come back together.
            wait_s = (wanted_s or 0.0) + random.uniform(0, pause_s)
            if time.monotonic() + wait_s > deadline:
                raise UserError(f"the teacher at {self.url} did not answer after {attempts} attempts; last: {problem}")
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
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _client(url: str, patience: Patience) -> httpx.Client:
    import httpx

    token = os.environ.get(TOKEN_VARIABLE)
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise UserError(f"the token in {TOKEN_VARIABLE} holds a space, a line break or another odd character")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    limits = httpx.Limits(max_connections=patience.concurrency)
    return httpx.Client(base_url=url, headers=headers, timeout=patience.timeout_s, limits=limits)


def _error_of(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]).splitlines()[0][:200]
    except (ValueError, KeyError, TypeError, IndexError):
        return response.reason_phrase
