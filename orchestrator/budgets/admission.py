"""Which fold groups may start, and which of them may try another trial, within the budgets of a sweep.

One rule for all budgets: the groups of a row of a table (a benchmark and a method) start together where they fit beside
what is started. A row that does not fit starts group by group only while no other row is started: a part of one row is
better than nothing, and whole rows are better than parts of further ones. A started group tries another trial only
while all that is started can still finish.

The budgets differ in what fits. Of queries there are upper bounds: a group starts with its whole search, and where no
whole group fits, with its first trial and its repeats. The meter in the workers enforces the budget, and admitted
groups are kept on disk. Of time and money there are forecasts: a group starts with its first trial and its repeats, and
whatever is started is finished, so a forecast that errs may overrun a budget by that. A budget is no part of a sweep's
identity: raise it and run the same command to resume.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.budgets.costs import Account, CostForecast, Extent, GroupStanding, Load
from orchestrator.store.records import Promise
from orchestrator.store.sweep_folder import SweepFolder
from search_spaces.errors import UserError
from search_spaces.methods import method_facts

Standings = Mapping[str, GroupStanding]
"""All fold groups of a sweep, by name."""


class Promises:
    """Fold groups that a query budget has admitted, kept on disk beyond the process that admitted them.

    A command that was killed resumes what it had started. Queries may have been lost on the way, and the sum of the
    upper bounds may be above the budget now; bounds are seldom reached, and the workers' meter stops at the budget.
    """

    def __init__(self, store: SweepFolder) -> None:
        self._store, self._made = store, store.promises()

    def within(self, budget: int) -> dict[str, Extent]:
        """Groups that started within this budget or a smaller one, and how far they were admitted."""
        return {
            group: "first" if promise.narrow else "whole"
            for group, promise in self._made.items()
            if promise.budget <= budget
        }

    def make(self, group: str, budget: int, extent: Extent) -> None:
        """Write down that the group starts, before any of its folds does."""
        if self.within(budget).get(group) != extent:
            self._made[group] = Promise(budget=budget, narrow=extent == "first")
            self._store.write_promises(self._made)

    def take_back(self) -> None:
        """The budget's end was met: from now on the upper bounds decide again."""
        if self._made:
            self._made.clear()
            self._store.write_promises(self._made)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Start:
    """A way to start: these groups together, their queries counted to this extent."""

    groups: Sequence[GroupStanding]
    extent: Extent


class Admission:
    """Admits fold groups, by what their standings say at each question. Without a budget, all may start."""

    def __init__(
        self,
        query_budget: int | None = None,
        *,
        accounts: Sequence[Account] = (),
        forecast: CostForecast | None = None,
        promises: Promises | None = None,
        is_retry: bool = False,
    ) -> None:
        """Start with nothing admitted.

        Args:
            query_budget: most queries ever, images and texts together; None for no limit.
            accounts: budgets of time and money.
            forecast: what folds cost; needed with any budget.
            promises: which groups an earlier process admitted.
            is_retry: only folds that had failed run: time is weighed for each group alone, and no group is exempt for
                having been started.
        """
        if query_budget is not None and query_budget < 0:
            raise UserError(f"the query budget is 0 or more, got {query_budget}")
        self._query_budget, self._accounts, self._promises = query_budget, accounts, promises
        self._known_costs, self._is_retry = forecast, is_retry
        self._queries_for: dict[str, Extent] = {}
        """Groups that the query budget admits. With `first`, every further trial is weighed."""
        self._time_for: set[str] = set()
        """Groups that the budgets of time and money admit."""
        self._reserved: set[str] = set()
        """To start with the rest of their row, once it is known how long its folds take."""
        self._refused: set[tuple[str, bool]] = set()
        self._is_closed = False

    def resume(self, groups: Standings) -> None:
        """Let those of these groups that started within the budgets go on, before any other is looked at."""
        if self._accounts and not self._is_retry:
            self._time_for = {name for name, group in groups.items() if group.is_started}
        if self._query_budget is not None and self._promises is not None:
            promised = self._promises.within(self._query_budget)
            self._queries_for = {name: promised[name] for name in groups if name in promised}

    def admits(self, name: str, groups: Standings, *, queries_only: bool = False) -> bool:
        """Whether a group's folds may run: it was admitted before, or it fits beside what was.

        Args:
            name: of the group that is asked for.
            groups: all of the sweep.
            queries_only: whatever the budgets of time and money say.
        """
        if self._has_queries(name) and (queries_only or self._has_time(name)):
            return True
        if (name, queries_only) in self._refused:
            return False
        weighs_time = not queries_only and not self._has_time(name)
        if weighs_time:
            self._forecast.measure(groups)
            if not self._may_be_measured(groups[name], groups):
                self._refused.add((name, queries_only))
                return False
            self._reserved.clear()
        for start in self._starts(groups[name], groups, weighs_time=weighs_time):
            if self._fits(start, groups, weighs_time=weighs_time):
                self._admit(start, weighs_time=weighs_time)
                return True
        self._refused.add((name, queries_only))
        return False

    def permits_trial(self, name: str, groups: Standings) -> bool:
        """Whether a started group may try another trial, and all that is started can still finish."""
        is_narrow = self._query_budget is not None and self._queries_for.get(name) == "first"
        if not (self._accounts or is_narrow) or not groups[name].is_started:
            return True
        group = groups[name]
        if self._accounts:
            self._forecast.measure(groups)
            others = (other for other in self._open(groups, self._time_for | self._reserved) if other is not group)
            if not self._time_covers([*((other, "first") for other in others), (group, "another")]):
                return False
        return not is_narrow or self._queries_cover([(group, "another")], groups)

    def refusals(self, names: Iterable[str], groups: Standings) -> list[str]:
        """Which budgets do not cover what is left of these groups, one line each."""
        load: Load = [(groups[name], "whole") for name in names]
        lines = []
        if self._accounts:
            self._forecast.measure(groups)
            used, to_come, basis = self._forecast.used(), self._forecast.time(load), self._forecast.basis(load)
            lines = [one.refusal(used, to_come, basis) for one in self._accounts if not one.covers(used, to_come)]
        if self._query_budget is not None:
            promised, asked = self._forecast.queries(load).queries, self._forecast.asked().queries
            if self._is_closed or asked + promised > self._query_budget:
                lines.append(
                    f"the query budget of {self._query_budget:,} does not cover what is left: {asked:,} asked, at most "
                    f"{promised:,} to come; raise --query-budget ({asked + promised:,} would do) and run the same "
                    "command again"
                )
        return lines

    def look_again(self) -> None:
        """A fold ended: its time is known, and it may have asked for less than the bound."""
        self._refused.clear()
        if self._known_costs is not None:
            self._known_costs.refresh()

    def close(self) -> None:
        """A worker met the query budget's end (others may spend it too): nothing that asks starts any more."""
        self._is_closed = True
        self._refused.clear()
        if self._promises is not None:
            self._promises.take_back()

    @property
    def _forecast(self) -> CostForecast:
        assert self._known_costs is not None, "a budget needs a forecast"
        return self._known_costs

    def _has_queries(self, name: str) -> bool:
        return self._query_budget is None or (name in self._queries_for and not self._is_closed)

    def _has_time(self, name: str) -> bool:
        return not self._accounts or name in self._time_for

    def _starts(self, group: GroupStanding, groups: Standings, *, weighs_time: bool) -> Iterator[_Start]:
        """Ways to start the group, the most welcome first."""
        weighs_queries = not self._has_queries(group.name)
        queries_for: Container[str] = () if self._is_closed else self._queries_for
        is_first_to_ask = weighs_queries and _is_first_row(group, groups, queries_for, _asks)
        is_first = is_first_to_ask or not weighs_queries
        if weighs_time and not self._is_retry:
            is_first = is_first and _is_first_row(group, groups, self._time_for, _trains)
        alike = (other for other in groups.values() if other.row == group.row and not other.is_finished)
        new = (other for other in alike if other is not group and self._is_new(other.name, weighs_time=weighs_time))
        rest = [group, *new]
        choices = [rest, [group]] if len(rest) > 1 and is_first else [rest]
        yield from (_Start(groups=choice, extent="whole") for choice in choices)
        whole = (name for name, extent in self._queries_for.items() if extent == "whole")
        if is_first_to_ask and not any(_asks(groups[name]) for name in whole):
            yield from (_Start(groups=choice, extent="first") for choice in choices)

    def _is_new(self, name: str, *, weighs_time: bool) -> bool:
        return not self._has_queries(name) or (weighs_time and not self._has_time(name))

    def _fits(self, start: _Start, groups: Standings, *, weighs_time: bool) -> bool:
        queries: Load = [(group, start.extent) for group in start.groups if not self._has_queries(group.name)]
        if weighs_time and not self._time_fits(self._timed(start), groups):
            return False
        return not queries or self._queries_cover(queries, groups)

    def _admit(self, start: _Start, *, weighs_time: bool) -> None:
        if weighs_time:
            first, *others = (group.name for group in self._timed(start))
            self._time_for.add(first)
            if self._forecast.is_measured(start.groups[0].row):
                self._time_for.update(others)
            else:
                self._reserved = set(others)
        for group in start.groups:
            if self._query_budget is None or self._has_queries(group.name):
                continue
            self._queries_for[group.name] = start.extent
            if self._promises is not None and method_facts(group.row[1]).asks:
                self._promises.make(group.name, self._query_budget, start.extent)

    def _queries_cover(self, wanted: Load, groups: Standings) -> bool:
        """Whether the queries of these groups fit beside those of the others that are admitted."""
        if self._forecast.queries(wanted).queries == 0:
            return True
        if self._is_closed or self._query_budget is None:
            return False
        names = {group.name for group, _ in wanted}
        others = [(groups[name], extent) for name, extent in self._queries_for.items() if name not in names]
        # Before what was asked is looked up: a query that is asked in between then counts twice instead of not at all.
        to_come = self._forecast.queries([*wanted, *others])
        return (self._forecast.asked() + to_come).queries <= self._query_budget

    def _timed(self, start: _Start) -> Sequence[GroupStanding]:
        """The groups of a start whose time is to be weighed, the one that was asked for first."""
        if self._is_retry:
            return start.groups[:1]
        return [group for group in start.groups if group.name not in self._time_for]

    def _time_fits(self, starting: Sequence[GroupStanding], groups: Standings) -> bool:
        """Whether these first trials and those of the rest of their row fit beside the whole searches of other rows."""
        load: list[tuple[GroupStanding, Extent]] = [(group, "first") for group in starting]
        for other in self._open(groups, self._time_for):
            if other.row == starting[0].row or (other.is_idle and not self.permits_trial(other.name, groups)):
                load.append((other, "first"))
            else:
                load.append((other, "whole"))
        return self._time_covers(load)

    def _time_covers(self, load: Load) -> bool:
        used, to_come = self._forecast.used(), self._forecast.time(load)
        return all(account.covers(used, to_come) for account in self._accounts)

    def _may_be_measured(self, group: GroupStanding, groups: Standings) -> bool:
        """One group at a time goes by the assumption, so that a wrong one does not start everything."""
        if self._forecast.is_measured(group.row):
            return True
        return all(
            self._forecast.is_measured(other.row) or (other.is_idle and not self.permits_trial(other.name, groups))
            for other in self._open(groups, self._time_for)
        )

    @staticmethod
    def _open(groups: Standings, names: Container[str]) -> list[GroupStanding]:
        return [group for name, group in groups.items() if name in names and not group.is_finished]


def _is_first_row(
    group: GroupStanding, groups: Standings, admitted: Container[str], counts: Callable[[GroupStanding], bool]
) -> bool:
    """Whether no other row is started, of those that count."""
    return not any(
        (other.is_started or other.name in admitted) and other.row != group.row and counts(other)
        for other in groups.values()
    )


def _trains(group: GroupStanding) -> bool:
    return method_facts(group.row[1]).trains


def _asks(group: GroupStanding) -> bool:
    """Whether its training asks the teacher."""
    facts = method_facts(group.row[1])
    return facts.trains and facts.asks
