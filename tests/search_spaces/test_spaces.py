"""Search spaces: a first trial that is exactly the sweep's own hyperparameters. The ranges: test_published_defaults."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import create_trial

from search_spaces.benchmarks import BENCHMARKS
from search_spaces.errors import UserError
from search_spaces.hyperparameters import Hyperparameters, StageHyperparameters, Swad
from search_spaces.methods import METHODS
from search_spaces.spaces import SPACES, Choice, IntegerRange, Range, apply_point, coordinate, search_space

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


@pytest.mark.parametrize(
    ("dimension", "inside", "outside"),
    [
        (Range(low=0.5, high=2.0), (0.5, 1.0, 2.0, 2), (0.49, 2.01)),
        (IntegerRange(low=2, high=5), (2, 5, 3.0), (1, 6, 2.5)),
        (Choice(values=(1, 4)), (1, 4), (2, 0)),
    ],
)
def test_a_dimension_holds_its_ends_and_nothing_beyond(
    dimension: Choice | Range | IntegerRange, inside: tuple[float, ...], outside: tuple[float, ...]
) -> None:
    assert [value in dimension for value in inside] == [True] * len(inside)
    assert [value in dimension for value in outside] == [False] * len(outside)


def test_a_dimension_widens_to_hold_a_value_and_keeps_the_rest() -> None:
    log = Range(low=0.5, high=2.0, log=True)
    assert log.including(0.1) == Range(low=0.1, high=2.0, log=True)
    assert log.including(7.0) == Range(low=0.5, high=7.0, log=True)
    assert log.including(1.0) == log
    assert IntegerRange(low=2, high=5).including(1) == IntegerRange(low=1, high=5)
    assert IntegerRange(low=2, high=5).including(9) == IntegerRange(low=2, high=9)
    choice = Choice(values=(4, 1))
    assert choice.including(4) is choice
    assert choice.including(2) == Choice(values=(1, 2, 4))


def test_dimensions_as_optunas() -> None:
    assert Range(low=0.5, high=2.0, log=True).to_optuna() == FloatDistribution(0.5, 2.0, log=True)
    assert Range(low=0.5, high=2.0).to_optuna() == FloatDistribution(0.5, 2.0)
    assert IntegerRange(low=2, high=5).to_optuna() == IntDistribution(2, 5)
    assert Choice(values=("a", "b")).to_optuna() == CategoricalDistribution(("a", "b"))


def test_the_wide_space() -> None:
    wide, pacs = search_space("wide"), BENCHMARKS["PACS"]
    decay, lr = Range(low=-6.0, high=-1.0), Range(low=1e-6, high=1e-2, log=True)
    common = {
        "distill.lr": lr,
        "distill.log10_weight_decay": decay,
        "dropout": Range(low=0.0, high=0.5),
        "log2_batch_size_per_domain": Range(low=3.0, high=6.0),
    }
    swad = {
        "swad.num_converge": IntegerRange(low=1, high=6),
        "swad.num_tolerate": IntegerRange(low=2, high=12),
        "swad.tolerance_ratio": Range(low=0.05, high=1.0, log=True),
    }
    align = {"align.lr": lr, "align.log10_weight_decay": decay}
    weight = {"image_weight": Range(low=0.0, high=1.0)}
    temperature = {"kd_temperature": Range(low=0.5, high=10.0, log=True)}
    assert wide.dimensions(pacs, "vl2v_adip", PAPER) == common | swad | align | weight
    assert wide.dimensions(pacs, "kd", PAPER) == common | swad | temperature
    assert wide.dimensions(pacs, "erm", replace(PAPER, swad=Swad(segments="off"))) == common
    assert list(wide.dimensions(pacs, "kd", PAPER)) == sorted(common | swad | temperature)


def test_other_spaces() -> None:
    icons = BENCHMARKS["icons"]
    assert search_space("demo").dimensions(icons, "erm", PAPER) == {"distill.lr": Range(low=5e-5, high=1e-2, log=True)}
    assert search_space("demo").build(icons, METHODS["erm"], PAPER) == {
        "distill.lr": Range(low=1e-4, high=1e-2, log=True)
    }
    for space in SPACES.values():
        assert space.summary
        assert space.dimensions(icons, "zero_shot", PAPER) == {}, "nothing trains, so nothing is searched"
        assert (space.dimensions(icons, "erm", PAPER) == {}) is (space.name == "paper")
    assert "dropout" not in OFFICIAL.dimensions(icons, "erm", PAPER), "the authors search it for ResNets"
    assert set(OFFICIAL.dimensions(icons, "erm", PAPER)) == {
        "distill.lr", "distill.log10_weight_decay", "log2_batch_size_per_domain",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("weight_decay", "logarithm"),
    [(0.0, -6.0), (1e-6, math.nextafter(-6.0, 0.0)), (1e-4, -4.0), (3e-8, math.log10(3e-8)), (0.02, math.log10(0.02))],
)
def test_no_weight_decay_has_a_coordinate_of_its_own(weight_decay: float, logarithm: float) -> None:
    fixed = replace(PAPER, distill=StageHyperparameters(weight_decay=weight_decay))
    assert coordinate(fixed, "distill.log10_weight_decay") == logarithm
    assert coordinate(fixed, "align.log10_weight_decay") == -6.0
    assert apply_point(PAPER, {"distill.log10_weight_decay": logarithm}) == fixed


def test_coordinates_and_points_are_each_others_inverse() -> None:
    assert coordinate(UNUSUAL, "log2_batch_size_per_domain") == math.log2(24)
    assert coordinate(UNUSUAL, "align.lr") == 3e-4
    assert coordinate(UNUSUAL, "image_weight") == 0.45
    point = {"align.lr": 0.5, "swad.num_converge": 2, "distill.log10_weight_decay": -3.5, "dropout": 0.2}
    applied = OFFICIAL.apply(UNUSUAL, point)
    assert applied == replace(
        UNUSUAL,
        align=StageHyperparameters(lr=0.5, weight_decay=1e-6),
        distill=StageHyperparameters(lr=0.02, weight_decay=0.000316227766017),
        swad=Swad(num_converge=2),
        dropout=0.2,
    )
