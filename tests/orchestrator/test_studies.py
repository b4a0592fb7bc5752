"""Suggestions are pure functions of the search seed, the group, the trial number and the history."""

from __future__ import annotations

import math

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from orchestrator.studies import TriedPoint, build_study, sampler_seed, suggest_point

SPACE = {"distill.lr": FloatDistribution(1e-5, 1e-1, log=True), "image_weight": CategoricalDistribution((0.1, 0.5))}


def tried(number: int, state: str = "complete") -> TriedPoint:
    point = {"distill.lr": 10.0 ** -(1 + number % 4), "image_weight": (0.1, 0.5)[number % 2]}
    objective = 0.5 + number / 100 if state == "complete" else None
    return TriedPoint(number=number, point=point, state=state, objective=objective)  # type: ignore[arg-type]


def ask(history: list[TriedPoint], *, sampler: str = "tpe", seed: int = 0, group: str = "PACS/erm/sketch") -> object:
    number = len(history)
    return suggest_point(SPACE, history, sampler=sampler, search_seed=seed, group=group, number=number)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [1, 5, 15])
def test_equal_questions_get_equal_answers_whatever_was_asked_before(count: int) -> None:
    history = [tried(number) for number in range(count)]
    first = ask(history)
    ask(history[:-1])
    assert ask(list(reversed(history))) == first


def test_seed_group_and_number_each_change_the_answer() -> None:
    history = [tried(number) for number in range(3)]
    answers = [ask(history), ask(history, seed=1), ask(history, group="PACS/erm/photo"), ask([*history, tried(3)])]
    assert len({str(answer) for answer in answers}) == 4


def test_tpe_looks_at_objectives_and_random_search_does_not() -> None:
    history = [tried(number) for number in range(15)]
    worse = [
        TriedPoint(number=t.number, point=t.point, state="complete", objective=1.0 - (t.objective or 0.0))
        for t in history
    ]
    assert ask(history) != ask(worse)
    assert ask(history, sampler="random") == ask(worse, sampler="random")


def test_tpe_finds_the_better_half_of_the_learning_rates() -> None:
    history = []
    for number in range(40):
        point = ask(history)
        assert isinstance(point, dict)
        objective = 1.0 - abs(math.log10(point["distill.lr"]) + 2.0) / 10
        history.append(TriedPoint(number=number, point=point, state="complete", objective=objective))
    late = [abs(math.log10(float(t.point["distill.lr"])) + 2.0) for t in history[20:]]
    assert sum(late) / len(late) < 0.7


def test_the_study_holds_every_state_by_number() -> None:
    history = [tried(1, "failed"), tried(0), tried(2, "running")]
    study = build_study(SPACE, history, sampler="tpe", seed=3)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "RUNNING"]
    assert study.best_value == 0.5


@pytest.mark.parametrize(("state", "objective"), [("complete", None), ("complete", math.nan), ("failed", 0.5)])
def test_only_a_finite_objective_completes_a_trial(state: str, objective: float | None) -> None:
    with pytest.raises(ValueError, match="complete with a finite objective"):
        TriedPoint(number=0, point={}, state=state, objective=objective)  # type: ignore[arg-type]


def test_seeds_are_below_two_to_the_32() -> None:
    seeds = {sampler_seed(0, "a/b/c", number) for number in range(100)}
    assert len(seeds) == 100
    assert max(seeds) < 2**32
