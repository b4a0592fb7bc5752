"""When a search gives up: each rule by hand, and the false stops of the rule between folds by simulation."""

from __future__ import annotations

import random
from statistics import fmean

import pytest

from orchestrator.search.pruning_rules import (
    asha_steps,
    best_so_far,
    chance_to_overtake,
    is_audited,
    judge_curve,
    judge_overtaking,
)
from tests.support.pruned_searches import STOP_LEVEL, chance_searches


def flat(value: float, until: int = 18) -> dict[int, float]:
    return dict.fromkeys(range(until + 1), value)


def test_the_best_so_far_forgets_no_peak_and_foresees_none() -> None:
    assert best_so_far({0: 0.1, 1: 0.9, 2: 0.3, 3: 1.0}, 2) == 0.9


def test_median_compares_with_those_that_came_as_far() -> None:
    others = {"a": flat(0.5), "b": flat(0.6), "c": flat(0.7), "d": flat(0.8), "early": flat(0.99, until=5)}
    judged = judge_curve("median", flat(0.64), others, step=6, num_steps=19)
    assert judged is not None
    assert (judged.prune, judged.threshold, judged.against) == (True, pytest.approx(0.65), ("a", "b", "c", "d"))
    better = judge_curve("median", flat(0.66), others, step=6, num_steps=19)
    assert better is not None
    assert not better.prune


def test_median_waits_for_four_others_and_a_quarter_of_the_stage() -> None:
    others = {name: flat(0.9) for name in "abcd"}
    assert judge_curve("median", flat(0.1), others, step=4, num_steps=19) is None
    assert judge_curve("median", flat(0.1), others, step=5, num_steps=19) is not None
    del others["a"]
    assert judge_curve("median", flat(0.1), others, step=5, num_steps=19) is None


def test_asha_looks_at_a_ninth_and_a_third_and_keeps_the_best_third() -> None:
    assert asha_steps(flat(0.5), 18) == {2, 6}
    assert asha_steps({0: 0.1, 5: 0.1, 10: 0.1}, 18) == {5, 10}
    others = {"a": flat(0.5), "b": flat(0.6)}
    assert judge_curve("asha", flat(0.1), others, step=3, num_steps=18) is None
    judged = [judge_curve("asha", flat(value), others, step=6, num_steps=18) for value in (0.55, 0.6, 0.7)]
    assert [one.prune for one in judged if one] == [True, False, False]
    assert judge_curve("asha", flat(0.1), {"a": flat(0.5)}, step=6, num_steps=18) is None, "two are no third"
    six = {name: flat(value) for name, value in zip("abcde", (0.1, 0.2, 0.3, 0.6, 0.7), strict=True)}
    judged = [judge_curve("asha", flat(value), six, step=6, num_steps=18) for value in (0.5, 0.65)]
    assert [one.prune for one in judged if one] == [True, False], "two of six go on"


def test_nothing_is_judged_without_a_pruner() -> None:
    assert judge_curve("none", flat(0.1), {name: flat(0.9) for name in "abcd"}, step=10, num_steps=19) is None


def test_the_chance_to_overtake_by_hand() -> None:
    # d = -0.03, s = 0.01 * sqrt(2), k = 2 of T = 4: t = -0.03 / (s * sqrt(2 / 8)) = -4.243, and with one degree of
    # freedom F(t) = 1/2 + atan(t) / pi = 0.0737.
    assert chance_to_overtake([-0.04, -0.02], num_folds=4) == pytest.approx(0.0737, abs=1e-4)
    assert chance_to_overtake([0.02, -0.02], num_folds=4) == 0.5
    assert chance_to_overtake([0.04, 0.02], num_folds=4) == pytest.approx(1 - 0.0737, abs=1e-4)


def test_equal_differences_are_no_certainty() -> None:
    assert chance_to_overtake([-0.001, -0.001], num_folds=4) > 0.1


def test_a_wide_spread_among_complete_configurations_counts() -> None:
    narrow = chance_to_overtake([-0.03, -0.031], num_folds=4, pairs=[[0.0, 0.002, -0.002, 0.0]] * 3)
    wide = chance_to_overtake([-0.03, -0.031], num_folds=4, pairs=[[0.0, 0.1, -0.1, 0.0]] * 3)
    assert narrow < 0.05 < wide


def test_nobody_is_stopped_with_fewer_than_two_shared_folds_or_none_to_come() -> None:
    complete = {"0": [0.9, 0.9, 0.9, 0.9]}
    assert judge_overtaking([0.1], "0", complete, stop_level=0.05) is None
    assert judge_overtaking([0.1, 0.12, 0.1, 0.11], "0", complete, stop_level=0.05) is None
    judged = judge_overtaking([0.1, 0.11], "0", complete, stop_level=0.05)
    assert judged is not None
    assert judged.prune
    assert judged.threshold == 0.025, "two looks share the level"
    assert judge_overtaking([0.1], "0", {"0": [0.9, 0.9]}, stop_level=0.05) is None, "two domains leave no look"


@pytest.mark.parametrize(
    ("trials", "domains", "spread"),
    [(20, 4, 0.0), (20, 6, 0.0), (8, 4, 0.0), (20, 4, 0.02)],
    ids=["null", "null of six domains", "null of eight trials", "some are better"],
)
def test_the_true_best_is_stopped_no_more_often_than_the_stated_level(trials: int, domains: int, spread: float) -> None:
    false_stops, not_run = chance_searches(trials, domains, spread=spread, searches=150)
    assert false_stops <= STOP_LEVEL
    assert not_run > 0.05, "a rule that stops nobody is no rule"


def test_a_configuration_that_ends_level_is_stopped_as_often_as_the_level_says() -> None:
    """The worst case of the guarantee, at one look: exact for normal differences of unknown spread."""
    chance, stopped, tries = random.Random(1), 0, 20_000
    for _ in range(tries):
        differences = [chance.gauss(0.0, 0.02) for _ in range(4)]
        level = [difference - fmean(differences) for difference in differences]
        stopped += chance_to_overtake(level[:3], num_folds=4) < 0.05
    assert stopped / tries == pytest.approx(0.05, abs=0.006)


def test_the_audit_draws_its_share_by_names_alone() -> None:
    numbers = range(4000)
    drawn = [is_audited(0.1, 0, "a/b/c", number) for number in numbers]
    assert drawn == [is_audited(0.1, 0, "a/b/c", number) for number in numbers]
    assert sum(drawn) == pytest.approx(400, abs=60)
    assert drawn != [is_audited(0.1, 1, "a/b/c", number) for number in numbers]
    assert not any(is_audited(0.0, 0, "a/b/c", number) for number in numbers)
    assert all(is_audited(1.0, 0, "a/b/c", number) for number in numbers)
