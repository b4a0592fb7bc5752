"""Failures are told apart by what lies at their bottom, and counted beside the fold."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.attempts import Attempt, allow_again, describe, give_up, read_attempts, record_attempt
from search_spaces.errors import UserError
from trainables.record import FoldFolder


class TrainingDivergedError(RuntimeError):
    """Named as the trainer's own."""


class WorkerGroupError(RuntimeError):
    """As Ray Train's: what went wrong, by rank."""

    def __init__(self, failures: dict[int, Exception]) -> None:
        super().__init__("Training failed due to worker errors:\n[Rank 0 Error Snippet]:\n...")
        self.worker_failures = failures


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    try:
        raise error from cause
    except Exception as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (RuntimeError("first\nlast"), "crash", "RuntimeError: last"),
        (KeyError(), "crash", "KeyError"),
        (UserError("PACS has no domain 'scetch'"), "user", "PACS has no domain 'scetch'"),
        (TrainingDivergedError("loss nan at step 7"), "diverged", "TrainingDivergedError: loss nan at step 7"),
        (raised(RuntimeError("wrapper"), ValueError("inner")), "crash", "ValueError: inner"),
        (raised(RuntimeError("wrapper"), WorkerGroupError({1: UserError("no such file")})), "user", "no such file"),
        (WorkerGroupError({0: MemoryError("12 GiB")}), "crash", "MemoryError: 12 GiB"),
    ],
)
def test_the_kind_and_the_last_line(error: Exception, kind: str, text: str) -> None:
    attempt = describe(error)
    assert (attempt.kind, attempt.error) == (kind, text)
    assert type(error).__name__ in attempt.details


def test_attempts_add_up_and_a_retry_forgives_without_forgetting(tmp_path: Path) -> None:
    folder = FoldFolder(tmp_path)
    assert read_attempts(folder).spent == 0
    for number in range(2):
        record_attempt(folder, Attempt(time=float(number), kind="crash", error=f"error {number}"))
    give_up(folder)
    assert (read_attempts(folder).spent, read_attempts(folder).failed) == (2, True)
    assert read_attempts(folder).error == "error 1"
    allow_again(folder)
    again = read_attempts(folder)
    assert (again.spent, again.failed, len(again.attempts)) == (0, False, 2)
