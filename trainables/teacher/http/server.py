"""A reference server for a teacher: the vendor's side of `teacher.http.wire`, to run and test against for real.

It keeps a ledger by idempotency key, so that a query that is asked again after a lost answer is not paid twice, also
across restarts. `Faults` makes it misbehave on purpose.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import random
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from torch import Tensor

from search_spaces.errors import UserError
from trainables.storage.json_lines import append_lines, read_lines
from trainables.teacher.http.wire import (
    FINGERPRINT,
    IDEMPOTENCY_KEY,
    MAX_IMAGES,
    PROTOCOL,
    SAFETENSORS,
    WireError,
    pack,
    unpack,
)
from trainables.teacher.protocol import Teacher


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


class ServerLedger:
    """What was paid, by idempotency key; with a file, also after a restart."""

    def __init__(self, file: Path | None = None) -> None:
        self.file = file
        self._paid: dict[str, tuple[str, str, int]] = {}
        self._mutex = threading.Lock()
        for entry in [] if file is None else read_lines(file):
            with suppress(KeyError):
                self._paid[entry["key"]] = (entry["kind"], entry["body"], entry["count"])

    def conflicts(self, key: str, body: str) -> bool:
        """Whether the key was paid for another body."""
        paid = self._paid.get(key)
        return paid is not None and paid[1] != body

    def pay(self, key: str, *, kind: str, body: str, count: int) -> None:
        """Count a query once: flushed to disk before its answer leaves."""
        with self._mutex:
            if key in self._paid:
                return
            self._paid[key] = (kind, body, count)
            if self.file is not None:
                append_lines(self.file, [{"key": key, "kind": kind, "body": body, "count": count}])

    def totals(self) -> dict[str, int]:
        """Images and texts paid, and the number of requests."""
        with self._mutex:
            paid = list(self._paid.values())
        sums = {name: sum(count for kind, _, count in paid if kind == name) for name in ("images", "texts")}
        return {**sums, "requests": len(paid)}


class Refusal(Exception):
    """A request that is answered with an error status."""

    def __init__(self, status: int, line: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(line)
        self.status, self.line, self.headers = status, line, dict(headers or {})


class TeacherService:
    """The endpoints' work, without HTTP."""

    def __init__(self, teacher: Teacher, *, ledger: ServerLedger, faults: Faults, max_images: int) -> None:
        self.teacher, self.ledger, self.faults, self.max_images = teacher, ledger, faults, max_images
        self._random = random.Random(faults.seed)
        self._one_at_a_time = threading.Lock()

    def images(self, key: str, body: bytes) -> bytes:
        """Embeddings of the images in a safetensors body."""
        images_N3HW = unpack("images", body)
        if images_N3HW.ndim != 4 or images_N3HW.shape[1] != 3 or not images_N3HW.is_floating_point():
            raise Refusal(400, f"images are float [N, 3, S, S], got {images_N3HW.dtype} {list(images_N3HW.shape)}")
        if len(images_N3HW) > self.max_images:
            raise Refusal(413, f"at most {self.max_images} images in a request, got {len(images_N3HW)}")
        if not bool(torch.isfinite(images_N3HW).all()):
            raise Refusal(400, "the images hold NaN or infinite numbers")
        self._refuse_reuse(key, body)
        with self._one_at_a_time:
            embeddings_ND = self.teacher.embed_images(images_N3HW)
        return self._answer(key, "images", body, embeddings_ND)

    def texts(self, key: str, body: bytes) -> bytes:
        """Embeddings of the prompts in a JSON body."""
        try:
            prompts = json.loads(body)["prompts"]
        except (ValueError, KeyError, TypeError):
            raise Refusal(400, 'the body is JSON {"prompts": [...]}') from None
        if not isinstance(prompts, list) or not all(isinstance(prompt, str) for prompt in prompts):
            raise Refusal(400, "prompts is a list of texts")
        self._refuse_reuse(key, body)
        with self._one_at_a_time:
            embeddings_CD = self.teacher.embed_texts(prompts)
        return self._answer(key, "texts", body, embeddings_CD)

    def fault(self) -> str:
        """Which fault the next POST has: `drop`, `too_many`, `error` or none."""
        drawn = self._random.random()
        for name in ("drop", "too_many", "error"):
            drawn -= getattr(self.faults, name)
            if drawn < 0:
                return name
        return ""

    def _refuse_reuse(self, key: str, body: bytes) -> None:
        if not key:
            raise Refusal(400, f"the header {IDEMPOTENCY_KEY} is wanted")
        if self.ledger.conflicts(key, hashlib.sha256(body).hexdigest()):
            raise Refusal(422, f"this {IDEMPOTENCY_KEY} was used for another body")

    def _answer(self, key: str, kind: str, body: bytes, embeddings: Tensor) -> bytes:
        self.ledger.pay(key, kind=kind, body=hashlib.sha256(body).hexdigest(), count=len(embeddings))
        if self.faults.nan:
            embeddings = embeddings.clone()
            embeddings[0, 0] = float("nan")
        if self.faults.extra_dim:
            embeddings = torch.cat([embeddings, embeddings[:, :1]], dim=1)
        return pack("embeddings", embeddings)


class _BrokenOff(Response):
    """Promises an answer and breaks the connection in its middle."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", str(len(self.body) + 1).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": bytes(self.body[: len(self.body) // 2]), "more_body": False})


def create_app(
    teacher: Teacher,
    *,
    fingerprint: str,
    token: str | None = None,
    image_size: int | None = None,
    ledger: Path | None = None,
    faults: Faults | None = None,
    max_images: int = MAX_IMAGES,
) -> FastAPI:
    """The server as an ASGI application. `fingerprint` names the weights it serves; no `token`, no questions."""
    service = TeacherService(teacher, ledger=ServerLedger(ledger), faults=faults or Faults(), max_images=max_images)
    app = FastAPI(title="VL2V teacher", openapi_url=None)

    def check(request: Request) -> None:
        given = request.headers.get("Authorization", "")
        if token and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            raise Refusal(401, "a bearer token is wanted")

    @app.exception_handler(Refusal)
    async def refuse(request: Request, refusal: Refusal) -> Response:
        return JSONResponse({"error": refusal.line}, status_code=refusal.status, headers=refusal.headers)

    @app.get("/v1/teacher")
    async def facts(request: Request) -> Response:
        check(request)
        content = {"protocol": PROTOCOL, "name": teacher.name, "fingerprint": fingerprint, "image_size": image_size}
        content |= {
            "embedding_dim": teacher.embedding_dim,
            "logit_scale": teacher.logit_scale,
            "max_images": max_images,
        }
        return JSONResponse(content, headers={FINGERPRINT: fingerprint})

    @app.get("/v1/ledger")
    async def paid(request: Request) -> Response:
        check(request)
        return JSONResponse(service.ledger.totals())

    @app.post("/v1/{kind}")
    async def ask(request: Request, kind: str) -> Response:
        check(request)
        work = {"images": service.images, "texts": service.texts}.get(kind)
        if work is None:
            raise Refusal(404, "there are /v1/images and /v1/texts")
        fault = service.fault()
        if fault == "too_many":
            raise Refusal(429, "too many requests", {"Retry-After": "0"})
        if fault == "error":
            raise Refusal(500, "a fault on purpose")
        try:
            answer = await run_in_threadpool(work, request.headers.get(IDEMPOTENCY_KEY, ""), await request.body())
        except (WireError, UserError) as error:
            raise Refusal(400, str(error)) from None
        answered = _BrokenOff if fault == "drop" else Response
        return answered(answer, media_type=SAFETENSORS, headers={FINGERPRINT: fingerprint})

    return app


def serve(
    teacher: Teacher,
    *,
    port: int,
    fingerprint: str,
    host: str = "127.0.0.1",
    token: str | None = None,
    image_size: int | None = None,
    ledger: Path | None = None,
    faults: Faults | None = None,
    threads: int = 1,
) -> None:
    """Serve until interrupted; port 0 takes a free one, which uvicorn prints.

    `threads` are torch's: on the CPU the last bits of an answer depend on them.
    """
    import uvicorn

    torch.set_num_threads(threads)
    app = create_app(teacher, fingerprint=fingerprint, token=token, image_size=image_size, ledger=ledger, faults=faults)
    uvicorn.run(app, host=host, port=port, log_level="info", access_log=False)
