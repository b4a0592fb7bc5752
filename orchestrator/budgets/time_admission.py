"""Budgets of time and money at work: which fold groups may start, and in those whether another trial may.

A row's groups begin when the forecast of their first configuration and its confirmation fits beside the searches that
were begun; a begun group tries a further configuration only while finishing all that is begun still fits, and then its
best so far is confirmed. Nothing that runs is ended, so a forecast that errs may overrun a budget by what is begun.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from orchestrator.budgets.limits import Account
from orchestrator.budgets.table_rows import row_of, together
from orchestrator.search.folds_to_come import folds_left
from search_spaces.methods import method_facts

if TYPE_CHECKING:
    from orchestrator.budgets.time_budget import TimeForecast
    from orchestrator.search.group_search import GroupAgenda


class TimeAdmission:
    """Decides by the accounts of time and money; without one everything may start."""

    def __init__(
        self,
        accounts: Sequence[Account],
        forecast: TimeForecast | None,
        *,
        folds: Callable[[GroupAgenda], int] | None = None,
    ) -> None:
        self._accounts, self._forecast, self._folds = accounts, forecast, folds
        self._groups: Sequence[GroupAgenda] = ()
        self._begun: dict[str, GroupAgenda] = {}
        self._reserved: dict[str, GroupAgenda] = {}
        """To begin with the rest of their row, once it is known how long its folds take."""
        self._postponed: set[str] = set()

    def go_on(self, groups: Sequence[GroupAgenda]) -> None:
        """Decide among these groups; those that are started go on before any other is looked at."""
        self._groups = groups
        if self._folds is None:
            self._begun = {group.group.name: group for group in groups if group.is_started}

    def admits(self, group: GroupAgenda) -> bool:
        """Whether the group's folds may run: it began before, or it fits beside those that did."""
        name = group.group.name
        if not self._accounts or name in self._begun:
            return True
        if name in self._postponed:
            return False
        for one in self._beginning(group):
            self._begun[one.group.name] = one
        if name not in self._begun:
            self._postponed.add(name)
        return name in self._begun

    def permits_trial(self, group: GroupAgenda) -> bool:
        """Whether a group that was begun may try one configuration more, and all that were begun still be finished."""
        if not self._accounts or not group.is_started:
            return True
        others = [*self._open(), *self._reserved.values()]
        load = [(other, folds_left(other).first) for other in others if other is not group]
        return self._cover([*load, (group, folds_left(group).with_another_trial)])

    def refusals(self, groups: Iterable[GroupAgenda]) -> Iterator[str]:
        """Which accounts do not cover what is left of these groups."""
        load = [(group, self._left(group)) for group in groups]
        return (account.refusal(load) for account in self._accounts if not account.covers(load))

    def look_again(self) -> None:
        """A fold ended: its time is known, and another one's may be."""
        self._postponed.clear()
        if self._forecast is not None:
            self._forecast.refresh()

    def _beginning(self, group: GroupAgenda) -> Sequence[GroupAgenda]:
        """What begins with the group now; nothing where it has to wait."""
        if self._folds is not None:
            return [group] if self._may_be_measured(group) and self._fits([group], self._left) else ()
        if not self._may_be_measured(group):
            return ()
        self._reserved.clear()
        for groups in together(group, self._groups, self._begun, _costs):
            if self._fits(groups, lambda one: folds_left(one).first):
                if self._is_measured(group):
                    return groups
                self._reserved = {other.group.name: other for other in groups if other is not group}
                return [group]
        return ()

    def _fits(self, groups: Sequence[GroupAgenda], folds: Callable[[GroupAgenda], int]) -> bool:
        """Whether so many folds of these groups, and of the others of their row, fit beside the searches begun."""
        load = [(group, folds(group)) for group in groups]
        for other in self._open():
            if row_of(other) == row_of(groups[0]):
                if other not in groups:
                    load.append((other, folds(other)))
            else:
                load.append((other, folds_left(other).first if other.is_at_rest else self._left(other)))
        return self._cover(load)

    def _cover(self, load: Sequence[tuple[GroupAgenda, int]]) -> bool:
        return all(account.covers(load) for account in self._accounts)

    def _may_be_measured(self, group: GroupAgenda) -> bool:
        """One group at a time goes by the assumption, so that a wrong one does not begin everything."""
        if self._is_measured(group):
            return True
        return all(self._is_measured(other) or other.is_at_rest for other in self._open())

    def _is_measured(self, group: GroupAgenda) -> bool:
        return self._forecast is None or self._forecast.is_measured(group)

    def _left(self, group: GroupAgenda) -> int:
        return folds_left(group).whole if self._folds is None else self._folds(group)

    def _open(self) -> list[GroupAgenda]:
        return [group for group in self._begun.values() if not group.is_finished]


def _costs(method: str) -> bool:
    return method_facts(method).trains
