"""The reference server in a thread of this process, before a teacher that computes next to nothing."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.teacher.http.server import create_app, http_server
from trainables.teacher.http.service import ServiceLimits


@dataclass
class QuickTeacher:
    """Embeds an image as sums over its pixels, a prompt as counts of its letters; `before` runs before each answer."""

    embedding_dim: int = 4
    logit_scale: float = 10.0
    name: str = "quick"
    before: Callable[[], object] = field(default=lambda: None)
    images: int = 0
    texts: int = 0

    def embed_images(self, images_N3HW: Tensor) -> Tensor:
        self.before()
        self.images += len(images_N3HW)
        means = images_N3HW.mean(dim=(1, 2, 3))
        return F.normalize(torch.stack([means + 1 + number for number in range(self.embedding_dim)], dim=1), dim=-1)

    def embed_texts(self, prompts: Sequence[str]) -> Tensor:
        self.before()
        self.texts += len(prompts)
        rows = [[len(prompt) + number + 1.0 for number in range(self.embedding_dim)] for prompt in prompts]
        return F.normalize(torch.tensor(rows), dim=-1)

    def image_encoder(self) -> tuple[nn.Module, int]:
        raise NotImplementedError


@dataclass
class QuickServer:
    """Where it is, and what it logged."""

    port: int
    lines: list[str] = field(default_factory=list)
    """What uvicorn logged as a warning or worse; a traceback is one entry."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connection(self) -> socket.socket:
        """A bare one."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)


class _Lines(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.lines = lines
        self.setFormatter(logging.Formatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@contextmanager
def quick_server(
    teacher: QuickTeacher | None = None, *, limits: ServiceLimits | None = None, **app: Any
) -> Iterator[QuickServer]:
    """Serve until the end of the block."""
    limits = limits or ServiceLimits()
    made = create_app(teacher or QuickTeacher(), fingerprint="quick", limits=limits, **app)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(256)
        running = QuickServer(listener.getsockname()[1])
        server = http_server(made, host="127.0.0.1", port=0, limits=limits)
        handler = _Lines(running.lines)
        logging.getLogger("uvicorn.error").addHandler(handler)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield running
        finally:
            server.should_exit = True
            thread.join(60)
            logging.getLogger("uvicorn.error").removeHandler(handler)
