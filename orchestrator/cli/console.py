"""Where tables are printed."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

FILE_WIDTH = 160
"""Columns of a table that goes to a file or a pipe."""


def wide_console(*, stderr: bool = False) -> Console:
    """A console on stdout (or stderr), as wide as the terminal, or wide enough for any table where there is none."""
    from rich.console import Console

    width = shutil.get_terminal_size().columns if (sys.stderr if stderr else sys.stdout).isatty() else FILE_WIDTH
    return Console(width=width, highlight=False, soft_wrap=True, stderr=stderr)
