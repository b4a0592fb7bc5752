"""Updates of one stage in pieces."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.hyperparameters import Hyperparameters, StageHyperparameters
from trainables.data.loading.batches import Batch
from trainables.fitting.evaluation import DomainScore
from trainables.fitting.inputs import StageInputs
from trainables.fitting.update import Update
from trainables.fitting.workers import Workers
from trainables.methods.recipes import METHODS, Stage
from trainables.student.model import Head, Student

WIDTH, DIM, CLASSES, BATCH = 12, 8, 5, 10


HEADS: dict[str, Head] = {"vl2v_adip": "projection", "erm": "classifier", "kd": "classifier"}


def random_student(method: str, dropout: float) -> Student:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, WIDTH), nn.GELU())
    head = nn.Linear(WIDTH, DIM if HEADS[method] == "projection" else CLASSES)
    return Student(backbone=backbone, head=head, head_name=HEADS[method], dropout=dropout).double()


def random_tensor(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_batch(step: int) -> Batch:
    labels = torch.arange(BATCH) % CLASSES
    ids = torch.arange(BATCH) + step
    return Batch(
        images=random_tensor(step, BATCH, 3, 8, 8),
        labels=labels,
        image_ids=ids,
        views=ids,
        domains=ids,
        global_size=BATCH,
    )


def stage_updates(
    method: str, pieces: int, *, stage: Stage | None = None, dropout: float = 0.0, **inputs: Any
) -> tuple[list[float], dict[str, Tensor], list[int]]:
    """Three steps: losses, weights, and how many images the teacher was asked for at a time."""
    student = random_student(method, dropout)
    stage = stage or METHODS[method].stages[-1]
    student.set_trainable(stage.trains)
    student.train()
    asked: list[int] = []

    def ask(batch: Batch) -> Tensor:
        asked.append(len(batch.labels))
        return F.normalize(batch.images.flatten(1)[:, :DIM], dim=-1)

    settings = StageHyperparameters(lr=1e-2)
    values: dict[str, Any] = {
        "student": student, "ask": ask, "logit_scale": 10.0,
        "texts": F.normalize(random_tensor(9, CLASSES, DIM), dim=-1),
        "hyperparameters": Hyperparameters(align=settings, distill=settings), "batches": lambda first_step: (),
        "validate": lambda: {"d": DomainScore(accuracy=0.0, balanced_accuracy=0.0, cross_entropy=0.0, num_images=1)},
        "report": lambda metrics: None, "workers": Workers(), "seed": 0, "num_steps": 3, "evaluate_every": 2,
    }  # fmt: skip
    weights = {name: weight for name, weight in student.named_parameters() if weight.requires_grad}
    update = Update(stage, StageInputs(**(values | inputs), batch_pieces=pieces), weights)
    losses = [float(update(step, random_batch(step))) for step in range(3)]
    return losses, student.state_dict(), asked
