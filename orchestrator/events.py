"""What is told to whoever watches: counts of folds, what just happened to one of them, and what a check found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from search_spaces.folds import Fold

EventKind = Literal[
    "sweep_started",
    "fold_started",
    "fold_reported",
    "fold_done",
    "fold_retried",
    "fold_failed",
    "fold_pruned",
    "message",
    "sweep_finished",
]


ChangedFold = tuple[str, str]
"""A fold group's name and a fold's key."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """Folds by state; `planned` is the sum of the others."""

    done: int = 0
    running: int = 0
    failed: int = 0
    pruned: int = 0
    """Stopped early, or not run because their configuration was stopped."""
    waiting: int = 0

    @property
    def planned(self) -> int:
        return self.done + self.running + self.failed + self.pruned + self.waiting

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            done=self.done + other.done,
            running=self.running + other.running,
            failed=self.failed + other.failed,
            pruned=self.pruned + other.pruned,
            waiting=self.waiting + other.waiting,
        )


STATES = tuple(field.name for field in fields(Counts))
"""Names of the states."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FoldEvent:
    """The fold an event is about."""

    key: str
    group: str
    number: int | None
    """Trial number within the group; None outside a search."""
    fold: Fold
    method: str
    attempt: int = 1
    """1 for the first attempt."""
    accuracy: float | None = None
    """Mean source validation accuracy of a finished fold, as a fraction."""
    seconds: float | None = None
    error: str = ""
    """Last line of what went wrong, or why the fold was pruned."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgressEvent:
    """One thing that happened."""

    kind: EventKind
    counts: Counts
    fold: FoldEvent | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """What a worker reported (`fold_reported`): stage, step, source validation accuracy and cross-entropy."""
    text: str = ""


Progress = Callable[[ProgressEvent], None]


def no_progress(event: ProgressEvent) -> None:
    """Watch nothing."""


FindingState = Literal["ok", "note", "wrong"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was looked at."""

    state: FindingState
    """`ok`, `note` (works, but worth knowing) or `wrong` (a sweep would fail)."""
    subject: str
    text: str

    def to_mapping(self) -> dict[str, Any]:
        return asdict(self)
