"""The failures of a fold, kept beside it in `FOLDER/error.json`, and whether another attempt follows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from trainables.storage.fold_folder import FoldFolder
from trainables.storage.json_files import readable_record, write_json

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
class Failure:
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
class FailureHistory:
    """The failures of a fold, in order."""

    attempts: tuple[Failure, ...] = ()
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
        return sum(failure.kind == "out_of_memory" for failure in self.attempts)

    def permit_another(self, max_failures: int) -> bool:
        """Whether another attempt may follow the last one."""
        last, recent = self.attempts[-1], self.attempts[self.forgiven :]
        if last.kind == "out_of_memory":
            return sum(failure.kind == "out_of_memory" for failure in recent) <= MEMORY_RETRIES
        if last.kind == "lost_node":
            return _in_vain(recent) < LOST_NODES_WITHOUT_PROGRESS
        return last.kind in ("crash", "lost") and self.spent <= max_failures


def failures_file(folder: FoldFolder) -> Path:
    return folder.path / "error.json"


def read_failures(folder: FoldFolder) -> FailureHistory:
    """The attempts that failed; none where nothing went wrong, or the file is damaged: all attempts are left then."""
    return readable_record(FailureHistory, failures_file(folder)) or FailureHistory()


def record_failure(folder: FoldFolder, failure: Failure) -> FailureHistory:
    """Add a failure."""
    before = read_failures(folder)
    spent = before.spent + (failure.kind not in UNCOUNTED)
    after = replace(before, attempts=(*before.attempts, failure), spent=spent)
    _write(folder, after)
    return after


def record_and_decide(folder: FoldFolder, failure: Failure, *, align: FoldFolder | None, max_failures: int) -> bool:
    """Add a failure; True where another attempt follows, else the fold is failed.

    Args:
        align: of the fold's Align stage, whose journal tells of progress too.
        max_failures: most further attempts after crashes and worker processes that died.
    """
    progress = evaluations([folder] if align is None else [folder, align])
    after = record_failure(folder, replace(failure, evaluations=progress))
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
    _write(folder, replace(read_failures(folder), failed=True))


def allow_again(folder: FoldFolder) -> None:
    """Give a failed fold its attempts back; what went wrong before stays on record, and so do the pieces of a batch."""
    before = read_failures(folder)
    if before.spent or before.failed:
        _write(folder, FailureHistory(attempts=before.attempts, forgiven=len(before.attempts)))


def _in_vain(attempts: Iterable[Failure]) -> int:
    """Lost machines at the end of the attempts since the fold's last evaluation."""
    count, so_far = 0, -1
    for failure in attempts:
        same = failure.kind == "lost_node" and failure.evaluations <= so_far
        count = count + 1 if same else int(failure.kind == "lost_node")
        so_far = max(so_far, failure.evaluations)
    return count


def _write(folder: FoldFolder, content: FailureHistory) -> None:
    write_json(failures_file(folder), asdict(content))
