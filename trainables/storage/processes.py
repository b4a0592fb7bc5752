"""Which process on which machine: to tell what the living do from what the dead have left."""

from __future__ import annotations

import os
import socket
from functools import lru_cache
from pathlib import Path

GONE = -1
"""The start of a process that does not run."""


@lru_cache(maxsize=1)
def this_machine() -> str:
    """Boot and PID namespace of this process; the host's name where the system tells neither."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def process_started(process: int) -> int:
    """Start time from /proc, 0 where the system has none but the process runs, `GONE` where it does not run."""
    try:
        # The command name in field 2 may hold spaces and brackets; field 22 counts from after its last bracket.
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return GONE if fields[0] in "ZX" else int(fields[19])
    except OSError:
        pass
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return GONE
    except PermissionError:
        return 0
    return 0
