"""Budgets at work: what may start, so that what is started can be finished and tables have whole rows.

Queries are decided on by upper bounds (`orchestrator.budgets.query_admission`), time and money by forecasts
(`orchestrator.budgets.time_admission`). A budget is no part of a sweep's identity: raise it and run the same command
to resume.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from orchestrator.budgets.limits import Account
from orchestrator.budgets.query_admission import GroupNeed, QueryAdmission
from orchestrator.budgets.time_admission import TimeAdmission
from orchestrator.plan.query_bounds import Need

if TYPE_CHECKING:
    from orchestrator.budgets.promises import Promises
    from orchestrator.budgets.time_budget import TimeForecast
    from orchestrator.search.group_search import GroupAgenda


class Admission:
    """Decides which fold groups may start, and in those whether another trial may. Without a budget, all may."""

    def __init__(
        self,
        budget: int | None = None,
        *,
        need: GroupNeed | None = None,
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
        self._queries = QueryAdmission(budget, need=need or _no_need, asked=asked or (lambda: 0), promises=promises)
        self._time = TimeAdmission(accounts, forecast, folds=folds)

    def go_on(self, groups: Sequence[GroupAgenda]) -> None:
        """Decide among these groups; those that began within the budgets go on before any other is looked at."""
        self._queries.go_on(groups)
        self._time.go_on(groups)

    def admits(self, group: GroupAgenda) -> bool:
        """Whether the group's folds may run."""
        return self._time.admits(group) and self._queries.admits(group)

    def queries_admit(self, group: GroupAgenda) -> bool:
        """Whether the query budget lets the group run, whatever the other budgets say."""
        return self._queries.admits(group)

    def permits_trial(self, group: GroupAgenda) -> bool:
        """Whether a group that was begun may try one configuration more, and all that were begun still be finished."""
        return self._time.permits_trial(group) and self._queries.permits_trial(group)

    def refusals(self, groups: Iterable[GroupAgenda]) -> list[str]:
        """Which budgets do not cover what is left of these groups, one line each."""
        left = list(groups)
        return [*self._time.refusals(left), *self._queries.refusals(left)]

    def look_again(self) -> None:
        """A fold ended: what it left decides anew."""
        self._queries.look_again()
        self._time.look_again()

    def close(self) -> None:
        """A worker met the query budget's end: nothing that asks starts any more."""
        self._queries.close()


def _no_need(group: GroupAgenda, further: int | None = None) -> Need:
    return Need()
