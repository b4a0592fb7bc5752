"""Serve an output folder's runs with MLflow's own server on loopback, and say where to look."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from orchestrator.tracking.mlflow_client import TrackingError, default_uri
from orchestrator.tracking.mlflow_tracker import Tracker
from search_spaces.errors import UserError
from trainables.storage.redaction import redact

if TYPE_CHECKING:
    from orchestrator.store.sweep_folder import SweepFolder

HOST = "127.0.0.1"
LAST_PORT = 2**16 - 1
START_TIMEOUT_S = 120.0
"""A cold start takes up to 25 s on two loaded cores."""
STOP_TIMEOUT_S = 10.0
_POLL_S = 0.2


def serve_ui(store: SweepFolder, *, port: int, announce: Callable[[str], object]) -> None:
    """Bring MLflow up to date, serve it until Ctrl-C, and announce the comparison's address once it answers.

    Where `MLFLOW_TRACKING_URI` names a server already, only its address is announced.

    Raises:
        UserError: the folder holds no sweep, the port is taken, or the server does not start.
    """
    if not 0 <= port <= LAST_PORT:
        raise UserError(f"--port is 0 (a free one) to {LAST_PORT}, got {port}")
    sweep = store.sweep()
    if sweep is None:
        raise UserError(f"{store.where} holds no sweep; give the --out of one")
    uri = default_uri(store.out)
    tracker = Tracker(store=store, sweep=sweep, uri=uri)
    tracker.preflight()
    try:
        tracker.sync()
        if urlsplit(uri).scheme in ("http", "https"):
            announce(tracker.comparison_address(redact(uri)))
            return
        log = store.out / "mlflow-server.log"
        announce("starting the MLflow server ...")
        with (
            _terminated_like_interrupted(),
            mlflow_server(uri, store.tracking_artifacts, port=port or free_port(), log=log) as base,
        ):
            announce(f"MLflow serves {store.where} at {base} (Ctrl-C ends it); compare sweep {sweep.name!r}:")
            announce(tracker.comparison_address(base))
            while True:
                time.sleep(3600)
    except TrackingError as error:
        raise UserError(f"MLflow does not take {redact(uri)}: {error}") from None


@contextmanager
def mlflow_server(uri: str, artifacts: Path, *, port: int, log: Path) -> Iterator[str]:
    """Run `mlflow server` as a child on loopback; yields its address once it answers, and stops it at the end.

    Raises:
        UserError: the port is taken, or the server ends or stays silent (its log is named).
    """
    if not _port_is_free(port):
        raise UserError(f"port {port} on {HOST} is taken; give another --port, or 0 for a free one")
    command = [sys.executable, "-m", "mlflow", "server", "--artifacts-destination", str(artifacts)]
    command += ["--host", HOST, "--port", str(port), "--workers", "1"]
    environment = {
        **os.environ,
        # Not an argument: an address may hold a password, and arguments are seen by everyone.
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    # Else the server would take itself for a client of that address.
    environment.pop("MLFLOW_TRACKING_URI", None)
    with log.open("wb") as output:
        child = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        try:
            base = f"http://{HOST}:{port}"
            _wait_until_healthy(child, base, log)
            yield base
        finally:
            stop(child)


def stop(child: subprocess.Popen[bytes]) -> None:
    """End a child that leads its own session, and the children it has itself."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, number)
        except ProcessLookupError:
            break
        try:
            child.wait(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            continue


def free_port() -> int:
    """A port that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port


def _port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError):
            return False
    return True


def _wait_until_healthy(child: subprocess.Popen[bytes], base: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise UserError(f"the MLflow server ended at once (exit code {child.returncode}); see {log}")
        try:
            urllib.request.urlopen(f"{base}/health", timeout=2).close()
        except (urllib.error.URLError, OSError):
            time.sleep(_POLL_S)
        else:
            return
    raise UserError(f"the MLflow server did not answer within {START_TIMEOUT_S:.0f} s; see {log}")


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that no server is left behind."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        return
    finally:
        signal.signal(signal.SIGTERM, previous)
