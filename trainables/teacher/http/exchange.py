"""One exchange with a remote teacher, with a bound on its whole time and on the bytes of its answer. No torch.

httpx bounds each wait for more, and unpacks whatever comes. A server that drips, or packs zeros, would have no end. So
the exchange runs in an event loop, which can end it at any moment, and the answer is unpacked here.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
import zlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from search_spaces.errors import first_line

if TYPE_CHECKING:
    import httpx

CHUNK_BYTES = 2**20
ERROR_BYTES = 2**16
"""Of what a server says beside an error status."""
CLOSING_S = 2.0


class LostExchangeError(Exception):
    """There is no answer; the same may be asked again."""


class UnusableAnswerError(Exception):
    """There is an answer, and it is none: asking again would not help."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a server sent, unpacked."""

    status: int
    reason: str
    headers: Mapping[str, str]
    content: bytes


class BoundedClient:
    """An HTTP client of one address; safe to use from several threads, and again in a forked process.

    Args:
        timeout_s: for each wait: to connect, to send a part, for more of the answer.
        concurrency: exchanges at a time.
    """

    def __init__(self, url: str, *, headers: Mapping[str, str], timeout_s: float, concurrency: int) -> None:
        self._url, self._headers = url, dict(headers)
        self._timeout_s, self._concurrency = timeout_s, concurrency
        self._mutex = threading.Lock()
        self._process = -1

    def ask(
        self,
        method: str,
        path: str,
        *,
        within_s: float,
        max_bytes: int,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Ask once; the answer is there in full within so many seconds, or there is none.

        Raises:
            LostExchangeError: the connection failed or the time is up.
            UnusableAnswerError: the answer is longer than `max_bytes`, packed or unpacked, or cannot be read.
        """
        exchange = self._exchange(method, path, within_s, max_bytes, body, headers or {})
        waiting = asyncio.run_coroutine_threadsafe(exchange, self._loop_of_this_process())
        try:
            return waiting.result()
        except BaseException:
            # Ctrl-C too: nobody waits for it any more.
            waiting.cancel()
            raise

    def close(self) -> None:
        """Close the sockets; what is being asked is given up."""
        with self._mutex:
            if self._process == os.getpid():
                self._end()
            self._process = -1

    def _loop_of_this_process(self) -> asyncio.AbstractEventLoop:
        """The event loop, in a thread of its own; a forked process has none of its parent's threads."""
        import httpx

        with self._mutex:
            if self._process != os.getpid():
                self._client = httpx.AsyncClient(
                    base_url=self._url,
                    headers={"Accept-Encoding": "identity", **self._headers},
                    timeout=self._timeout_s,
                    limits=httpx.Limits(max_connections=self._concurrency),
                )
                self._slots = asyncio.Semaphore(self._concurrency)
                self._loop = asyncio.new_event_loop()
                thread = threading.Thread(target=_run, args=(self._loop,), name="teacher", daemon=True)
                thread.start()
                self._end = weakref.finalize(self, _end, self._loop, self._client, thread)
                self._process = os.getpid()
            return self._loop

    async def _exchange(
        self, method: str, path: str, within_s: float, max_bytes: int, body: bytes | None, headers: Mapping[str, str]
    ) -> Answer:
        import httpx

        sent = dict(headers)
        if body is not None:
            # In parts, so that each has its time; with a length, which parts alone would not have.
            sent["Content-Length"] = str(len(body))
        content = None if body is None else _parts(body)
        try:
            async with (
                asyncio.timeout(within_s),
                self._slots,
                self._client.stream(method, path, headers=sent, content=content) as response,
            ):
                return await _received(response, max_bytes)
        except TimeoutError:
            raise LostExchangeError(f"no answer within {within_s:.3g} s") from None
        except httpx.TransportError as error:
            raise LostExchangeError(type(error).__name__) from None
        except UnusableAnswerError:
            raise
        except Exception as error:
            # What a server sends is read by several libraries, each with errors of its own.
            raise UnusableAnswerError(f"cannot be read ({type(error).__name__}: {first_line(error)})") from None


async def _parts(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), CHUNK_BYTES):
        yield body[start : start + CHUNK_BYTES]


async def _received(response: httpx.Response, max_bytes: int) -> Answer:
    is_error = response.status_code >= 300
    limit = ERROR_BYTES if is_error else max_bytes
    packed = bytearray()
    try:
        async for part in response.aiter_raw(CHUNK_BYTES):
            packed += part
            if len(packed) > limit:
                raise UnusableAnswerError(f"has more than {limit:,} bytes")
        content = _unpacked(bytes(packed), response.headers.get("Content-Encoding", ""), limit)
    except UnusableAnswerError:
        if not is_error:
            raise
        # The status says enough.
        content = b""
    return Answer(status=response.status_code, reason=response.reason_phrase, headers=response.headers, content=content)


def _unpacked(packed: bytes, encoding: str, limit: int) -> bytes:
    """The answer as it was before a server (or one between) packed it, which it was not asked to do."""
    if (kind := encoding.strip().lower()) in ("", "identity"):
        return packed
    if kind not in ("gzip", "x-gzip", "deflate"):
        raise UnusableAnswerError(f"is packed as {encoding[:20]!r}; plain, gzip or deflate is wanted")
    # 32: whichever of the two it is.
    unpacker = zlib.decompressobj(32 + zlib.MAX_WBITS)
    try:
        content = unpacker.decompress(packed, limit + 1)
    except zlib.error as error:
        raise UnusableAnswerError(f"is broken {kind} ({error})") from None
    if len(content) > limit:
        raise UnusableAnswerError(f"unpacks to more than {limit:,} bytes")
    if not unpacker.eof:
        raise UnusableAnswerError(f"is broken {kind} (cut short)")
    return content


def _run(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()


def _end(loop: asyncio.AbstractEventLoop, client: httpx.AsyncClient, thread: threading.Thread) -> None:
    async def shut() -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await client.aclose()
        loop.stop()

    if loop.is_closed() or not thread.is_alive():
        return
    asyncio.run_coroutine_threadsafe(shut(), loop)
    # Garbage may be collected in any thread, in the loop's too.
    if thread is not threading.current_thread():
        thread.join(CLOSING_S)
