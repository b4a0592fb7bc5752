"""A row of equal crashes is told from folds that fail for reasons of their own."""

from __future__ import annotations

from orchestrator.scheduler.crashes import MOST_IN_A_ROW, CrashesInARow
from orchestrator.store.failures import Failure, FailureKind


def attempt(kind: FailureKind = "crash", error: str = "RuntimeError: no driver") -> Failure:
    return Failure(time=0.0, kind=kind, error=error)


def test_equal_crashes_of_several_folds_in_a_row_are_too_many() -> None:
    crashes = CrashesInARow()
    said = [crashes.crashed(key, attempt()) for key in "aabbc"]
    assert said[:-1] == [""] * 4
    assert said[-1].startswith("5 attempts at 3 folds crashed in a row with the same error")
    assert "RuntimeError: no driver; mend it" in said[-1]


def test_one_fold_alone_other_errors_and_killed_processes_are_not() -> None:
    crashes = CrashesInARow()
    assert not any(crashes.crashed("a", attempt()) for _ in range(3 * MOST_IN_A_ROW))
    assert not any(crashes.crashed(key, attempt(error=f"error {key}")) for key in "abcdefgh")
    assert not any(crashes.crashed(key, attempt(kind="lost")) for key in "abcdefgh")


def test_a_fold_that_goes_well_begins_a_new_row() -> None:
    crashes = CrashesInARow()
    for key in "abcdefgh":
        assert crashes.crashed(key, attempt()) == ""
        crashes.went_well()
