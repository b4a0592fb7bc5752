"""When stages update and evaluate, on a benchmark and hyperparameters in which no two numbers are equal."""

from __future__ import annotations

from dataclasses import replace

import pytest

from search_spaces.benchmarks import BENCHMARKS
from search_spaces.hyperparameters import Hyperparameters, StageHyperparameters
from search_spaces.schedule import looks_between_folds, stage_schedule, stage_steps

BENCHMARK = replace(BENCHMARKS["PACS"], num_steps=50, evaluate_every=7)
OWN = Hyperparameters(
    align=StageHyperparameters(num_steps=31), distill=StageHyperparameters(num_steps=44), evaluate_every=10
)


def test_a_stage_takes_its_own_steps_and_the_benchmarks_where_it_has_none() -> None:
    assert stage_schedule(BENCHMARK, OWN, "align") == (31, 10)
    assert stage_schedule(BENCHMARK, OWN, "distill") == (41, 10)
    assert stage_schedule(BENCHMARK, Hyperparameters(), "distill") == (50, 7)
    assert stage_schedule(BENCHMARK, replace(OWN, evaluate_every=None), "align") == (29, 7)


def test_a_methods_stages_in_order() -> None:
    assert stage_steps(BENCHMARK, OWN, "vl2v_adip") == (31, 41)
    assert stage_steps(BENCHMARK, OWN, "erm") == (41,)
    assert stage_steps(BENCHMARK, OWN, "zero_shot") == ()


@pytest.mark.parametrize(("num_folds", "looks"), [(0, 0), (1, 0), (2, 0), (3, 1), (7, 5)])
def test_the_first_two_folds_are_not_looked_at(num_folds: int, looks: int) -> None:
    assert looks_between_folds(num_folds) == looks
