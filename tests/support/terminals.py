"""A command on a terminal of its own, as a person sits before it."""

from __future__ import annotations

import os
import pty
import select
import signal
import sys
import time
from pathlib import Path

WAIT_S = 180.0


class Terminal:
    """A Python program on a pseudo-terminal: what it writes is read, what is said is typed."""

    def __init__(self, program: str, *arguments: str | Path) -> None:
        self.seen = ""
        self.process, self._terminal = pty.fork()
        if self.process == 0:
            os.environ.pop("PYTHONBREAKPOINT", None)
            os.environ.update(TERM="xterm", COLUMNS="160", PYTHONWARNINGS="ignore")
            os.execv(sys.executable, [sys.executable, "-c", program, *map(str, arguments)])

    def read_until(self, words: str) -> str:
        """Everything up to these words; the next call goes on behind them."""
        until = time.monotonic() + WAIT_S
        while words not in self.seen:
            assert time.monotonic() < until, f"no {words!r} in {self.seen[-3000:]!r}"
            if not select.select([self._terminal], [], [], 0.2)[0]:
                continue
            try:
                self.seen += os.read(self._terminal, 65536).decode(errors="replace")
            except OSError:
                raise AssertionError(f"it ended without {words!r}: {self.seen[-3000:]!r}") from None
        before, _, self.seen = self.seen.partition(words)
        return before

    def say(self, line: str) -> None:
        """Type a line."""
        os.write(self._terminal, f"{line}\n".encode())

    def exit_code(self) -> int:
        """Read to the end, and say how it ended."""
        while True:
            try:
                self.seen += os.read(self._terminal, 65536).decode(errors="replace")
            except OSError:
                return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])

    def close(self) -> None:
        """End it, whatever it does."""
        try:
            os.kill(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        os.close(self._terminal)
