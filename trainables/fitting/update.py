"""One update step: ask the teacher, forward, loss, backward, Adam; in pieces where memory is short.

With `batch_pieces` the teacher is still asked for the whole batch at once. The pieces' losses are weighted by their
sizes, because every loss is a mean over images, and no layer looks across images (BatchNorm stays in eval mode, see
`Student.train`): loss and gradient are those of the whole batch, to rounding. Dropout is drawn for the whole batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from trainables.data.loading.batches import Batch
from trainables.fitting.inputs import StageInputs, stage_settings
from trainables.fitting.speed import adam, arranged, compiled
from trainables.methods.recipes import Stage, StepTensors
from trainables.seeds import derived_seed


class Update:
    """The update steps of one stage."""

    def __init__(self, stage: Stage, inputs: StageInputs, weights: Mapping[str, nn.Parameter]) -> None:
        """`weights` are those that train, by name."""
        self.stage, self.inputs = stage, inputs
        speed = inputs.hyperparameters.speed
        self.channels_last = speed.channels_last
        if speed.channels_last:
            arranged(inputs.student)
        self.optimizer = adam(weights.values(), stage_settings(stage, inputs.hyperparameters), speed)
        self.module: nn.Module = inputs.workers.wrap(inputs.student)
        if speed.compile:
            self.module = compiled(self.module)

    def __call__(self, step: int, batch: Batch) -> Tensor:
        """Update the weights; returns this worker's part of the global batch's loss, on the device."""
        inputs, device = self.inputs, self.inputs.workers.device
        seed_dropout(derived_seed("step", inputs.seed, self.stage.name, step, inputs.workers.rank), device)
        batch = batch.to(device)
        images = arranged(batch.images) if self.channels_last else batch.images
        with self._autocast(device):
            teacher_images = inputs.ask(batch) if self.stage.asks_teacher and inputs.ask is not None else None
        self.optimizer.zero_grad(set_to_none=True)
        # A worker's mean counts by its share of the batch, so that the gradient is that of the whole batch.
        share = len(batch.labels) / batch.global_size
        loss = self._backward(images, batch.labels, teacher_images, share * inputs.workers.size)
        self.optimizer.step()
        return loss * share

    def _backward(self, images: Tensor, labels: Tensor, teacher_images: Tensor | None, gradient_scale: float) -> Tensor:
        """Add the gradient of the batch's mean loss, times a scale where there are other workers; return the loss."""
        count = min(self.inputs.batch_pieces, len(labels))
        if count > 1:
            self.inputs.student.share_dropout(len(labels))
        total: Tensor | None = None
        pieces = zip(*(_pieces(tensor, count) for tensor in (images, labels, teacher_images)), strict=True)
        for number, (piece_images, piece_labels, piece_teacher) in enumerate(pieces, 1):
            with self._without_exchange() if number < count else nullcontext():
                loss = self._loss(piece_images, piece_labels, piece_teacher)
                if count > 1:
                    loss = loss * (len(piece_labels) / len(labels))
                scaled: Any = loss * gradient_scale if self.inputs.workers.size > 1 else loss
                scaled.backward()
            total = loss.detach() if total is None else total + loss.detach()
        assert total is not None
        return total

    def _loss(self, images: Tensor, labels: Tensor, teacher_images: Tensor | None) -> Tensor:
        inputs = self.inputs
        with self._autocast(images.device):
            tensors = StepTensors(
                outputs=self.module(images),
                labels=labels,
                texts=inputs.texts,
                teacher_images=teacher_images,
                logit_scale=inputs.logit_scale,
            )
            return self.stage.loss(tensors, inputs.hyperparameters)

    def _autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        if self.inputs.hyperparameters.precision == "fp32":
            return nullcontext()
        return torch.autocast(device.type, torch.bfloat16)

    def _without_exchange(self) -> AbstractContextManager[Any]:
        """Keep gradients here until the last piece: workers exchange them once per step."""
        if self.inputs.workers.size == 1:
            return nullcontext()
        module: Any = self.module
        return getattr(module, "_orig_mod", module).no_sync()  # type: ignore[no-any-return]


def _pieces(tensor: Tensor | None, count: int) -> tuple[Tensor | None, ...]:
    if tensor is None or count == 1:
        return (tensor,) * count
    return tensor.tensor_split(count)


def seed_dropout(seed: int, device: torch.device) -> None:
    """Seed the generator that this step's dropout draws from."""
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    else:
        # `torch.manual_seed` also notes a stack trace for devices to come, which costs more than a small step.
        torch.default_generator.manual_seed(seed)


def image_digest(image_ids: Tensor) -> Tensor:
    """A sum of mixed image ids (int64, wrapping): equal sums mean equal images, in any order, over any workers.

    The mixing is splitmix64's (Steele et al. 2014).
    """
    mixed = image_ids.to(torch.int64) + _signed(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ ((mixed >> shift) & ((1 << (64 - shift)) - 1))) * _signed(factor)
    return (mixed ^ ((mixed >> 31) & ((1 << 33) - 1))).sum()


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
