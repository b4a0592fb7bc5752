"""What a sweep has written of its plans: the folds of the trials of its fold groups, and which trials are selected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from search_spaces.folds import Fold
from search_spaces.spaces import Point


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedFold:
    """A fold with the key of everything that changes its result."""

    fold: Fold
    key: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRecord:
    """One configuration being tried in a fold group, on the seed that it searches."""

    group: str
    number: int
    point: Point
    folds: tuple[PlannedFold, ...]
    source: Literal["paper", "sampler"]
    created: float
    history: dict[str, list[int]] = field(default_factory=dict)
    """Numbers of the group's trials by state (complete, failed, running) when this one was suggested."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectedTrial:
    """The selected trial of a fold group, and its folds on all the group's seeds (the first is the trial's)."""

    group: str
    number: int
    folds: tuple[PlannedFold, ...]
    trials: int = 0
    """Of how many trials it was selected; 0 for all."""
    without: tuple[int, ...] = ()
    """Trials that had failed by then."""

    def stands(self, has_failed: Callable[[int], bool]) -> bool:
        """Whether the selection holds: a trial that had failed, was retried and did not fail again calls for another.

        Args:
            has_failed: whether a trial, by its number, is failed now.
        """
        return all(has_failed(number) for number in self.without)


@dataclass(frozen=True, kw_only=True, slots=True)
class PairRecord:
    """The pair folds that leave-one-domain-out selection asks for one trial, on the trial's seed."""

    group: str
    number: int
    """The trial's number in its group."""
    folds: tuple[PlannedFold, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Promise:
    """What a fold group was let begin within."""

    budget: int
    narrow: bool
    """It holds for the first trial and its repeats; every further trial is weighed."""
