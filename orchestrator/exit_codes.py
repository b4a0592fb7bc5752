"""How a command ends."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of `vl2v-orchestrate`."""

    DONE = 0
    """All that was asked for is there."""
    USER_MISTAKE = 2
    """The user's mistake, a failed preflight, or a disk, storage or Ray that failed in the middle."""
    FAILED_FOLDS = 3
    """Finished, with folds that failed."""
    BUDGET_REACHED = 4
    """A budget lets nothing start that is left."""
    INTERRUPTED = 130
    """Stopped by a signal, or by a no at the question."""
