"""What went wrong with a fold, kept beside it: `FOLDER/error.json` holds every failed attempt, and the giving up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from trainables.storage.fold_folder import FoldFolder
from trainables.storage.json_files import read_record, write_json

FailureKind = Literal[
    "user", "budget", "overtaken", "out_of_memory", "lost_node", "lost", "crash", "diverged", "no_metric"
]
"""`lost` is a worker process that died alone, `lost_node` one whose machine went; `overtaken` is one that was taken for
dead, and whose fold is somebody else's now. A user's mistake and the end of a budget end the sweep; a diverged loss or
a missing metric would come back with equal numbers."""

UNCOUNTED: frozenset[FailureKind] = frozenset({"out_of_memory", "lost_node"})
"""Not counted towards the largest number of failures; each has a limit of its own."""

MEMORY_RETRIES = 1
"""A fold that ran out of memory is tried once more, its batches in twice as many pieces."""

LOST_NODES_WITHOUT_PROGRESS = 20
"""Machines in a row that a fold may lose without one evaluation more; after that it is taken for the reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One attempt at a fold that ended without a result."""

    time: float
    """When it ended, in Unix seconds."""
    kind: FailureKind
    error: str
    """The error's last line."""
    details: str = ""
    """The traceback, where there is one."""
    evaluations: int = 0
    """Evaluations in the fold's journals by then: how far it was."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FoldAttempts:
    """Every failed attempt at a fold, in order."""

    attempts: tuple[Attempt, ...] = ()
    failed: bool = False
    """No further attempt is made, until somebody asks for one."""
    spent: int = 0
    """Attempts that count towards the limit; asking for a retry sets it back to 0."""
    forgiven: int = 0
    """Attempts before a retry was last asked for; they count towards no limit."""

    @property
    def error(self) -> str:
        """The last attempt's last line, or nothing."""
        return self.attempts[-1].error if self.attempts else ""

    @property
    def doublings(self) -> int:
        """How often the pieces of a batch are doubled: once for every time that memory ran out."""
        return sum(attempt.kind == "out_of_memory" for attempt in self.attempts)

    def permit_another(self, max_failures: int) -> bool:
        """Whether another attempt may follow the last one."""
        last, recent = self.attempts[-1], self.attempts[self.forgiven :]
        if last.kind == "out_of_memory":
            return sum(attempt.kind == "out_of_memory" for attempt in recent) <= MEMORY_RETRIES
        if last.kind == "lost_node":
            return _in_vain(recent) < LOST_NODES_WITHOUT_PROGRESS
        return last.kind in ("crash", "lost") and self.spent <= max_failures


def attempts_file(folder: FoldFolder) -> Path:
    return folder.path / "error.json"


def read_attempts(folder: FoldFolder) -> FoldAttempts:
    """The attempts that failed; none where nothing went wrong."""
    advice = "remove it, and the fold has all its attempts again"
    return read_record(FoldAttempts, attempts_file(folder), advice=advice) or FoldAttempts()


def record_attempt(folder: FoldFolder, attempt: Attempt) -> FoldAttempts:
    """Add a failed attempt."""
    before = read_attempts(folder)
    spent = before.spent + (attempt.kind not in UNCOUNTED)
    after = replace(before, attempts=(*before.attempts, attempt), spent=spent)
    _write(folder, after)
    return after


def record_and_decide(folder: FoldFolder, attempt: Attempt, *, align: FoldFolder | None, max_failures: int) -> bool:
    """Add a failed attempt; True where another one follows, else the fold is given up.

    Args:
        align: of the fold's Align stage, whose journal tells of progress too.
        max_failures: most further attempts after crashes and worker processes that died.
    """
    progress = evaluations([folder] if align is None else [folder, align])
    after = record_attempt(folder, replace(attempt, evaluations=progress))
    if after.permit_another(max_failures):
        return True
    give_up(folder)
    return False


def evaluations(folders: Iterable[FoldFolder]) -> int:
    """Different evaluations in the journals of these folders."""
    places = {folder.path: folder for folder in folders}.values()
    return sum(entry.get("kind") == "evaluation" for folder in places for entry in folder.read_journal())


def give_up(folder: FoldFolder) -> None:
    """Mark a fold as failed."""
    _write(folder, replace(read_attempts(folder), failed=True))


def allow_again(folder: FoldFolder) -> None:
    """Give a failed fold its attempts back; what went wrong before stays on record, and so do the pieces of a batch."""
    before = read_attempts(folder)
    if before.spent or before.failed:
        _write(folder, FoldAttempts(attempts=before.attempts, forgiven=len(before.attempts)))


def _in_vain(attempts: Iterable[Attempt]) -> int:
    """Lost machines at the end of the attempts since the fold's last evaluation."""
    count, so_far = 0, -1
    for attempt in attempts:
        same = attempt.kind == "lost_node" and attempt.evaluations <= so_far
        count = count + 1 if same else int(attempt.kind == "lost_node")
        so_far = max(so_far, attempt.evaluations)
    return count


def _write(folder: FoldFolder, content: FoldAttempts) -> None:
    write_json(attempts_file(folder), asdict(content))
