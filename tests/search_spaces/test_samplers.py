"""A sampler that cannot search a space is refused in one line, before anything runs."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import get_args

import cmaes
import numpy as np
import optuna
import pytest

from orchestrator.plan.plan import make_plan
from search_spaces import samplers
from search_spaces.benchmarks import BENCHMARKS
from search_spaces.errors import UserError
from search_spaces.samplers import SAMPLERS, STARTUP, Sampler, learning
from search_spaces.sweeps import Sweep

SWEEP = Sweep(benchmarks=("PACS",), methods=("vl2v_adip",), space="wide", trials=20)


def plan(**fields: object) -> None:
    make_plan(replace(SWEEP, **fields), BENCHMARKS)  # type: ignore[arg-type]


def test_every_sampler_is_described() -> None:
    assert set(SAMPLERS) == set(get_args(Sampler))


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp", "cmaes"])
def test_a_space_of_numbers_is_for_all_but_the_authors(sampler: str) -> None:
    plan(sampler=sampler)


@pytest.mark.parametrize(
    ("sampler", "space", "message"),
    [
        (
            "cmaes",
            "official",
            "sampler cmaes .* align.lr, distill.lr, image_weight of space official are choices; use tpe",
        ),
        ("cmaes", "demo", "sampler cmaes searches two or more numbers, and space demo has distill.lr alone"),
        ("authors", "wide", "sampler authors draws from the authors' ranges: use --space official, got wide"),
        ("simplex", "wide", "unknown sampler 'simplex'"),
    ],
)
def test_what_a_sampler_cannot_search_is_refused(sampler: str, space: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        plan(sampler=sampler, space=space)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_where_nothing_is_searched_any_sampler_will_do(sampler: str) -> None:
    plan(sampler=sampler, space="paper")
    plan(sampler=sampler, trials=1)


@pytest.mark.parametrize(("sampler", "package"), [("gp", "scipy"), ("cmaes", "cmaes")])
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, sampler: str, package: str) -> None:
    monkeypatch.setattr(samplers, "find_spec", lambda name: None if name == package else object())
    with pytest.raises(UserError, match=f"sampler {sampler} needs the package {package}, which is not installed"):
        plan(sampler=sampler)
    plan(sampler="tpe")


def test_what_is_said_of_learning_is_what_the_packages_do() -> None:
    for kind in (optuna.samplers.TPESampler, optuna.samplers.GPSampler):
        assert inspect.signature(kind).parameters["n_startup_trials"].default == STARTUP
    for dimensions in (2, 5, 9):
        known = learning("cmaes", dimensions)
        assert known is not None
        assert known.fewest == cmaes.CMA(mean=np.zeros(dimensions), sigma=1.0).population_size
    assert learning("random", 3) is learning("authors", 3) is None
