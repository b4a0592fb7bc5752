"""The budget of teacher queries at work: which fold groups may start, and in those whether another trial may.

The meter in every worker never asks one query more than the budget. What is decided here is only where to stop, by
upper bounds: groups begin when all their folds fit what the started ones leave, so that what begins is finished. Where
not even one whole group fits, they begin with their first configuration and its confirmation, and try further ones as
these fit. A group that began goes on after a kill, before any other begins (`orchestrator.budgets.promises`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from orchestrator.budgets.promises import Promises
from orchestrator.budgets.table_rows import is_first_row, together
from orchestrator.plan.query_bounds import Need, total
from search_spaces.errors import UserError
from search_spaces.methods import method_facts

if TYPE_CHECKING:
    from orchestrator.search.group_search import GroupAgenda


class GroupNeed(Protocol):
    """An upper bound of what a group still asks for, with so many further trials; with all of them for None."""

    def __call__(self, group: GroupAgenda, further: int | None = None) -> Need: ...


class QueryAdmission:
    """Decides by the queries that are left; without a budget everything may start."""

    def __init__(
        self, budget: int | None, *, need: GroupNeed, asked: Callable[[], int], promises: Promises | None
    ) -> None:
        if budget is not None and budget < 0:
            raise UserError(f"the query budget is 0 or more, got {budget}")
        self.budget = budget
        self._need, self._asked, self._promises = need, asked, promises
        self._groups: Sequence[GroupAgenda] = ()
        self._admitted: dict[str, GroupAgenda] = {}
        self._narrow: set[str] = set()
        """Admitted with their first trial and its confirmation alone; every further trial is weighed."""
        self._refused: set[str] = set()
        self._closed = False

    def go_on(self, groups: Sequence[GroupAgenda]) -> None:
        """Let those of these groups go on that began within the budget, before any other is looked at."""
        self._groups = groups
        if self.budget is None or self._promises is None:
            return
        for group in groups:
            name = group.group.name
            if self._promises.holds(name, self.budget):
                self._admitted[name] = group
                if self._promises.is_narrow(name):
                    self._narrow.add(name)

    def admits(self, group: GroupAgenda) -> bool:
        """Whether the group's folds may run: it was admitted before, or what it may need fits beside the others."""
        name = group.group.name
        if self.budget is None or (name in self._admitted and not self._closed):
            return True
        if name in self._refused:
            return False
        for groups, narrow in self._ways(group):
            if self._fits([(one, _least(one) if narrow else None) for one in groups]):
                self._admit(groups, narrow=narrow)
                return True
        self._refused.add(name)
        return False

    def permits_trial(self, group: GroupAgenda) -> bool:
        """Whether a group that was begun may try one configuration more, and all that were begun still be finished."""
        if self.budget is None or group.group.name not in self._narrow or not group.is_started:
            return True
        return self._fits([(group, 1)])

    def refusals(self, groups: Iterable[GroupAgenda]) -> Iterator[str]:
        """Why the budget does not cover what is left of these groups, if it does not."""
        if self.budget is None:
            return
        promised = total(map(self._need, groups)).queries
        asked = self._asked()
        if self._closed or asked + promised > self.budget:
            yield (
                f"the query budget of {self.budget:,} does not cover what is left: {asked:,} asked, at most "
                f"{promised:,} to come; raise --query-budget ({asked + promised:,} would do) and run the same "
                "command again"
            )

    def look_again(self) -> None:
        """A fold ended: it may have asked for less than the bound, or left views that others need no more."""
        self._refused.clear()

    def close(self) -> None:
        """A worker met the budget's end (others may spend it too): nothing that asks starts any more."""
        self._closed = True
        self._refused.clear()
        if self._promises is not None:
            self._promises.take_back()

    def _ways(self, group: GroupAgenda) -> Iterator[tuple[list[GroupAgenda], bool]]:
        """What may begin with the group, and whether with the first trial alone, the most welcome first."""
        begun = () if self._closed else self._admitted
        choices = list(together(group, self._groups, begun, _costs))
        yield from ((groups, False) for groups in choices)
        whole = (other for name, other in self._admitted.items() if name not in self._narrow)
        if not any(_costs(other.group.method) for other in whole) and is_first_row(group, self._groups, begun, _costs):
            yield from ((groups, True) for groups in choices)

    def _fits(self, wanted: Sequence[tuple[GroupAgenda, int | None]]) -> bool:
        """Whether these groups, each with its further trials, fit beside what was admitted."""
        need = total(self._need(group, further) for group, further in wanted)
        if need.queries == 0:
            return True
        if self._closed or self.budget is None:
            return False
        names = {group.group.name for group, _ in wanted}
        # Before what was asked is looked up: a query that is asked in between then counts twice instead of not at all.
        others = total(self._promised(other) for name, other in self._admitted.items() if name not in names)
        return self._asked() + (need + others).queries <= self.budget

    def _promised(self, group: GroupAgenda) -> Need:
        return self._need(group, _least(group) if group.group.name in self._narrow else None)

    def _admit(self, groups: Iterable[GroupAgenda], *, narrow: bool) -> None:
        for group in groups:
            name = group.group.name
            self._admitted[name] = group
            if narrow:
                self._narrow.add(name)
            if self.budget is not None and self._promises is not None and method_facts(group.group.method).asks:
                self._promises.make(name, self.budget, narrow=narrow)


def _least(group: GroupAgenda) -> int:
    """Further trials without which a group is not worth its beginning."""
    return 0 if group.is_started else 1


def _costs(method: str) -> bool:
    facts = method_facts(method)
    return facts.trains and facts.asks
