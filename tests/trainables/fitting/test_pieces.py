"""A batch in pieces is the whole batch, to rounding: loss, gradient, dropout and the images that were seen."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.hyperparameters import Hyperparameters, Speed, StageHyperparameters
from trainables.data.loading.batches import Batch
from trainables.fitting import update as update_module
from trainables.fitting.evaluation import DomainScore
from trainables.fitting.inputs import StageInputs
from trainables.fitting.update import Update
from trainables.fitting.workers import Workers
from trainables.methods.recipes import METHODS, Stage
from trainables.student.model import Head, Student

WIDTH, DIM, CLASSES, BATCH = 12, 8, 5, 10
HEADS: dict[str, Head] = {"vl2v_adip": "projection", "erm": "classifier", "kd": "classifier"}


def _student(method: str, dropout: float) -> Student:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, WIDTH), nn.GELU())
    head = nn.Linear(WIDTH, DIM if HEADS[method] == "projection" else CLASSES)
    return Student(backbone=backbone, head=head, head_name=HEADS[method], dropout=dropout).double()


def _random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _batch(step: int) -> Batch:
    labels = torch.arange(BATCH) % CLASSES
    ids = torch.arange(BATCH) + step
    return Batch(
        images=_random(step, BATCH, 3, 8, 8), labels=labels, image_ids=ids, views=ids, domains=ids, global_size=BATCH
    )


def _updates(
    method: str, pieces: int, *, stage: Stage | None = None, dropout: float = 0.0, **inputs: Any
) -> tuple[list[float], dict[str, Tensor], list[int]]:
    """Three steps: losses, weights, and how many images the teacher was asked for at a time."""
    student = _student(method, dropout)
    stage = stage or METHODS[method].stages[-1]
    student.set_trainable(stage.trains)
    student.train()
    asked: list[int] = []

    def ask(batch: Batch) -> Tensor:
        asked.append(len(batch.labels))
        return F.normalize(batch.images.flatten(1)[:, :DIM], dim=-1)

    settings = StageHyperparameters(lr=1e-2)
    values: dict[str, Any] = {
        "student": student, "ask": ask, "logit_scale": 10.0, "texts": F.normalize(_random(9, CLASSES, DIM), dim=-1),
        "hyperparameters": Hyperparameters(align=settings, distill=settings), "batches": lambda first_step: (),
        "validate": lambda: {"d": DomainScore(accuracy=0.0, balanced_accuracy=0.0, cross_entropy=0.0, num_images=1)},
        "report": lambda metrics: None, "workers": Workers(), "seed": 0, "num_steps": 3, "evaluate_every": 2,
    }  # fmt: skip
    weights = {name: weight for name, weight in student.named_parameters() if weight.requires_grad}
    update = Update(stage, StageInputs(**(values | inputs), batch_pieces=pieces), weights)
    losses = [float(update(step, _batch(step))) for step in range(3)]
    return losses, student.state_dict(), asked


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("pieces", [2, 3, 10, 99])
@pytest.mark.parametrize("method", ["vl2v_adip", "erm", "kd"])
def test_pieces_add_up_to_the_whole_batch(method: str, pieces: int, dropout: float) -> None:
    losses, weights, asked = _updates(method, 1, dropout=dropout)
    parts = _updates(method, pieces, dropout=dropout)
    assert parts[0] == pytest.approx(losses, rel=1e-12)
    for name, weight in weights.items():
        torch.testing.assert_close(parts[1][name], weight, rtol=1e-9, atol=1e-11)
    assert parts[2] == asked


def test_dropout_is_drawn_once_for_all_pieces_and_matters() -> None:
    assert _updates("erm", 1, dropout=0.5)[0] != _updates("erm", 1)[0]
    student = _student("erm", 0.5).train()
    images = _batch(0).images
    torch.manual_seed(3)
    whole = student.features(images)
    torch.manual_seed(3)
    student.share_dropout(BATCH)
    pieces = torch.cat([student.features(piece) for piece in images.tensor_split(3)])
    assert torch.equal(pieces == 0, whole == 0)
    torch.testing.assert_close(pieces, whole)
    torch.manual_seed(3)
    assert torch.equal(student.features(images), whole), "after the last piece dropout is as before"


def test_a_step_draws_dropout_once_whatever_the_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU numbers its draws by call: several draws would give other masks than one."""
    drawn, dropout = [], F.dropout

    def noted(tensor: Tensor, *arguments: Any, **settings: Any) -> Tensor:
        drawn.append(tuple(tensor.shape))
        return dropout(tensor, *arguments, **settings)

    monkeypatch.setattr(F, "dropout", noted)
    _updates("erm", 4, dropout=0.5)
    assert drawn == [(BATCH, WIDTH)] * 3


def test_align_in_pieces() -> None:
    align = METHODS["vl2v_adip"].stages[0]
    whole = _updates("vl2v_adip", 1, stage=align, dropout=0.5)
    assert _updates("vl2v_adip", 4, stage=align, dropout=0.5)[0] == pytest.approx(whole[0], rel=1e-12)


class _ThreeWorkers(Workers):
    """Stands for torch.distributed: counts the passes that would exchange gradients."""

    def __init__(self) -> None:
        super().__init__(size=3)
        self.exchanged: list[bool] = []

    def wrap(self, module: nn.Module) -> nn.Module:
        return _Wrapped(module, self.exchanged)


class _Wrapped(nn.Module):
    def __init__(self, module: nn.Module, exchanged: list[bool]) -> None:
        super().__init__()
        self.module, self.exchanged, self.exchanges = module, exchanged, True

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        self.exchanges = False
        yield
        self.exchanges = True

    def forward(self, images: Tensor) -> Tensor:
        self.exchanged.append(self.exchanges)
        outputs: Tensor = self.module(images)
        return outputs


def test_workers_exchange_gradients_once_per_step() -> None:
    workers = _ThreeWorkers()
    _updates("erm", 4, workers=workers)
    assert workers.exchanged == [False, False, False, True] * 3


def test_exact_mode_takes_no_faster_path(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> Any:
        raise AssertionError("exact mode may not do this")

    for name in ("arranged", "compiled"):
        monkeypatch.setattr(update_module, name, refuse)
    monkeypatch.setattr(torch, "autocast", refuse)
    losses, *_ = _updates("vl2v_adip", 1)
    assert len(losses) == 3


@pytest.mark.parametrize("speed", [Speed(channels_last=True), Speed(fused_adam=True)])
def test_faster_arithmetic_agrees_to_rounding(speed: Speed) -> None:
    exact, weights, _ = _updates("vl2v_adip", 1)
    settings = StageHyperparameters(lr=1e-2)
    fast = _updates("vl2v_adip", 1, hyperparameters=Hyperparameters(distill=settings, speed=speed))
    assert fast[0] == pytest.approx(exact, rel=1e-9)
    for name, weight in weights.items():
        torch.testing.assert_close(fast[1][name], weight, rtol=1e-6, atol=1e-9)
        assert fast[1][name].shape == weight.shape
