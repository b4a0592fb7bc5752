"""Suggestions are pure functions of the search seed, the group, the trial number and the history."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from orchestrator.search.domainbed_random import authors_point, stream_seed
from orchestrator.search.sampling import TriedPoint, build_study, sampler_seed, suggest_point
from search_spaces.samplers import SAMPLERS

NUMBERS = {
    "distill.lr": FloatDistribution(1e-5, 1e-1, log=True),
    "dropout": FloatDistribution(0.0, 0.5),
    "swad.num_converge": IntDistribution(1, 6),
}
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


def valued(number: int, objective: float | None = None) -> TriedPoint:
    point = {"distill.lr": 10.0 ** -(1 + number % 4), "dropout": number % 5 / 10, "swad.num_converge": 1 + number % 6}
    known = 0.5 + number / 100 if objective is None else objective
    return TriedPoint(number=number, point=point, state="complete", objective=known)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
@pytest.mark.parametrize("count", [1, 12, 25])
def test_every_sampler_is_a_pure_function_of_the_history(sampler: str, count: int) -> None:
    history = [valued(number) for number in range(count)]

    def suggested(history: list[TriedPoint], group: str = "PACS/erm/photo") -> dict[str, object]:
        return suggest_point(NUMBERS, history, sampler=sampler, search_seed=0, group=group, number=count)  # type: ignore[arg-type, return-value]

    first = suggested(history)
    suggested(history[:-1])
    assert suggested(list(reversed(history))) == first
    assert set(first) == set(NUMBERS)
    for key, distribution in NUMBERS.items():
        assert distribution.low <= first[key] <= distribution.high, key  # type: ignore[operator]
    assert isinstance(first["swad.num_converge"], int)
    other = [valued(number, objective=1.0 - number / 100) for number in range(count)]
    looks = {"tpe": 10, "gp": 10, "cmaes": 7}.get(sampler, 1000)
    assert (suggested(other) != first) == (count >= looks), "it learns from the objectives once it has enough"
    assert (suggested(history, "PACS/erm/cartoon") != first) == (sampler != "authors")


def test_cmaes_closes_in_on_the_peak() -> None:
    history: list[TriedPoint] = []
    for number in range(70):
        point = suggest_point(NUMBERS, history, sampler="cmaes", search_seed=0, group="a/b/c", number=number)
        off = abs(math.log10(float(point["distill.lr"])) + 2.0) / 4 + abs(float(point["dropout"]) - 0.4)
        history.append(TriedPoint(number=number, point=point, state="complete", objective=1.0 - off))
    early, late = history[:14], history[-14:]
    assert sum(one.objective or 0.0 for one in late) > sum(one.objective or 0.0 for one in early) + 0.1 * 14


def test_cmaes_makes_generations_of_complete_trials_alone() -> None:
    complete = [valued(number) for number in range(14)]
    unfinished = [
        TriedPoint(number=20, point=complete[0].point, state="pruned", values={3: 0.1}),
        TriedPoint(number=21, point=complete[1].point, state="running"),
        TriedPoint(number=22, point=complete[2].point, state="failed"),
    ]

    def suggested(history: list[TriedPoint]) -> object:
        return suggest_point(NUMBERS, history, sampler="cmaes", search_seed=0, group="a/b/c", number=23)

    assert suggested(complete) == suggested([*unfinished, *complete])
    assert suggested(complete) != suggested(complete[:7])


def test_pruned_trials_are_told_with_what_they_reached() -> None:
    history = [tried(0), TriedPoint(number=1, point=tried(1).point, state="pruned", values={0: 0.25, 4: 0.5})]
    study = build_study(SPACE, history, sampler="tpe", seed=3)
    assert study.trials[1].state == TrialState.PRUNED
    assert study.trials[1].intermediate_values == {0: 0.25, 4: 0.5}


def authors_draw(
    number: int, *, search_seed: int = 0, fold_seed: int = 0, space: Mapping[str, BaseDistribution] = SPACE
) -> dict[str, Any]:
    return dict(authors_point(space, search_seed=search_seed, fold_seed=fold_seed, number=number))


def test_the_authors_draws_are_domainbeds_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    # printf '(3, 0)' | md5sum, then modulo 2**31: DomainBed's `seed_hash(3, 0)`.
    assert stream_seed(3, 0) == 0xFFFBF93DBE73628D0DEF4C6E0D9E3A89 % 2**31 == 228473481
    third = authors_draw(3)
    alone = authors_draw(3, space={"image_weight": SPACE["image_weight"]})
    assert alone == {"image_weight": third["image_weight"]}, "each hyperparameter has a stream of its own"
    drawn = [authors_draw(number) for number in range(200)]
    assert len({str(point) for point in drawn}) > 195
    assert 70 < sum(point["image_weight"] == 0.1 for point in drawn) < 130
    assert 70 < sum(float(point["distill.lr"]) < 1e-3 for point in drawn) < 130
    assert authors_draw(3, search_seed=1) != third
    assert authors_draw(3, fold_seed=1) not in (third, authors_draw(3, search_seed=1))
    streams = []
    monkeypatch.setattr("orchestrator.search.domainbed_random._draw", lambda distribution, seed: streams.append(seed))
    authors_draw(3, fold_seed=2, space={"lr": SPACE["distill.lr"]})
    assert streams == [stream_seed(stream_seed(3, 2), "lr")], "seed_hash(seed_hash(hparams seed, trial seed), name)"
