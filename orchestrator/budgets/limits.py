"""One account for each budget: what may be used, what was, and what some folds would use. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.search.group_search import GroupAgenda

Load = Sequence[tuple["GroupAgenda", int]]
"""Fold groups, and how many of each one's folds are still to run."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """One budget: what may be used, what was, and what some folds would use."""

    option: str
    name: str
    limit: float
    spent: Callable[[], float]
    cost: Callable[[Load], float]
    basis: Callable[[Load], str]
    """What the cost goes by, in words."""

    def covers(self, load: Load) -> bool:
        """Whether these folds fit what is left; folds that cost nothing always do."""
        cost = self.cost(load)
        return cost == 0 or self.spent() + cost <= self.limit

    def refusal(self, load: Load) -> str:
        """Why these folds do not begin: numbers, and what to do."""
        return (
            f"the {self.name} of {self.limit:,.4g} does not cover what is left: {self.spent():,.4g} spent, "
            f"{self.cost(load):,.4g} forecast ({self.basis(load)}); raise {self.option} and run the same command again"
        )
