"""What went wrong with a fold, kept beside it: `FOLDER/error.json` holds every failed attempt, and the giving up."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from search_spaces.configuration import from_mapping
from search_spaces.errors import UserError
from trainables.record import FoldFolder, read_json, write_json
from trainables.teacher.ledger import BudgetReached

FailureKind = Literal["user", "budget", "crash", "lost", "diverged", "no_metric"]

RETRYABLE: frozenset[FailureKind] = frozenset({"crash", "lost"})
"""A diverged loss or a missing metric comes back with equal numbers; a user's mistake ends the sweep, and so does the
end of a query budget."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class FoldAttempts:
    """Every failed attempt at a fold, in order."""

    attempts: tuple[Attempt, ...] = ()
    failed: bool = False
    """No further attempt is made, until somebody asks for one."""
    spent: int = 0
    """Attempts that count towards the limit; asking for a retry sets it back to 0."""

    @property
    def error(self) -> str:
        """The last attempt's last line, or nothing."""
        return self.attempts[-1].error if self.attempts else ""


def attempts_file(folder: FoldFolder) -> Path:
    return folder.path / "error.json"


def read_attempts(folder: FoldFolder) -> FoldAttempts:
    """The attempts that failed; none where nothing went wrong."""
    content = read_json(attempts_file(folder))
    return FoldAttempts() if content is None else from_mapping(FoldAttempts, content)


def record_attempt(folder: FoldFolder, attempt: Attempt) -> FoldAttempts:
    """Add a failed attempt."""
    before = read_attempts(folder)
    after = FoldAttempts(attempts=(*before.attempts, attempt), failed=before.failed, spent=before.spent + 1)
    _write(folder, after)
    return after


def give_up(folder: FoldFolder) -> None:
    """Mark a fold as failed."""
    before = read_attempts(folder)
    _write(folder, FoldAttempts(attempts=before.attempts, failed=True, spent=before.spent))


def allow_again(folder: FoldFolder) -> None:
    """Give a failed fold its attempts back; what went wrong before stays on record."""
    before = read_attempts(folder)
    if before.spent or before.failed:
        _write(folder, FoldAttempts(attempts=before.attempts))


def describe(error: BaseException) -> Attempt:
    """Tell failures apart by the exception that lies at the bottom of what the engines wrapped around it."""
    told = next((link for link in chain(error) if isinstance(link, UserError | BudgetReached)), None)
    root = told or list(chain(error))[-1]
    details = "".join(traceback.format_exception(error))
    return Attempt(time=time.time(), kind=_kind(root), error=_last_line(root), details=details)


def chain(error: BaseException) -> Iterator[BaseException]:
    """The exception, then what caused it; worker failures of Ray Train and Ray's task errors are looked into."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        link = waiting.pop(0)
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        failures: dict[int, Any] = getattr(link, "worker_failures", None) or {}
        inner = [*failures.values(), getattr(link, "cause", None), link.__cause__]
        waiting.extend(item for item in inner if isinstance(item, BaseException))


def _kind(error: BaseException) -> FailureKind:
    if isinstance(error, UserError):
        return "user"
    if isinstance(error, BudgetReached):
        return "budget"
    name = type(error).__name__
    if name == "TrainingDivergedError":
        return "diverged"
    return "lost" if name in LOST else "crash"


LOST = frozenset({"ActorDiedError", "ActorUnavailableError", "RayActorError", "WorkerCrashedError", "NodeDiedError"})


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    text = lines[-1].strip() if lines else ""
    if isinstance(error, UserError | BudgetReached):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _write(folder: FoldFolder, content: FoldAttempts) -> None:
    write_json(attempts_file(folder), asdict(content))
