"""A batch in pieces is the whole batch, to rounding: loss, gradient, dropout and the images that were seen."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.hyperparameters import Hyperparameters, Speed, StageHyperparameters
from tests.support.stage_updates import (
    BATCH,
    CLASSES,
    WIDTH,
    random_batch,
    random_student,
    stage_inputs,
    stage_updates,
)
from trainables.data.loading.batches import Batch
from trainables.fitting import update as update_module
from trainables.fitting.update import Update, image_digest
from trainables.fitting.workers import Workers
from trainables.methods.recipes import METHODS
from trainables.student.model import Student


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("pieces", [2, 3, 10, 99])
@pytest.mark.parametrize("method", ["vl2v_adip", "erm", "kd"])
def test_pieces_add_up_to_the_whole_batch(method: str, pieces: int, dropout: float) -> None:
    losses, weights, asked = stage_updates(method, 1, dropout=dropout)
    parts = stage_updates(method, pieces, dropout=dropout)
    assert parts[0] == pytest.approx(losses, rel=1e-12)
    for name, weight in weights.items():
        torch.testing.assert_close(parts[1][name], weight, rtol=1e-9, atol=1e-11)
    assert parts[2] == asked == [BATCH] * 3 * (method != "erm")


def test_dropout_is_drawn_once_for_all_pieces_and_matters() -> None:
    assert stage_updates("erm", 1, dropout=0.5)[0] != stage_updates("erm", 1)[0]
    student = random_student("erm", 0.5).train()
    images = random_batch(0).images
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
    stage_updates("erm", 4, dropout=0.5)
    assert drawn == [(BATCH, WIDTH)] * 3


def test_align_in_pieces() -> None:
    align = METHODS["vl2v_adip"].stages[0]
    whole = stage_updates("vl2v_adip", 1, stage=align, dropout=0.5)
    assert stage_updates("vl2v_adip", 4, stage=align, dropout=0.5)[0] == pytest.approx(whole[0], rel=1e-12)


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
    stage_updates("erm", 4, workers=workers)
    assert workers.exchanged == [False, False, False, True] * 3


def test_exact_mode_takes_no_faster_path(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> Any:
        raise AssertionError("exact mode may not do this")

    for name in ("arranged", "compiled"):
        monkeypatch.setattr(update_module, name, refuse)
    monkeypatch.setattr(torch, "autocast", refuse)
    losses, *_ = stage_updates("vl2v_adip", 1)
    assert len(losses) == 3


@pytest.mark.parametrize("speed", [Speed(channels_last=True), Speed(fused_adam=True)])
def test_faster_arithmetic_agrees_to_rounding(speed: Speed) -> None:
    exact, weights, _ = stage_updates("vl2v_adip", 1)
    settings = StageHyperparameters(lr=1e-2)
    fast = stage_updates("vl2v_adip", 1, hyperparameters=Hyperparameters(distill=settings, speed=speed))
    assert fast[0] == pytest.approx(exact, rel=1e-9)
    for name, weight in weights.items():
        torch.testing.assert_close(fast[1][name], weight, rtol=1e-6, atol=1e-9)
        assert fast[1][name].shape == weight.shape


def _masks(steps: int, *, seed: int = 0, rank: int = 0, stage: str = "distill") -> list[Tensor]:
    """What dropout leaves of features that are all 1, at each step."""
    student = Student(backbone=nn.Flatten(), head=nn.Linear(192, CLASSES), head_name="classifier", dropout=0.5).train()
    seen: list[Tensor] = []
    student.head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach() > 0))
    inputs = stage_inputs(student, workers=Workers(rank=rank), seed=seed)
    update = Update(replace(METHODS["erm"].stages[0], name=stage), inputs, dict(student.named_parameters()))
    for step in range(steps):
        torch.rand(7)  # another state of the global generator must not matter
        update(step, replace(random_batch(step), images=torch.ones(BATCH, 3, 8, 8)))
    return seen


def test_dropout_differs_in_every_step_worker_stage_and_seed() -> None:
    masks = [*_masks(3), *_masks(1, seed=1), *_masks(1, rank=1), *_masks(1, stage="align")]
    assert len({mask.numpy().tobytes() for mask in masks}) == 6
    assert all(0.4 < mask.float().mean() < 0.6 for mask in masks)
    assert all(torch.equal(first, second) for first, second in zip(_masks(3), masks[:3], strict=True))


class _Rank(_ThreeWorkers):
    """One of three workers; notes the gradient of its mean loss."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank


def test_uneven_shares_add_up_to_the_whole_batch() -> None:
    """10 images as 5, 3 and 2: torch.distributed means the gradients of three workers, and losses are summed."""

    def gradient(workers: Workers, batch: Batch) -> tuple[float, Tensor]:
        student = random_student("erm", 0.0)
        student.set_trainable(["classifier"])
        student.train()
        stage = replace(METHODS["erm"].stages[0], trains=("classifier",))
        weights = {name: weight for name, weight in student.named_parameters() if weight.requires_grad}
        loss = Update(stage, stage_inputs(student, workers=workers), weights)(0, batch)
        assert isinstance(student.head, nn.Linear)
        assert student.head.weight.grad is not None
        return float(loss), student.head.weight.grad.clone()

    whole = random_batch(0)
    loss, expected = gradient(Workers(), whole)
    parts = [
        gradient(_Rank(rank), replace(whole, images=whole.images[start:end], labels=whole.labels[start:end]))
        for rank, (start, end) in enumerate(((0, 5), (5, 8), (8, 10)))
    ]
    assert sum(part for part, _ in parts) == pytest.approx(loss, rel=1e-12)
    torch.testing.assert_close(sum(part for _, part in parts) / 3, expected, rtol=1e-9, atol=1e-12)


def test_an_images_digest_is_splitmix64() -> None:
    """The generator's first number from state 0, published with it (Steele et al. 2014); sums wrap at 2^64."""
    first, second = 0xE220A8397B1DCDAF, 0x910A2DEC89025CC1
    assert int(image_digest(torch.tensor([0]))) % 2**64 == first
    assert int(image_digest(torch.tensor([1]))) % 2**64 == second
    assert int(image_digest(torch.tensor([1, 0, 1]))) % 2**64 == (first + 2 * second) % 2**64
    assert int(image_digest(torch.tensor([2**40 + 3]))) % 2**64 != int(image_digest(torch.tensor([3]))) % 2**64


@pytest.mark.parametrize(("number", "lr", "weight_decay"), [(0, 0.3, 0.02), (1, 0.004, 0.5)])
def test_each_stage_has_its_own_optimiser(number: int, lr: float, weight_decay: float) -> None:
    """The first step of Adam moves every weight by the learning rate, whatever the gradient."""
    own = Hyperparameters(
        align=StageHyperparameters(lr=0.3, weight_decay=0.02), distill=StageHyperparameters(lr=0.004, weight_decay=0.5)
    )
    stage, student = METHODS["vl2v_adip"].stages[number], random_student("vl2v_adip", 0.0)
    student.set_trainable(stage.trains)
    weights = {name: weight for name, weight in student.named_parameters() if weight.requires_grad}
    update = Update(stage, replace(stage_inputs(student), hyperparameters=own), weights)
    assert update.optimizer.defaults.items() >= {"lr": lr, "weight_decay": weight_decay}.items()
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    update(0, random_batch(0))
    for name, weight in weights.items():
        moved = (weight.detach() - before[name]).abs()
        assert moved.median() == pytest.approx(lr, rel=1e-3), name
