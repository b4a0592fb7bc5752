"""A reference server for a teacher: the vendor's side of `teacher.http.wire`, to run and test against for real.

It keeps a ledger by idempotency key, so that a query that is asked again after a lost answer is not paid twice, also
across restarts. `Faults` makes it misbehave on purpose. What is sent to it is bounded in size and time
(`ServiceLimits`). No page on the web reaches it by a name of its own (the Host check).
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
from asyncio import TimerHandle, Transport
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import h11
import torch
import uvicorn
from anyio import to_thread
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect
from uvicorn.protocols.http.h11_impl import H11Protocol

from search_spaces.errors import UserError, first_line
from trainables.teacher.http.service import Faults, Refusal, ServerLedger, ServiceLimits, TeacherService
from trainables.teacher.http.wire import FINGERPRINT, IDEMPOTENCY_KEY, PROTOCOL, SAFETENSORS, WireError
from trainables.teacher.protocol import Teacher

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "[::1]")
"""What the Host header says of a server that only this machine reaches."""
ANY_HOST = ("*",)
GRACE_S = 3
"""Seconds that answers may still take once the server is to end."""

__all__ = ["ANY_HOST", "LOOPBACK_HOSTS", "Faults", "ServiceLimits", "create_app", "serve"]
_log = logging.getLogger("uvicorn.error")


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
    limits: ServiceLimits | None = None,
    hosts: Sequence[str] = LOOPBACK_HOSTS,
) -> FastAPI:
    """The server as an ASGI application. `fingerprint` names the weights it serves; no `token`, no questions.

    Args:
        image_size: the one side of its images, in pixels; None where the teacher takes any.
        hosts: what the Host header of a request may say; `ANY_HOST` for anything.

    Raises:
        UserError: the ledger cannot be written, or another server keeps it.
    """
    limits = limits or ServiceLimits()
    service = TeacherService(
        teacher, ledger=ServerLedger(ledger), faults=faults or Faults(), limits=limits, image_size=image_size
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.ledger.close()

    app = FastAPI(title="VL2V teacher", openapi_url=None, lifespan=lifespan)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _refused)
    app.state.service = service
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    at_once = asyncio.Semaphore(limits.at_once)

    def check(request: Request) -> None:
        given = request.headers.get("Authorization", "")
        if token and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            raise Refusal(401, "a bearer token is wanted")

    @app.get("/v1/teacher")
    async def facts(request: Request) -> Response:
        check(request)
        content = {"protocol": PROTOCOL, "name": teacher.name, "fingerprint": fingerprint, "image_size": image_size}
        content |= {
            "embedding_dim": teacher.embedding_dim,
            "logit_scale": teacher.logit_scale,
            "max_images": service.max_images,
        }
        return JSONResponse(content, headers={FINGERPRINT: fingerprint})

    @app.get("/v1/ledger")
    async def paid(request: Request) -> Response:
        check(request)
        return JSONResponse(service.ledger.totals())

    async def answer(request: Request, work: Callable[[str, bytes], bytes]) -> Response:
        check(request)
        fault = service.fault()
        if fault == "too_many":
            raise Refusal(429, "too many requests", {"Retry-After": "0"})
        if fault == "error":
            raise Refusal(500, "a fault on purpose")
        try:
            async with at_once:
                body = await _received(request, limits.receive_s)
                content = await _computed(work, request.headers.get(IDEMPOTENCY_KEY, ""), body)
        except asyncio.CancelledError:
            raise Refusal(503, "the server is being ended") from None
        answered = _BrokenOff if fault == "drop" else Response
        return answered(content, media_type=SAFETENSORS, headers={FINGERPRINT: fingerprint})

    @app.post("/v1/images", max_body_size=limits.max_image_bytes)
    async def images(request: Request) -> Response:
        return await answer(request, service.images)

    @app.post("/v1/texts", max_body_size=limits.max_text_bytes)
    async def texts(request: Request) -> Response:
        return await answer(request, service.texts)

    @app.post("/v1/{kind}")
    async def unknown(request: Request, kind: str) -> Response:
        check(request)
        raise Refusal(404, "there are /v1/images and /v1/texts")

    return app


async def _refused(request: Request, error: Exception) -> Response:
    """One line of JSON, whoever refuses."""
    if isinstance(error, Refusal):
        return JSONResponse({"error": error.line}, status_code=error.status, headers=error.headers)
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, status_code=error.status_code, headers=error.headers)


async def _received(request: Request, seconds: float) -> bytes:
    """The body of a request; one that does not come in time is given up."""
    try:
        async with asyncio.timeout(seconds):
            return await request.body()
    except TimeoutError:
        raise Refusal(408, f"the body did not arrive within {seconds:g} s") from None
    except ClientDisconnect:
        # Nobody is there to read this.
        raise Refusal(400, "the connection ended before the body") from None


async def _computed(work: Callable[[str, bytes], bytes], key: str, body: bytes) -> bytes:
    """The answer, from a thread; the server can end before it."""
    try:
        return await to_thread.run_sync(work, key, body, abandon_on_cancel=True)
    except Refusal:
        raise
    except (WireError, UserError) as error:
        raise Refusal(400, str(error)) from None
    except Exception as error:
        # What the teacher stumbles over (memory, a device) is told here, and not in a hundred lines for each request.
        line = f"the teacher failed: {type(error).__name__}: {first_line(error)}"
        _log.error(line)
        raise Refusal(500, line) from None


class _BoundedHTTP(H11Protocol):
    """Hangs up on whoever sends headers, or the rest of a refused body, or takes an answer too slowly.

    uvicorn waits without end. (It is the endpoint that gives up a body that is wanted.)
    """

    seconds: float
    _timers: dict[str, TimerHandle]

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._timers = {}
        self._start("headers")

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._start("headers")
        else:
            self._stop("headers")
        if self.conn.their_state is not h11.SEND_BODY:
            self._stop("rest")

    def on_response_complete(self) -> None:
        # Whoever hangs up at once, while a body is sent, takes the answer away.
        if self.conn.their_state is h11.SEND_BODY:
            self._start("rest")
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start("answer")

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop("answer")

    def connection_lost(self, exc: Exception | None) -> None:
        for name in list(self._timers):
            self._stop(name)
        super().connection_lost(exc)

    def _start(self, name: str) -> None:
        if name not in self._timers:
            self._timers[name] = self.loop.call_later(self.seconds, self.transport.abort)

    def _stop(self, name: str) -> None:
        if (timer := self._timers.pop(name, None)) is not None:
            timer.cancel()


def http_server(app: FastAPI, *, host: str, port: int, limits: ServiceLimits) -> uvicorn.Server:
    """The application's server, with the limits that are not the application's to keep."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="info",
        access_log=False,
        http=type("BoundedHTTP", (_BoundedHTTP,), {"seconds": limits.receive_s}),
        limit_concurrency=limits.connections,
        timeout_graceful_shutdown=GRACE_S,
    )
    return uvicorn.Server(config)


def serve(
    teacher: Teacher,
    *,
    port: int,
    host: str = "127.0.0.1",
    threads: int = 1,
    limits: ServiceLimits | None = None,
    **app: Any,
) -> None:
    """Serve until interrupted; port 0 takes a free one, which uvicorn prints.

    `threads` are torch's: on the CPU the last bits of an answer depend on them. `app` is what else `create_app` takes.

    Raises:
        UserError: the address or the ledger cannot be had.
    """
    torch.set_num_threads(threads)
    limits = limits or ServiceLimits()
    served = create_app(teacher, limits=limits, **app)
    server = http_server(served, host=host, port=port, limits=limits)
    try:
        server.run()
    except KeyboardInterrupt:
        if served.state.service.is_busy:
            # torch is not interrupted in a batch, and the interpreter would wait for its thread.
            os._exit(0)
    except SystemExit:
        # uvicorn has said why.
        raise UserError(
            f"a teacher cannot be served on {host}, port {port}; name another with --host or --port"
        ) from None
