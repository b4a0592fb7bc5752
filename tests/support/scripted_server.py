"""A server that answers with whatever bytes a test wants, as slowly as it wants."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch

from trainables.teacher.http.wire import pack_arrays

FACTS: dict[str, Any] = {
    "protocol": 1, "embedding_dim": 4, "logit_scale": 10.0, "fingerprint": "it", "image_size": None, "max_images": 8,
}  # fmt: skip
Reply = Callable[[socket.socket], None]
"""Sends an answer; the connection is closed after it."""


def answer(
    content: bytes = b"", *, status: str = "200 OK", length: int | None = None, headers: Mapping[str, str] | None = None
) -> bytes:
    """An HTTP answer, with the length that its content has unless another is given."""
    lines = {"Content-Length": str(len(content) if length is None else length), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode("latin-1", "replace") + content


def facts(**changes: Any) -> bytes:
    """What a server says of itself."""
    return answer(json.dumps({**FACTS, **changes}).encode())


def embeddings(rows: int = 1) -> bytes:
    """A right answer to a query."""
    return pack_arrays("embeddings", torch.nn.functional.normalize(torch.ones(rows, 4), dim=-1))


def at_once(data: bytes) -> Reply:
    """Everything in one go."""
    return lambda connection: connection.sendall(data)


@dataclass
class ScriptedServer:
    """Answers GET and POST as its two replies say, which may be changed."""

    port: int
    to_get: Reply = field(default_factory=lambda: at_once(facts()))
    to_post: Reply = field(default_factory=lambda: at_once(answer(embeddings())))
    asked: int = 0
    reads_bodies: bool = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def serve(self, connection: socket.socket) -> None:
        """One request; whoever asked may have left."""
        with connection, suppress(OSError, ValueError):
            head = b""
            while b"\r\n\r\n" not in head:
                if not (part := connection.recv(2**16)):
                    return
                head += part
            self.asked += 1
            head, _, body = head.partition(b"\r\n\r\n")
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            missing = int(lengths[0].partition(b":")[2]) - len(body) if lengths else 0
            while missing > 0 and self.reads_bodies:
                missing -= len(connection.recv(min(2**16, missing)) or b"x" * missing)
            (self.to_post if head.startswith(b"POST") else self.to_get)(connection)


@contextmanager
def scripted_server(to_get: Reply | None = None, to_post: Reply | None = None) -> Iterator[ScriptedServer]:
    """Serve until the end of the block."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        listener.settimeout(0.05)
        server = ScriptedServer(listener.getsockname()[1])
        server.to_get, server.to_post = to_get or server.to_get, to_post or server.to_post
        is_over = threading.Event()

        def accept() -> None:
            while not is_over.is_set():
                with suppress(TimeoutError):
                    connection, _ = listener.accept()
                    connection.settimeout(30)
                    threading.Thread(target=server.serve, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield server
        finally:
            is_over.set()
            thread.join()
