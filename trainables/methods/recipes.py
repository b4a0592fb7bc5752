"""Methods as rows: a stage is which parameters train and by which loss; a method is its stages.

The facts that need no torch (which stages, which teacher calls) are in `search_spaces.methods`; the names agree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from search_spaces.errors import unknown_name
from search_spaces.hyperparameters import Hyperparameters
from trainables.methods.losses import distillation_loss, vl2v_loss
from trainables.student.model import Head
from trainables.teacher.protocol import zero_shot_logits


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTensors:
    """What a loss may look at in one step."""

    outputs: Tensor
    """The student's outputs: embeddings [N, D] or class logits [N, C]."""
    labels: Tensor
    """Class indices [N]."""
    texts: Tensor
    """Text embeddings of the class prompts [C, D]."""
    teacher_images: Tensor | None
    """The teacher's image embeddings [N, D], where the stage asks for them."""
    logit_scale: float
    """The teacher's exp(logit_scale)."""


Loss = Callable[[StepTensors, Hyperparameters], Tensor]


def _vl2v(step: StepTensors, hyperparameters: Hyperparameters) -> Tensor:
    assert step.teacher_images is not None
    return vl2v_loss(step.outputs, step.teacher_images, step.texts[step.labels], hyperparameters.image_weight)


def _cross_entropy(step: StepTensors, hyperparameters: Hyperparameters) -> Tensor:
    return F.cross_entropy(step.outputs, step.labels)


def _distillation(step: StepTensors, hyperparameters: Hyperparameters) -> Tensor:
    assert step.teacher_images is not None
    teacher_logits = zero_shot_logits(step.teacher_images, step.texts, step.logit_scale)
    return distillation_loss(step.outputs, teacher_logits, step.labels, hyperparameters.kd_temperature)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One optimisation: these parameter groups, this loss."""

    name: Literal["align", "distill"]
    """Which hyperparameters it takes: `Hyperparameters.align` or `.distill`."""
    trains: tuple[str, ...]
    """Parameter groups of the student: backbone, projection, classifier. All others are frozen."""
    loss: Loss
    asks_teacher: bool
    """Whether every step asks for the teacher's image embeddings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """A row of the table: the student's head and the stages that fit it. No stages: the teacher itself."""

    head: Head
    stages: tuple[Stage, ...]


METHODS: dict[str, Method] = {
    "vl2v_adip": Method(
        head="projection",
        stages=(
            Stage(name="align", trains=("projection",), loss=_vl2v, asks_teacher=True),
            Stage(name="distill", trains=("backbone",), loss=_vl2v, asks_teacher=True),
        ),
    ),
    "vl2v_sd": Method(
        head="none", stages=(Stage(name="distill", trains=("backbone",), loss=_vl2v, asks_teacher=True),)
    ),
    "erm": Method(
        head="classifier",
        stages=(Stage(name="distill", trains=("backbone", "classifier"), loss=_cross_entropy, asks_teacher=False),),
    ),
    "kd": Method(
        head="classifier",
        stages=(Stage(name="distill", trains=("backbone", "classifier"), loss=_distillation, asks_teacher=True),),
    ),
    "zero_shot": Method(head="none", stages=()),
}


def method_recipe(name: str) -> Method:
    """Look a method up, or name the nearest ones."""
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    return METHODS[name]
