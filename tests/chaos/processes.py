"""Every process that descends from this one, also those whose parents were killed; to be found, killed and counted.

Linux only: reads /proc, and becomes the parent of orphans, so that none gets out of sight.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SET_CHILD_SUBREAPER = 36
"""`PR_SET_CHILD_SUBREAPER` of prctl(2)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    """A row of the process table."""

    number: int
    parent: int
    started: int
    """In clock ticks since boot: a number may be given out again."""
    state: str
    title: str
    """The command line; Ray's workers write what they run into it."""

    @property
    def is_alive(self) -> bool:
        return self.state not in "ZX"

    @property
    def words(self) -> str:
        """The start of the command line, for a reader."""
        return self.title[:80] or f"[{self.number}]"


def adopt_orphans() -> None:
    """Make this process the parent of all its descendants whose own parents end."""
    if ctypes.CDLL(None, use_errno=True).prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def descendants(ancestor: int | None = None) -> list[Process]:
    """All living processes below one (this one), deepest last."""
    table = {process.number: process for process in _table()}
    children: dict[int, list[Process]] = {}
    for process in table.values():
        children.setdefault(process.parent, []).append(process)
    found, waiting = [], [ancestor or os.getpid()]
    while waiting:
        for child in children.get(waiting.pop(0), ()):
            found.append(child)
            waiting.append(child.number)
    return [process for process in found if process.is_alive]


def kill(process: Process) -> bool:
    """SIGKILL exactly this process; False where it is gone already."""
    now = _read(process.number)
    if now is None or now.started != process.started or not now.is_alive:
        return False
    with suppress(ProcessLookupError):
        os.kill(process.number, signal.SIGKILL)
        return True
    return False


def kill_tree(ancestor: int) -> None:
    """SIGKILL a process and all below it, its children first told nothing."""
    top = _read(ancestor)
    for process in [*([top] if top is not None else []), *descendants(ancestor)]:
        kill(process)


def bury(*, except_for: Mapping[int, object]) -> None:
    """Take the exit codes of adopted orphans, so that they do not stay in the table; others wait for their own."""
    own = os.getpid()
    for process in list(_table()):
        if process.parent == own and not process.is_alive and process.number not in except_for:
            with suppress(ChildProcessError):
                os.waitpid(process.number, os.WNOHANG)


def wait_for(condition: Callable[[], bool], *, timeout_s: float, every_s: float = 0.1) -> bool:
    """Whether a condition came true in time."""
    until = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(every_s)
    return True


def _table() -> Iterator[Process]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            process = _read(int(folder.name))
            if process is not None:
                yield process


def _read(number: int) -> Process | None:
    try:
        # The command name in field 2 may hold spaces and brackets.
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
        title = Path(f"/proc/{number}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return None
    return Process(number=number, parent=int(fields[1]), started=int(fields[19]), state=fields[0], title=title)
