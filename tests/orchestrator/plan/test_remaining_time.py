"""When a sweep will be over, worked out by hand."""

from __future__ import annotations

import pytest

from orchestrator.plan.remaining_time import GroupWork, duration, time_left


def work(kind: str, *took: float, since: tuple[float, ...] = (), waiting: int = 0) -> GroupWork:
    return GroupWork(kind=("icons", kind), took=took, running_since=since, waiting=waiting)


def test_nothing_finished_tells_nothing() -> None:
    assert time_left([work("erm", waiting=3)]) is None


def test_waiting_folds_take_as_long_as_their_own_group_did() -> None:
    assert time_left([work("erm", 10.0, 20.0, waiting=2), work("kd", 100.0, waiting=1)]) == 2 * 15.0 + 100.0


def test_an_unknown_group_takes_as_long_as_its_method_and_then_as_all_folds() -> None:
    assert time_left([work("erm", 10.0), work("erm", waiting=1), work("kd", 40.0)]) == 10.0
    assert time_left([work("erm", 10.0), work("kd", waiting=2)]) == 20.0


def test_running_folds_count_with_what_they_still_need_and_share_the_time() -> None:
    groups = [work("erm", 30.0, since=(90.0, 40.0), waiting=3)]
    # At 100 s one has run for 10 s of 30; the other is overdue: (3 x 30 + 20 + 0) / 2 at a time.
    assert time_left(groups, now=100.0) == pytest.approx(55.0)


def test_durations_have_two_units_at_most() -> None:
    assert [duration(seconds) for seconds in (0.4, 59, 60, 95, 11400, 200000)] == [
        "0 s", "59 s", "1 m", "1 m 35 s", "3 h 10 m", "2 d 7 h"
    ]  # fmt: skip
