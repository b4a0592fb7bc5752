"""A real MLflow server that can be killed and comes back with the same database, as under a service manager."""

from __future__ import annotations

import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

from tests.chaos.processes import kill_tree, wait_for

READY_TIMEOUT_S = 180.0


class TrackingServer:
    """`mlflow server` on loopback over a SQLite file."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self._environment = folder, environment
        folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.process = self._start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def database(self) -> str:
        return f"sqlite:///{self.folder / 'server.db'}"

    def wait_until_ready(self) -> None:
        assert wait_for(self._answers, timeout_s=READY_TIMEOUT_S, every_s=0.5), "the MLflow server does not start"

    def kill(self) -> None:
        """End the server and its workers as `kill -9` does."""
        kill_tree(self.process.pid)
        self.process.wait()

    def restart(self) -> None:
        self.process = self._start()

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            self.restart()
        try:
            urllib.request.urlopen(f"{self.uri}/health", timeout=2).close()
        except OSError:
            return False
        return True

    def _start(self) -> subprocess.Popen[bytes]:
        """Start it; temporary files that it leaves when it is killed are its own, and lie in its folder."""
        with (self.folder / "server.log").open("ab") as log:
            return subprocess.Popen(
                [
                    sys.executable, "-m", "mlflow", "server", "--backend-store-uri", self.database,
                    "--artifacts-destination", str(self.folder / "artifacts"), "--host", "127.0.0.1",
                    "--port", str(self.port), "--workers", "1",
                ],
                stdout=log, stderr=subprocess.STDOUT, env=self._environment | {"TMPDIR": str(self.folder)},
                start_new_session=True,
            )  # fmt: skip
