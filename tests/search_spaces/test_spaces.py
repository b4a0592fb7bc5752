"""Search spaces: a first trial that is exactly the sweep's own hyperparameters. The ranges: test_published_defaults."""

from __future__ import annotations

from dataclasses import replace

import pytest
from optuna.trial import create_trial

from search_spaces.benchmarks import BENCHMARKS
from search_spaces.errors import UserError
from search_spaces.hyperparameters import Hyperparameters, StageHyperparameters
from search_spaces.methods import METHODS
from search_spaces.spaces import SPACES, apply_point, search_space

OFFICIAL = search_space("official")
PAPER = Hyperparameters()
UNUSUAL = Hyperparameters(
    batch_size_per_domain=24,
    image_weight=0.45,
    align=StageHyperparameters(lr=3e-4, weight_decay=1e-6),
    distill=StageHyperparameters(lr=0.02, weight_decay=3e-8),
)


@pytest.mark.parametrize("space", sorted(SPACES))
@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("fixed", [PAPER, UNUSUAL], ids=["paper", "unusual"])
def test_the_first_trial_is_the_sweeps_own_point_and_lies_in_the_space(
    space: str, method: str, fixed: Hyperparameters
) -> None:
    for value in BENCHMARKS.values():
        distributions = SPACES[space].distributions(value, method, fixed)
        point = SPACES[space].paper_point(value, method, fixed)
        assert apply_point(fixed, point) == fixed
        trial = create_trial(params=point, distributions=distributions, value=0.0)
        assert trial.params == point


def test_every_batch_size_comes_back_as_itself() -> None:
    for batch_size in range(1, 300):
        fixed = replace(PAPER, batch_size_per_domain=batch_size)
        assert apply_point(PAPER, OFFICIAL.paper_point(BENCHMARKS["PACS"], "erm", fixed)) == fixed


def test_the_demo_space_leaves_align_alone() -> None:
    keys = SPACES["demo"].dimensions(BENCHMARKS["icons"], "vl2v_adip", PAPER)
    assert keys
    assert all(key.startswith("distill.") for key in keys)


def test_a_point_outside_the_hyperparameters_is_refused() -> None:
    with pytest.raises(UserError, match=r"distill\.lrr"):
        apply_point(PAPER, {"distill.lrr": 1.0})


def test_an_unknown_space_names_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown space 'oficial'; nearest: official"):
        search_space("oficial")
