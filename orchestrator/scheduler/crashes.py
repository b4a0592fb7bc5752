"""Folds that crash one after the other with one error: what is broken is not the fold, and more of them only burn."""

from __future__ import annotations

from orchestrator.store.failures import Failure

MOST_IN_A_ROW = 5
FEWEST_FOLDS = 3
"""A single fold that crashes again and again fails by itself."""


class CrashesInARow:
    """Crashes with equal text since anything last went well."""

    def __init__(self) -> None:
        self._error, self._folds = "", list[str]()

    def went_well(self) -> None:
        self._folds.clear()

    def crashed(self, key: str, failure: Failure) -> str:
        """Count a failed attempt at a fold; returns what is said where it is one too many, else nothing.

        A killed process or a lost machine says nothing about the next fold, and is not counted.
        """
        if failure.kind != "crash":
            return ""
        if failure.error != self._error:
            self._error, self._folds = failure.error, []
        self._folds.append(key)
        different = len(set(self._folds))
        if len(self._folds) < MOST_IN_A_ROW or different < FEWEST_FOLDS:
            return ""
        return (
            f"{len(self._folds)} attempts at {different} folds crashed in a row with the same error, so no more are "
            f"started: {self._error}; mend it, and run the same command again with --retry-failed"
        )
