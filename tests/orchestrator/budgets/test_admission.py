"""One rule admits fold groups, by values alone: no search, no store, no engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import SimpleNamespace

import pytest

from orchestrator.budgets.admission import Admission
from orchestrator.budgets.costs import Account, Cost, CostForecast, GroupStanding, Rates, accounts
from orchestrator.plan.query_bounds import Need
from orchestrator.run_options import Limits
from orchestrator.search.folds_to_come import FoldsLeft
from orchestrator.store.usage import Usage

SECONDS_PER_FOLD = 10.0
QUERIES_PER_FOLD = 7
FOLDS, FIRST = 4, 2
"""Of a group that is not started: three trials and one further seed; a first trial and its repeat."""


def fresh(name: str, method: str = "kd", benchmark: str = "icons") -> GroupStanding:
    """A group of which nothing has run."""
    return GroupStanding(
        name=name,
        row=(benchmark, method),
        is_started=False,
        is_finished=False,
        is_idle=False,
        left=FoldsLeft(whole=FOLDS, to_finish=0, first=FIRST, with_another_trial=FIRST),
        queries={None: Need(images=FOLDS * QUERIES_PER_FOLD), 1: Need(images=FIRST * QUERIES_PER_FOLD)},
    )


def started(group: GroupStanding) -> GroupStanding:
    """The group with its first trial done: the repeat is left, two trials are to come."""
    return replace(
        group,
        is_started=True,
        left=FoldsLeft(whole=3, to_finish=1, first=1, with_another_trial=2),
        took=(SECONDS_PER_FOLD,),
        queries={
            None: Need(images=3 * QUERIES_PER_FOLD),
            1: Need(images=2 * QUERIES_PER_FOLD),
            0: Need(images=QUERIES_PER_FOLD),
        },
    )


def groups_of(*groups: GroupStanding) -> dict[str, GroupStanding]:
    return {group.name: group for group in groups}


ROW = groups_of(fresh("a"), fresh("b"), fresh("c"))


def admission(*, folds: int | None = None, query_folds: int | None = None, asked: int = 0) -> Admission:
    """Budgets that hold so many folds, one after the other, and so many folds' queries."""
    costs = CostForecast(
        lambda kind: SECONDS_PER_FOLD,
        SimpleNamespace(total=Usage(), elapsed=lambda key: 0.0),  # type: ignore[arg-type]
        rates=Rates(gpus_per_fold=1.0),
        asked=lambda: asked * QUERIES_PER_FOLD,
    )
    costs.at_once = lambda: 1
    limits = Limits(wall_hours=None if folds is None else folds * SECONDS_PER_FOLD / 3600.0)
    budget = None if query_folds is None else query_folds * QUERIES_PER_FOLD
    return Admission(budget, accounts=accounts(limits), forecast=costs)


def admitted(one: Admission, groups: Mapping[str, GroupStanding]) -> list[str]:
    return [name for name in groups if one.admits(name, groups)]


def test_costs_add_up_and_are_held_against_limits() -> None:
    one, other = Cost(queries=3, gpu_seconds=3600.0, wall_seconds=1800.0, money=2.0), Cost(queries=4, money=0.5)
    assert one + other == Cost(queries=7, gpu_seconds=3600.0, wall_seconds=1800.0, money=2.5)
    gpu, wall, money = accounts(Limits(gpu_hours=1.5, wall_hours=0.75, money=4.0))

    def covered(account: Account) -> list[bool]:
        half = replace(one, gpu_seconds=1800.0, wall_seconds=900.0)
        return [account.covers(one, half), account.covers(one, one), account.covers(one + one + one, other)]

    assert covered(gpu) == [True, False, True], "2 h and more are above 1.5 h; what costs nothing is covered"
    assert covered(wall) == [True, False, True]
    assert covered(money) == [True, True, False]


def test_a_row_starts_whole_or_in_part_while_it_is_the_first() -> None:
    assert admitted(admission(query_folds=3 * FOLDS), ROW) == ["a", "b", "c"]
    assert admitted(admission(query_folds=2 * FOLDS + FIRST), ROW) == ["a", "b"], "no first trial beside whole groups"
    another = groups_of(*ROW.values(), started(fresh("x", "vl2v_adip")))
    assert admitted(admission(query_folds=2 * FOLDS), another) == ["x"], "a part of a second row is worth nothing"
    free = groups_of(*ROW.values(), started(fresh("x", "erm")))
    assert admitted(admission(query_folds=2 * FOLDS), free)[:2] == ["a", "b"], "the row of `erm` asks for nothing"
    takes_time = admission_with(free, folds=3 + 2 * FIRST)
    takes_time.look_again()
    assert admitted(takes_time, free) == ["x"], "but it takes time: 3 folds, and 6 of the whole row"


def test_queries_below_a_whole_group_buy_first_trials_and_every_further_one_is_weighed() -> None:
    small = admission(query_folds=FOLDS - 1)
    assert admitted(small, ROW) == ["a"]
    after = {**ROW, "a": started(ROW["a"])}
    assert small.permits_trial("a", after), "two folds of three"
    assert not admission(query_folds=FIRST, asked=1).admits("b", after)
    tight = admission(query_folds=FOLDS - 1, asked=0)
    assert tight.admits("a", ROW)
    spent = replace(after["a"], queries={**after["a"].queries, 1: Need(images=FOLDS * QUERIES_PER_FOLD)})
    assert not tight.permits_trial("a", {**ROW, "a": spent})


def test_time_admits_one_group_until_its_folds_are_measured_and_keeps_the_rest_of_the_row() -> None:
    one = admission(folds=3 * FIRST)
    assert admitted(one, ROW) == ["a"]
    after = {**ROW, "a": started(ROW["a"])}
    # A trial more and its repeat, beside two first trials with theirs: six folds of six.
    assert one.permits_trial("a", after)
    dear = replace(after["a"], left=FoldsLeft(whole=3, to_finish=1, first=1, with_another_trial=3))
    assert not one.permits_trial("a", {**after, "a": dear}), "one more would take it from the rest of the row"
    less = admission(folds=3 * FIRST - 1)
    assert admitted(less, ROW) == ["a"], "in part: the row does not fit"
    assert less.permits_trial("a", after)
    one.look_again()
    assert admitted(one, after) == ["a", "b", "c"]
    dearer = {**after, "b": started(ROW["b"]), "c": ROW["c"]}
    assert not admission_with(dearer, folds=2).permits_trial("a", dearer), "one repeat and two folds do not fit two"
    assert admission_with(dearer, folds=3).permits_trial("a", dearer)


def admission_with(groups: Mapping[str, GroupStanding], *, folds: int) -> Admission:
    one = admission(folds=folds)
    one.resume(groups)
    return one


def test_a_row_starts_only_where_every_budget_holds_it() -> None:
    # Time for all of the row's first trials, queries for one group: the others wait, and keep no time.
    both = admission(folds=FOLDS, query_folds=FOLDS)
    assert admitted(both, ROW) == ["a"]
    after = {**ROW, "a": started(ROW["a"])}
    assert both.permits_trial("a", after)
    both.look_again()
    assert admitted(both, after) == ["a"]
    neither = admission(folds=FIRST - 1, query_folds=3 * FOLDS)
    assert admitted(neither, ROW) == []
    assert neither.admits("a", ROW, queries_only=True), "the check before the first fold asks for queries alone"


def test_a_retry_weighs_what_failed_alone_and_exempts_nothing() -> None:
    left = FoldsLeft(whole=2, to_finish=2, first=2, with_another_trial=2)
    groups = groups_of(*(replace(started(group), left=left) for group in ROW.values()))
    for folds, names in ((1, []), (3, ["a"]), (4, ["a", "b"]), (6, ["a", "b", "c"])):
        retry, meter = retrying(folds=folds)
        retry.resume(groups)
        assert admitted(retry, groups) == names
    retry, meter = retrying(folds=6)
    assert retry.admits("a", groups)
    meter.total = Usage(wall_seconds=4 * SECONDS_PER_FOLD)
    assert not retry.admits("b", groups), "time that passed since counts"


def retrying(*, folds: int) -> tuple[Admission, SimpleNamespace]:
    """A retry with a wall budget of so many folds, and its meter."""
    meter = SimpleNamespace(total=Usage(), elapsed=lambda key: 0.0)
    costs = CostForecast(lambda kind: SECONDS_PER_FOLD, meter)  # type: ignore[arg-type]
    costs.at_once = lambda: 1
    limits = Limits(wall_hours=folds * SECONDS_PER_FOLD / 3600.0)
    return Admission(accounts=accounts(limits), forecast=costs, is_retry=True), meter


class Unread(Mapping[str, GroupStanding]):
    """Standings that nobody may read."""

    def __getitem__(self, name: str) -> GroupStanding:
        raise AssertionError(f"{name} is read")

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("read")

    def __len__(self) -> int:
        raise AssertionError("read")


def test_without_a_budget_and_for_admitted_groups_nothing_is_read() -> None:
    none = Admission()
    none.resume(Unread())
    assert none.admits("a", Unread())
    assert none.permits_trial("a", Unread())
    one = admission(query_folds=3 * FOLDS)
    assert admitted(one, ROW) == ["a", "b", "c"]
    assert one.admits("a", Unread())
    refused = admission(query_folds=0)
    assert not refused.admits("a", ROW)
    assert not refused.admits("a", Unread()), "until a fold ends"
    refused.look_again()
    with pytest.raises(AssertionError, match="is read"):
        refused.admits("a", Unread())
