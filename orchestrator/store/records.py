"""What a sweep has written of its plans: fold groups, the folds of their trials, and what was chosen."""

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
class ConfirmationRecord:
    """The trial that was chosen in a fold group, and its folds on all the group's seeds (the first is the trial's)."""

    group: str
    number: int
    folds: tuple[PlannedFold, ...]
    trials: int = 0
    """Of how many trials it was chosen; 0 for all."""
    without: tuple[int, ...] = ()
    """Trials that had failed by then."""

    def stands(self, has_failed: Callable[[int], bool]) -> bool:
        """Whether the choice holds: it is made anew once a trial that had failed was retried, and has not.

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
class GroupRecord:
    """A fold group: what is searched together."""

    name: str
    benchmark: str
    method: str
    test_domains: tuple[str, ...]
    """One domain, or all of a benchmark's in scope `benchmark`."""
    trials: int
    seeds: int
    own_seed: int | None = None
    """The one seed that is searched and judged here, where every seed is searched anew; None for seed 0 and on."""

    @property
    def all_seeds(self) -> range:
        """The seed that is searched, and those on which the choice is repeated."""
        first = self.own_seed or 0
        return range(first, first + self.seeds)

    @property
    def num_folds(self) -> int:
        """Folds planned: every trial on the first seed, the chosen one on the other seeds too."""
        return (self.trials + self.seeds - 1) * len(self.test_domains)


@dataclass(frozen=True, kw_only=True, slots=True)
class Promise:
    """What a fold group was let begin within."""

    budget: int
    narrow: bool
    """It holds for the first trial and its confirmation; every further trial is weighed."""
