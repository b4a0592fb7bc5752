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
from tests.support.stage_updates import BATCH, WIDTH, random_batch, random_student, stage_updates
from trainables.fitting import update as update_module
from trainables.fitting.workers import Workers
from trainables.methods.recipes import METHODS


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("pieces", [2, 3, 10, 99])
@pytest.mark.parametrize("method", ["vl2v_adip", "erm", "kd"])
def test_pieces_add_up_to_the_whole_batch(method: str, pieces: int, dropout: float) -> None:
    losses, weights, asked = stage_updates(method, 1, dropout=dropout)
    parts = stage_updates(method, pieces, dropout=dropout)
    assert parts[0] == pytest.approx(losses, rel=1e-12)
    for name, weight in weights.items():
        torch.testing.assert_close(parts[1][name], weight, rtol=1e-9, atol=1e-11)
    assert parts[2] == asked


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
