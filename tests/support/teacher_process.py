"""`vl2v-orchestrate teacher serve` as a process that a test can make misbehave, kill and start again."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from trainables.teacher.http.wire import TOKEN_VARIABLE

NAME = "open_clip:vl2v-tiny:random:0"
TOKEN = "s3cret-token-of-the-end-to-end-test"


@dataclass
class ServedTeacher:
    """One server on a port of its own; its ledger of what was paid outlives it."""

    folder: Path
    faults: Sequence[str] = ()
    port: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / "server.log").read_text()

    def start(self, *, wait: bool = True) -> None:
        if self.port == 0:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = probe.getsockname()[1]
        arguments = ["teacher", "serve", "--teacher", NAME, "--image-size", "32", "--port", str(self.port)]
        arguments += ["--ledger", str(self.folder / "paid.jsonl")]
        arguments += [part for fault in self.faults for part in ("--fault", fault)]
        program = f"from orchestrator.cli import main; main({arguments!r})"
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", program], stdout=log, stderr=log, env={**os.environ, TOKEN_VARIABLE: TOKEN}
            )
        until = time.monotonic() + 120
        while wait and not self.answers():
            assert self.process.poll() is None, self.log
            assert time.monotonic() < until, self.log
            time.sleep(0.1)

    def answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/v1/teacher", timeout=5.0).status_code == 401
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def paid_so_far(self) -> int:
        """Queries in the ledger's file, whether the server lives or not."""
        file = self.folder / "paid.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return sum(json.loads(line)["count"] for line in lines if line.endswith("}"))

    def paid(self) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        return dict(httpx.get(f"{self.url}/v1/ledger", headers=headers, timeout=30.0).json())


@contextmanager
def served(folder: Path, *faults: str) -> Iterator[ServedTeacher]:
    folder.mkdir(parents=True, exist_ok=True)
    server = ServedTeacher(folder, faults)
    server.start()
    try:
        yield server
    finally:
        server.kill()
