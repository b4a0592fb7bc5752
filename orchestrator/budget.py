"""Budgets at work: which fold groups may start, so that what is started can be finished.

Queries: the meter in every worker never asks one more than the budget. What is decided here is only where to stop: a
group begins when an upper bound of all its folds fits what the started ones leave. A group that began goes on after a
kill, before any other begins (`orchestrator.promises`).

Time and money (`orchestrator.limits`): a group begins when the forecast of all its folds fits, and a begun one tries no
further configuration once the forecast of finishing what is begun does not; then its best so far is confirmed, so that
tables have whole rows. Nothing that runs is ended, so a forecast that errs may overrun a budget by what is begun.

A budget is no part of a sweep's identity: raise it, run the same command again, and the sweep goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from orchestrator.limits import Account
from orchestrator.query_forecast import Need, total
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from orchestrator.group_agenda import GroupAgenda
    from orchestrator.promises import Promises
    from orchestrator.time_budget import TimeForecast


class Admission:
    """Decides which fold groups may start, and in those whether another trial may. Without a budget, all may."""

    def __init__(
        self,
        budget: int | None = None,
        *,
        need: Callable[[GroupAgenda], Need] | None = None,
        asked: Callable[[], int] | None = None,
        promises: Promises | None = None,
        accounts: Sequence[Account] = (),
        forecast: TimeForecast | None = None,
        folds: Callable[[GroupAgenda], int] | None = None,
    ) -> None:
        """Remember whom to ask.

        Args:
            budget: most queries ever, images and texts together; None for no limit.
            need: an upper bound of what a group still asks for.
            asked: queries that were asked so far, in all of the store.
            promises: which groups an earlier process let begin.
            accounts: budgets of time and money.
            forecast: what these go by.
            folds: how many folds of a group are to run, where it is not all that are left; then none is exempt for
                having been begun.
        """
        if budget is not None and budget < 0:
            raise UserError(f"the query budget is 0 or more, got {budget}")
        self.budget = budget
        self._need: Callable[[GroupAgenda], Need] = need or (lambda group: Need())
        self._asked = asked or (lambda: 0)
        self._promises = promises
        self._accounts, self._forecast, self._folds = accounts, forecast, folds
        self._admitted: dict[str, GroupAgenda] = {}
        self._refused: set[str] = set()
        self._begun: dict[str, GroupAgenda] = {}
        self._postponed: set[str] = set()
        self._closed = False

    def go_on(self, groups: Iterable[GroupAgenda]) -> None:
        """Let these groups go on that began within the query budget, before any other is looked at."""
        if self.budget is not None and self._promises is not None:
            for group in groups:
                if self._promises.holds(group.group.name, self.budget):
                    self._admitted[group.group.name] = group

    def admits(self, group: GroupAgenda) -> bool:
        """Whether the group's folds may run: it was admitted before, or all that it may need fits beside the others."""
        return self._time_admits(group) and self.queries_admit(group)

    def queries_admit(self, group: GroupAgenda) -> bool:
        """Whether the query budget lets the group run, whatever the other budgets say."""
        name = group.group.name
        if self.budget is None or (name in self._admitted and not self._closed):
            return True
        if name in self._refused:
            return False
        need = self._need(group)
        open_groups = [other for other in self._admitted.values() if not other.is_finished]
        # Before what was asked is looked up: a query that is asked in between then counts twice instead of not at all.
        promised = total([need, *map(self._need, open_groups)])
        fits = need.queries == 0 or (not self._closed and self._asked() + promised.queries <= self.budget)
        if fits:
            self._admitted[name] = group
            if need.queries and self._promises is not None:
                self._promises.make(name, self.budget)
        else:
            self._refused.add(name)
        return fits

    def permits_trial(self, group: GroupAgenda) -> bool:
        """Whether a group that was begun may try one configuration more, and all that were begun still be finished."""
        if not self._accounts or not group.is_started:
            return True
        load = [(other, other.num_to_finish) for other in self._open() if other is not group]
        load.append((group, group.num_to_finish + group.num_per_trial))
        return all(account.covers(load) for account in self._accounts)

    def refusals(self, groups: Iterable[GroupAgenda]) -> list[str]:
        """Which budgets do not cover what is left of these groups, one line each."""
        load = [(group, self._left(group)) for group in groups]
        lines = [account.refusal(load) for account in self._accounts if not account.covers(load)]
        if self.budget is not None:
            promised = total(self._need(group) for group, _ in load).queries
            asked = self._asked()
            if self._closed or asked + promised > self.budget:
                lines.append(
                    f"the query budget of {self.budget:,} does not cover what is left: {asked:,} asked, at most "
                    f"{promised:,} to come; raise --query-budget ({asked + promised:,} would do) and run the same "
                    "command again"
                )
        return lines

    def look_again(self) -> None:
        """A fold ended: it may have asked for less than the bound, or left views that others need no more."""
        self._refused.clear()
        self._postponed.clear()
        if self._forecast is not None:
            self._forecast.refresh()

    def close(self) -> None:
        """A worker met the budget's end (others may spend it too): nothing that asks starts any more."""
        self._closed = True
        self._refused.clear()
        if self._promises is not None:
            self._promises.take_back()

    def _time_admits(self, group: GroupAgenda) -> bool:
        name = group.group.name
        if not self._accounts or name in self._begun:
            return True
        if name in self._postponed:
            return False
        exempt = self._folds is None and group.is_started
        if exempt or (self._may_be_measured(group) and self._covers(group)):
            self._begun[name] = group
            return True
        self._postponed.add(name)
        return False

    def _may_be_measured(self, group: GroupAgenda) -> bool:
        """One group at a time goes by the assumption, so that a wrong one does not begin everything."""
        forecast = self._forecast
        if forecast is None or forecast.is_measured(group):
            return True
        return all(forecast.is_measured(other) or other.is_at_rest for other in self._open())

    def _covers(self, group: GroupAgenda) -> bool:
        load = [(other, self._left(other)) for other in [*self._open(), group]]
        return all(account.covers(load) for account in self._accounts)

    def _left(self, group: GroupAgenda) -> int:
        return group.num_left if self._folds is None else self._folds(group)

    def _open(self) -> list[GroupAgenda]:
        return [group for group in self._begun.values() if not group.is_finished]
