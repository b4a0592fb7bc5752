"""Search spaces: the authors' ranges, and a first trial that is exactly the sweep's own hyperparameters."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
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


def test_official_ranges_are_the_authors() -> None:
    found = OFFICIAL.distributions(BENCHMARKS["PACS"], "vl2v_adip", PAPER)
    lr = CategoricalDistribution((5e-6, 1e-5, 5e-5, 1e-4, 5e-4, 1e-3))
    decay = FloatDistribution(-6.0, -2.0)
    assert found == {
        "align.lr": lr,
        "align.log10_weight_decay": decay,
        "distill.lr": lr,
        "distill.log10_weight_decay": decay,
        "image_weight": CategoricalDistribution((0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)),
        "log2_batch_size_per_domain": FloatDistribution(3.0, 5.5),
    }


def test_domain_net_draws_smaller_batches_and_resnets_dropout() -> None:
    resnet = replace(PAPER, student="resnet50")
    found = OFFICIAL.distributions(BENCHMARKS["DomainNet"], "erm", resnet)
    assert found["log2_batch_size_per_domain"] == FloatDistribution(3.0, 5.0)
    assert found["dropout"] == CategoricalDistribution((0.0, 0.1, 0.5))
    assert "image_weight" not in found
    assert "dropout" not in OFFICIAL.distributions(BENCHMARKS["DomainNet"], "vl2v_sd", resnet)


def test_a_batch_is_the_floor_of_the_power() -> None:
    point = {"log2_batch_size_per_domain": 5.49, "distill.log10_weight_decay": -3.0}
    found = apply_point(PAPER, point)
    assert found.batch_size_per_domain == math.floor(2**5.49) == 44
    assert found.distill.weight_decay == 1e-3
    assert found.align.weight_decay == 0.0


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
