"""A real HTTP server on loopback with faults that can be switched on, which counts the bytes it sends."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

LAST_MODIFIED = "Wed, 13 Jan 2021 10:00:00 GMT"


class FileServer:
    """Serves `files` by path (plain, ranged, as a Hugging Face endpoint and as an S3 endpoint)."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[str]] = defaultdict(list)
        """Faults to show at the next requests for a path, one each; a last `...` repeats the one before for ever.

        `drop after N` sends N bytes at most and closes the connection."""
        self.sent: dict[str, int] = defaultdict(int)
        """Body bytes sent, by path."""
        self.asked: dict[str, int] = defaultdict(int)
        """GET requests, by path."""
        self.looked: dict[str, int] = defaultdict(int)
        """HEAD requests, by path."""
        self.bytes_per_s: float | None = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def add(self, path: str, content: bytes | Path) -> None:
        """Serve a file's content at a path."""
        self.files[path] = content if isinstance(content, bytes) else content.read_bytes()

    def next_fault(self, path: str) -> str:
        """The fault to show now, or an empty text."""
        waiting = self.faults[path]
        if not waiting:
            return ""
        if len(waiting) == 2 and waiting[1] == "...":
            return waiting[0]
        return waiting.pop(0)

    def lasting_refusal(self, path: str) -> int:
        """The status that every request for a path is refused with, questions about it too; 0 for none."""
        waiting = self.faults[path]
        return int(waiting[0]) if len(waiting) == 2 and waiting[1] == "..." and waiting[0].isdecimal() else 0

    @contextmanager
    def running(self) -> Iterator[FileServer]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.close()
            thread.join()

    def close(self) -> None:
        """Listen no more; what is being sent is sent."""
        self._server.shutdown()
        self._server.server_close()


def _handler(server: FileServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            pass

        def do_HEAD(self) -> None:
            server.looked[self._path()] += 1
            content = server.files.get(self._path())
            if status := server.lasting_refusal(self._path()):
                self._refuse(status)
                return
            self.send_response(200 if content is not None else 404)
            self._describe(content or b"")
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()

        def do_GET(self) -> None:
            path = self._path()
            server.asked[path] += 1
            content = server.files.get(path)
            fault = server.next_fault(path)
            if content is None or fault == "404":
                return self._refuse(404)
            if fault in ("429", "500", "503"):
                return self._refuse(int(fault))
            if fault == "html":
                return self._send(200, b"<!DOCTYPE html><html>Quota exceeded</html>", "text/html; charset=utf-8")
            if fault == "html without a type":
                return self._send(200, b"<html><body>Too many users have viewed this file</body></html>")
            if fault == "other bytes":
                return self._send(200, bytes(len(content)))
            start, stop, status = self._range(content)
            body = content[start:stop]
            if fault == "wrong length":
                return self._send(status, body, declared=len(body) + 1000, fault=fault)
            if fault == "stop half way" or fault.startswith("drop after "):
                sent = body[: len(body) // 2 if fault == "stop half way" else int(fault.split()[-1])]
                return self._send(status, sent, declared=len(body), fault=fault, content=content, start=start)
            return self._send(status, body, content=content, start=start)

        def _path(self) -> str:
            return self.path.partition("?")[0]

        def _range(self, content: bytes) -> tuple[int, int, int]:
            wanted = self.headers.get("Range")
            if_range = self.headers.get("If-Range")
            if not wanted or (if_range and if_range not in (self._etag(content), LAST_MODIFIED)):
                return 0, len(content), 200
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            return int(first), min(int(last) + 1 if last else len(content), len(content)), 206

        def _etag(self, content: bytes) -> str:
            return f'"{hashlib.md5(content).hexdigest()}"'

        def _describe(self, content: bytes) -> None:
            self.send_header("ETag", self._etag(content))
            self.send_header("Last-Modified", LAST_MODIFIED)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("X-Repo-Commit", "0123456789abcdef0123456789abcdef01234567")

        def _refuse(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            if status == 429:
                self.send_header("Retry-After", "0")
            self.end_headers()

        def _send(
            self,
            status: int,
            body: bytes,
            kind: str = "application/octet-stream",
            *,
            declared: int | None = None,
            fault: str = "",
            content: bytes | None = None,
            start: int = 0,
        ) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body) if declared is None else declared))
            if content is not None:
                self._describe(content)
            if status == 206 and content is not None:
                last = start + (len(body) if declared is None else declared) - 1
                self.send_header("Content-Range", f"bytes {start}-{last}/{len(content)}")
            self.end_headers()
            self._write(body)
            if fault:
                self.close_connection = True

        def _write(self, body: bytes) -> None:
            size = 2**16 if server.bytes_per_s is None else max(1, int(server.bytes_per_s / 50))
            try:
                for place in range(0, len(body), size or 1):
                    part = body[place : place + size]
                    # Counted first: who has read the last byte may ask for the count at once.
                    server.sent[self._path()] += len(part)
                    self.wfile.write(part)
                    if server.bytes_per_s is not None:
                        time.sleep(0.02)
            except OSError:
                self.close_connection = True

    return Handler
