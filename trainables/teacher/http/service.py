"""What a teacher's server does with a query, without HTTP: checks, the ledger of what was paid, the answer."""

from __future__ import annotations

import fcntl
import hashlib
import json
import random
import threading
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from search_spaces.errors import UserError
from trainables.storage.json_lines import append_lines, read_lines
from trainables.teacher.http.wire import IDEMPOTENCY_KEY, MAX_IMAGES, MAX_PROMPTS, pack_arrays, unpack_arrays
from trainables.teacher.protocol import Teacher

KEY_LETTERS = 200
LINE_LETTERS = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceLimits:
    """What one request may ask for, so that memory and time have a bound whatever is sent.

    Memory: about three times `at_once` bodies. A request beyond it is refused with 413 or 422, a slow one with 408.
    """

    max_images: int = MAX_IMAGES
    max_side: int = 1024
    """Pixels, of a teacher that takes any image size."""
    max_prompts: int = MAX_PROMPTS
    max_prompt_letters: int = 1000
    max_image_bytes: int = 320 * 2**20
    """A body of images; 512 images of 224 px are 308 MB."""
    max_text_bytes: int = 8 * 2**20
    receive_s: float = 120.0
    """For the headers of a request to arrive, for its body, and for the answer to be taken."""
    at_once: int = 4
    """Bodies in memory; further requests wait their turn."""
    connections: int = 256
    """Above them the answer is 503."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Faults:
    """Shares of POST requests that go wrong on purpose, each in [0, 1]."""

    drop: float = 0.0
    """The query is computed and paid, and the connection breaks before its answer."""
    too_many: float = 0.0
    """429 with `Retry-After: 0`, nothing computed."""
    error: float = 0.0
    """500, nothing computed."""
    nan: bool = False
    """Every answer holds a NaN."""
    extra_dim: bool = False
    """Every answer has one dimension too many."""
    seed: int = 0


class Refusal(Exception):
    """A request that is answered with an error status and one line."""

    def __init__(self, status: int, line: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(line)
        self.status, self.headers = status, dict(headers or {})
        self.line = " ".join(line.split())[:LINE_LETTERS]


@dataclass(frozen=True, kw_only=True, slots=True)
class PaidQuery:
    """What an idempotency key stands for."""

    kind: str
    body: str
    """SHA-256."""
    count: int


class ServerLedger:
    """What was paid, by idempotency key; with a file, also after a restart.

    Raises:
        UserError: the file cannot be written, or another server keeps it.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.file = file
        self._paid: dict[str, PaidQuery] = {}
        self._asked: dict[str, PaidQuery] = {}
        self._times_asked: Counter[str] = Counter()
        self._mutex = threading.Lock()
        if file is not None:
            self._let_go = weakref.finalize(self, _held(file).close)
            self._paid = dict(_paid_queries(file))

    def close(self) -> None:
        """Leave the file to other servers."""
        if self.file is not None:
            self._let_go()

    @contextmanager
    def reserved(self, key: str, query: PaidQuery) -> Iterator[None]:
        """During the block the key stands for this query alone; the same query may be asked at the same time.

        Raises:
            Refusal: the key stands for another query, which is paid or being answered.
        """
        with self._mutex:
            known = self._paid.get(key) or self._asked.get(key) or query
            if known != query:
                raise Refusal(422, f"this {IDEMPOTENCY_KEY} was used for another body")
            self._asked[key] = query
            self._times_asked[key] += 1
        try:
            yield
        finally:
            with self._mutex:
                self._times_asked[key] -= 1
                if not self._times_asked[key]:
                    del self._times_asked[key], self._asked[key]

    def pay(self, key: str, query: PaidQuery) -> None:
        """Count a query once: flushed to disk before its answer leaves.

        Raises:
            Refusal: the disk does not take it; the query is not counted.
        """
        with self._mutex:
            if key in self._paid:
                return
            if self.file is not None:
                line = {"key": key, "kind": query.kind, "body": query.body, "count": query.count}
                try:
                    append_lines(self.file, [line])
                except OSError as error:
                    raise Refusal(503, f"the ledger cannot be written: {error.strerror or error}") from None
            self._paid[key] = query

    def totals(self) -> dict[str, int]:
        """Images and texts paid, and the number of requests."""
        with self._mutex:
            paid = list(self._paid.values())
        sums = {name: sum(query.count for query in paid if query.kind == name) for name in ("images", "texts")}
        return {**sums, "requests": len(paid)}


class TeacherService:
    """The endpoints' work. `image_size` is the one side that the teacher takes; None where it takes any."""

    def __init__(
        self, teacher: Teacher, *, ledger: ServerLedger, faults: Faults, limits: ServiceLimits, image_size: int | None
    ) -> None:
        self.teacher, self.ledger, self.faults, self.limits = teacher, ledger, faults, limits
        self.image_size = image_size
        self._random = random.Random(faults.seed)
        self._one_at_a_time = threading.Lock()

    @property
    def max_images(self) -> int:
        """Images in a request: as many as are allowed, and fit into the longest body as float32."""
        fitting = self.limits.max_image_bytes // (3 * 4 * (self.image_size or 1) ** 2)
        return max(1, min(self.limits.max_images, fitting))

    @property
    def is_busy(self) -> bool:
        """Whether a batch is being computed."""
        return self._one_at_a_time.locked()

    def images(self, key: str, body: bytes) -> bytes:
        """Embeddings of the images in a safetensors body."""
        images_N3SS = unpack_arrays("images", body)
        self._check_images(images_N3SS)
        query = _query(key, "images", body, len(images_N3SS))
        with self.ledger.reserved(key, query):
            with self._one_at_a_time:
                embeddings_ND = self.teacher.embed_images(images_N3SS.float())
            return self._answer(key, query, embeddings_ND)

    def texts(self, key: str, body: bytes) -> bytes:
        """Embeddings of the prompts in a JSON body."""
        try:
            prompts = json.loads(body)["prompts"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise Refusal(400, 'the body is JSON {"prompts": [...]}') from None
        self._check_prompts(prompts)
        query = _query(key, "texts", body, len(prompts))
        with self.ledger.reserved(key, query):
            with self._one_at_a_time:
                embeddings_CD = self.teacher.embed_texts(prompts)
            return self._answer(key, query, embeddings_CD)

    def fault(self) -> str:
        """Which fault the next POST has: `drop`, `too_many`, `error` or none."""
        drawn = self._random.random()
        for name in ("drop", "too_many", "error"):
            drawn -= getattr(self.faults, name)
            if drawn < 0:
                return name
        return ""

    def _check_images(self, images_N3SS: Tensor) -> None:
        shape = list(images_N3SS.shape)
        if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3] or 0 in shape:
            raise Refusal(400, f"images are float [N, 3, S, S], got {images_N3SS.dtype} {shape[:8]}")
        count, side = shape[0], shape[2]
        if count > self.max_images:
            raise Refusal(413, f"at most {self.max_images} images in a request, got {count}")
        if self.image_size is not None and side != self.image_size:
            raise Refusal(422, f"images have a side of {self.image_size} px, got {side}")
        if side > self.limits.max_side and self.image_size is None:
            raise Refusal(422, f"images have a side of at most {self.limits.max_side} px, got {side}")
        if not bool(torch.isfinite(images_N3SS.float()).all()):
            raise Refusal(400, "the images hold NaN or infinite numbers")

    def _check_prompts(self, prompts: Sequence[str]) -> None:
        if not isinstance(prompts, list) or not prompts or not all(isinstance(prompt, str) for prompt in prompts):
            raise Refusal(400, "prompts is a list of texts, one or more")
        if len(prompts) > self.limits.max_prompts:
            raise Refusal(413, f"at most {self.limits.max_prompts} prompts in a request, got {len(prompts)}")
        if (longest := max(map(len, prompts))) > self.limits.max_prompt_letters:
            raise Refusal(422, f"a prompt has at most {self.limits.max_prompt_letters} letters, got {longest}")
        try:
            "".join(prompts).encode()
        except UnicodeEncodeError:
            raise Refusal(400, "a prompt holds half a character (a lone surrogate)") from None

    def _answer(self, key: str, query: PaidQuery, embeddings: Tensor) -> bytes:
        if not bool(torch.isfinite(embeddings).all()):
            raise Refusal(422, "the teacher has no finite embedding of them; nothing was paid")
        self.ledger.pay(key, query)
        if self.faults.nan:
            embeddings = embeddings.clone()
            embeddings[0, 0] = float("nan")
        if self.faults.extra_dim:
            embeddings = torch.cat([embeddings, embeddings[:, :1]], dim=1)
        return pack_arrays("embeddings", embeddings)


def _query(key: str, kind: str, body: bytes, count: int) -> PaidQuery:
    if not 0 < len(key) <= KEY_LETTERS or not (key.isascii() and key.isprintable()):
        raise Refusal(400, f"the header {IDEMPOTENCY_KEY} is wanted: 1 to {KEY_LETTERS} printable ASCII characters")
    return PaidQuery(kind=kind, body=hashlib.sha256(body).hexdigest(), count=count)


def _paid_queries(file: Path) -> Iterator[tuple[str, PaidQuery]]:
    """What a ledger's file counts; a line that is none of its own is passed over, as a torn one is."""
    for entry in read_lines(file):
        key, kind, body, count = (entry.get(name) for name in ("key", "kind", "body", "count"))
        is_named = isinstance(key, str) and isinstance(body, str) and kind in ("images", "texts")
        if is_named and isinstance(count, int) and count >= 0:
            yield str(key), PaidQuery(kind=str(kind), body=str(body), count=count)


def _held(file: Path) -> IO[bytes]:
    """The ledger's file, opened and locked for this process alone."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        opened = file.open("ab")
    except OSError as error:
        raise UserError(f"cannot write the ledger {file}: {error.strerror or error}") from None
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        opened.close()
        if isinstance(error, BlockingIOError):
            raise UserError(f"another server keeps the ledger {file}; end it, or name another file") from None
        raise UserError(f"cannot lock the ledger {file}: {error.strerror or error}") from None
    return opened
