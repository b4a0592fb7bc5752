"""Fold groups that a query budget has let begin, remembered beyond the process that let them.

A command that was killed goes on with what it had begun, although queries were lost on the way and the sum of the upper
bounds may be above the budget now: bounds are seldom reached, and the meter in the workers stops at the budget anyway.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.store.records import Promise

if TYPE_CHECKING:
    from orchestrator.store.sweep_folder import SweepFolder


class Promises:
    """What fold groups were promised, by their names."""

    def __init__(self, store: SweepFolder) -> None:
        self._store, self._made = store, store.promises()

    def holds(self, group: str, budget: int) -> bool:
        """Whether the group began within this budget or a smaller one."""
        return group in self._made and self._made[group].budget <= budget

    def is_narrow(self, group: str) -> bool:
        return group in self._made and self._made[group].narrow

    def make(self, group: str, budget: int, *, narrow: bool = False) -> None:
        """Write down that the group begins, before any of its folds does."""
        if not self.holds(group, budget) or self.is_narrow(group) != narrow:
            self._made[group] = Promise(budget=budget, narrow=narrow)
            self._store.write_promises(self._made)

    def take_back(self) -> None:
        """The budget's end was met: from now on the upper bounds decide again."""
        if self._made:
            self._made.clear()
            self._store.write_promises(self._made)
