"""Methods as rows: which groups train, who is asked, and which loss a stage takes, with numbers worked out by hand."""

from __future__ import annotations

from math import exp, log

import pytest
import torch

from search_spaces.errors import UserError
from search_spaces.hyperparameters import Hyperparameters
from search_spaces.methods import METHODS as FACTS
from trainables.methods.recipes import METHODS, StepTensors, method_recipe

HYPERPARAMETERS = Hyperparameters(image_weight=0.25, kd_temperature=2.0)


def losses(method: str, step: StepTensors) -> list[float]:
    """The loss of each of a method's stages."""
    return [stage.loss(step, HYPERPARAMETERS).item() for stage in METHODS[method].stages]


def test_rows() -> None:
    rows = {
        name: (method.head, *((stage.name, stage.trains, stage.asks_teacher) for stage in method.stages))
        for name, method in METHODS.items()
    }
    assert rows == {
        "vl2v_adip": ("projection", ("align", ("projection",), True), ("distill", ("backbone",), True)),
        "vl2v_sd": ("none", ("distill", ("backbone",), True)),
        "erm": ("classifier", ("distill", ("backbone", "classifier"), False)),
        "kd": ("classifier", ("distill", ("backbone", "classifier"), True)),
        "zero_shot": ("none",),
    }


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_plan_knows_the_same_facts(name: str) -> None:
    facts, recipe = FACTS[name], METHODS[name]
    assert tuple(stage.name for stage in recipe.stages) == facts.stages
    assert {stage.asks_teacher for stage in recipe.stages} <= {facts.uses_teacher_images}
    assert (recipe.head == "none" and facts.trains) is facts.student_is_teacher


@pytest.mark.parametrize("method", ["vl2v_adip", "vl2v_sd"])
def test_the_image_term_and_the_text_of_the_true_class_by_hand(method: str) -> None:
    step = StepTensors(
        outputs=torch.tensor([[3.0, 4.0], [0.0, 2.0]]),
        labels=torch.tensor([2, 0]),
        texts=torch.tensor([[0.6, 0.8], [0.8, -0.6], [0.0, 1.0]]),
        teacher_images=torch.tensor([[1.0, 0.0], [0.0, -1.0]]),
        logit_scale=7.0,
    )
    # Cosines with the images 0.6 and -1, with the texts of classes 2 and 0 0.8 and 0.8.
    expected = -(0.25 * (0.6 - 1.0) / 2 + 0.75 * 0.8)
    assert losses(method, step) == pytest.approx([expected] * len(METHODS[method].stages))


def test_erm_is_cross_entropy() -> None:
    step = StepTensors(
        outputs=torch.tensor([[2.0, 0.0], [1.0, 4.0]]),
        labels=torch.tensor([0, 0]),
        texts=torch.empty(2, 0),
        teacher_images=None,
        logit_scale=1.0,
    )
    assert losses("erm", step) == pytest.approx([(log(1 + exp(-2.0)) + log(1 + exp(3.0))) / 2])


def test_kd_by_hand() -> None:
    """The teacher's logits carry its scale, both sides are softened by T, and KL counts T^2 times."""
    step = StepTensors(
        outputs=torch.tensor([[2.0, 0.0]]),
        labels=torch.tensor([1]),
        texts=torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
        teacher_images=torch.tensor([[0.6, 0.8]]),
        logit_scale=5.0,
    )
    teacher = 1 / (1 + exp((5.0 * 0.8 - 5.0 * 0.6) / 2.0))  # of class 0
    student = 1 / (1 + exp(-2.0 / 2.0))
    divergence = teacher * log(teacher / student) + (1 - teacher) * log((1 - teacher) / (1 - student))
    assert losses("kd", step) == pytest.approx([log(1 + exp(2.0)) + 4.0 * divergence])


def test_an_unknown_method_names_the_nearest() -> None:
    assert method_recipe("kd") is METHODS["kd"]
    with pytest.raises(UserError, match="unknown method 'ermm'; nearest: erm"):
        method_recipe("ermm")
