"""A vendor whose every answer takes a while, on loopback in this process; it counts and can run out of order."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from tests.support.waiting import GENEROUS_S
from trainables.teacher.http.wire import PROTOCOL, pack_arrays, unpack_arrays


class SlowVendor:
    """Embeds an image as its four quarters' means; names no fingerprint at its answers."""

    def __init__(self, *, pause_s: float, last_request: int | None) -> None:
        self.pause_s, self.last_request = pause_s, last_request
        self.paid = self.requests = self.most_at_once = self._at_once = 0
        self._together, self._gathered = 1, threading.Event()
        self._mutex = threading.Lock()
        self.url = ""

    def gather(self, requests: int) -> None:
        """Answer no picture before so many requests have been at work at once; then go on as before."""
        self._gathered.clear()
        self._together = requests

    def answer(self, kind: str, body: bytes) -> tuple[int, bytes]:
        with self._mutex:
            self.requests += 1
            number = self.requests
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            if self._at_once >= self._together:
                self._gathered.set()
        if kind != "texts":
            self._gathered.wait(GENEROUS_S)
        # Later requests are answered earlier.
        time.sleep(self.pause_s * (1.2 if number % 2 else 0.8))
        with self._mutex:
            self._at_once -= 1
            if self.last_request is not None and number > self.last_request:
                return 400, b'{"error": "out of order"}'
            if kind == "texts":
                embeddings = torch.eye(4)[[len(prompt) % 4 for prompt in json.loads(body)["prompts"]]]
            else:
                images = unpack_arrays("images", body)
                quarters = torch.nn.functional.adaptive_avg_pool2d(images, 2).mean(dim=1).flatten(1)
                embeddings = torch.nn.functional.normalize(quarters, dim=-1)
            self.paid += len(embeddings)
        return 200, pack_arrays("embeddings", embeddings)


@contextmanager
def slow_vendor(*, pause_s: float, last_request: int | None = None) -> Iterator[SlowVendor]:
    """Serve one; after `last_request` POST requests every further one is refused."""
    vendor = SlowVendor(pause_s=pause_s, last_request=last_request)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            facts = {"protocol": PROTOCOL, "embedding_dim": 4, "logit_scale": 10.0, "fingerprint": "slow"}
            self._send(200, json.dumps(facts).encode())

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self._send(*vendor.answer(self.path.rpartition("/")[2], body))

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing on stderr."""

        def _send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    vendor.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield vendor
    finally:
        server.shutdown()
        server.server_close()
