"""The command line as a process of its own that a test kills in its midst, with everything below it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from tests.chaos.processes import kill_tree

PAUSE_S = 0.002


def started(arguments: Sequence[str]) -> subprocess.Popen[str]:
    program = f"from orchestrator.cli import main; main({list(arguments)!r})"
    return subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def killed_at(arguments: Sequence[str], is_time: Callable[[], bool]) -> None:
    """Run a command and kill it with all its processes (-9) once it is time."""
    process = started(arguments)
    try:
        while not is_time():
            if process.poll() is not None:
                raise AssertionError(f"the command ended before it could be killed: {process.communicate()[1]}")
            time.sleep(PAUSE_S)
    finally:
        kill_tree(process.pid)
        process.communicate()


def finished(arguments: Sequence[str]) -> int:
    """Run a command to its end; its exit code."""
    process = started(arguments)
    _, errors = process.communicate()
    print(errors, file=sys.stderr)
    return process.returncode
