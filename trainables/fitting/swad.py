"""SWAD: average the weights densely along the validation loss's valley (Cha et al. 2021, arXiv 2102.08604, LossValley).

Words: a *segment* is the running average of the weights of consecutive steps; the *valley* starts where the
validation loss stopped improving and ends where it exceeds a threshold; the result averages the segments inside it.

Memory: averages move in place, a finished segment is handed over and not copied, and weights that no rule can ask for
again are dropped at once. At most `num_converge + num_tolerate` copies of the trained weights are held, and never
optimiser state (tests/trainables/fitting/test_swad_memory.py).

Two details of the public implementation are kept on purpose, because numbers must match: the first segment added after
convergence replaces the until-minimum segment that the valley starts with (its count starts at 0), and segments around
an early convergence are counted twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from search_spaces.hyperparameters import SegmentRule, Swad

Weights = Mapping[str, Tensor]


class WeightAverage:
    """A running mean of weights that remembers which steps it covers. Tensors keep the dtype of the weights."""

    def __init__(self, device: torch.device | None = None) -> None:
        """`device` is where the mean lies; None for beside the weights. It changes no number."""
        self.device = device
        self.weights: dict[str, Tensor] = {}
        self.count = 0
        self.start_step = -1
        self.end_step = -1
        self.end_loss = float("nan")

    @torch.no_grad()
    def add(self, weights: Weights, start_step: int, end_step: int) -> None:
        """Count `weights` once; the first ones replace whatever is held."""
        if self.count == 0:
            # What is held may be another average's, which stays as it is.
            self.weights = {name: w.detach().to(self.device or w.device, copy=True) for name, w in weights.items()}
            self.start_step = start_step
        else:
            for name, mean in self.weights.items():
                # A tensor on its device is divided by truly; CUDA would multiply by the reciprocal of a plain number.
                count = torch.tensor(self.count + 1, device=mean.device)
                mean.add_((weights[name].detach().to(mean.device) - mean).div_(count))
        self.end_step = end_step
        self.count += 1

    def frozen(self, end_loss: float) -> WeightAverage:
        """A copy that later steps do not move."""
        copy = WeightAverage(self.device)
        copy.weights = {name: tensor.clone() for name, tensor in self.weights.items()}
        copy.count, copy.start_step, copy.end_step = self.count, self.start_step, self.end_step
        copy.end_loss = end_loss
        return copy

    def state(self) -> dict[str, Any]:
        """Plain values and tensors, for a checkpoint that loads with `weights_only=True`."""
        return {name: getattr(self, name) for name in ("weights", "count", "start_step", "end_step", "end_loss")}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], device: torch.device | None = None) -> WeightAverage:
        average = cls(device)
        for name, value in state.items():
            setattr(average, name, value)
        if device is not None:
            average.weights = {name: tensor.to(device) for name, tensor in average.weights.items()}
        return average


class LossValley:
    """Finds the valley from one validation loss per evaluation and averages the segments inside it."""

    def __init__(self, settings: Swad) -> None:
        self.settings = settings
        self.converge: deque[WeightAverage] = deque(maxlen=settings.num_converge)
        self.smooth: deque[WeightAverage] = deque(maxlen=settings.num_tolerate)
        self.valley: WeightAverage | None = None
        self.converge_step: int | None = None
        self.threshold: float | None = None
        self.is_dead = False

    def feed(self, segment: WeightAverage, validation_loss: float) -> None:
        """Take over the segment that ended at this evaluation; nobody else may move it from now on."""
        if self.is_dead:
            return
        segment.end_loss = validation_loss
        self.smooth.append(segment)
        if self.converge_step is None:
            self.converge.append(segment)
            self._try_to_converge()
        elif self.smooth[0].end_step >= self.converge_step:
            if self._lowest_loss() > self._threshold:
                self.is_dead = True
            else:
                self._count([self.smooth[0]])
        self._forget()

    def _forget(self) -> None:
        """Drop weights that no rule can ask for again."""
        if self.converge_step is None:
            return
        self.converge.clear()
        # Of a full window the oldest was counted just now or never will be: next comes its end.
        is_full = len(self.smooth) == self.smooth.maxlen
        for segment in list(self.smooth)[: None if self.is_dead else int(is_full)]:
            segment.weights = {}

    def result(self) -> WeightAverage:
        """The averaged weights. Without convergence, the last segment.

        Raises:
            ValueError: nothing was fed yet.
        """
        if self.valley is None:
            if not self.smooth:
                raise ValueError("SWAD has seen no evaluation")
            return self.smooth[-1]
        if not self.is_dead:
            self.smooth.popleft()
            while self.smooth and self._lowest_loss() <= self._threshold:
                last = self.smooth.popleft()
                # The public implementation notes only a segment's end here; it shows where nothing was counted before.
                self.valley.add(last.weights, last.end_step, last.end_step)
        return self.valley

    @property
    def _threshold(self) -> float:
        assert self.threshold is not None
        return self.threshold

    def _lowest_loss(self) -> float:
        return min(segment.end_loss for segment in self.smooth)

    def _try_to_converge(self) -> None:
        """The valley starts once the oldest of `num_converge` losses is still the lowest."""
        if len(self.converge) < self.settings.num_converge:
            return
        losses = [segment.end_loss for segment in self.converge]
        if np.argmin(losses) != 0:
            return
        self.converge_step = self.converge[0].end_step
        self.threshold = float(np.mean(losses)) * (1.0 + self.settings.tolerance_ratio)
        # Stands for the valley until the first count replaces it.
        self.valley = WeightAverage(self.converge[0].device)
        self.valley.weights, self.valley.end_loss = self.converge[0].weights, self.converge[0].end_loss
        self._count(self._segments_at_convergence())

    def _segments_at_convergence(self) -> list[WeightAverage]:
        """Segments already seen that lie inside the valley, by the public implementation's arithmetic."""
        surplus = self.settings.num_tolerate - self.settings.num_converge
        if surplus < 0:
            return list(self.converge)[1 : 1 - surplus]
        if surplus == 0:
            return []
        window = list(self.smooth)[: surplus + 1]
        first = 0
        for position in reversed(range(len(window))):
            if window[position].end_loss > self._threshold:
                first = position + 1
                break
        return window[first + 1 :]

    def _count(self, segments: Iterable[WeightAverage]) -> None:
        assert self.valley is not None
        for segment in segments:
            self.valley.add(segment.weights, segment.start_step, segment.end_step)

    def state(self) -> dict[str, Any]:
        """Plain values and tensors; every segment once, the two windows by position."""
        segments = list(dict.fromkeys([*self.converge, *self.smooth]))
        return {
            "segments": [segment.state() for segment in segments],
            "converge": [segments.index(segment) for segment in self.converge],
            "smooth": [segments.index(segment) for segment in self.smooth],
            "valley": self.valley.state() if self.valley is not None else None,
            "converge_step": self.converge_step,
            "threshold": self.threshold,
            "is_dead": self.is_dead,
        }

    def load_state(self, state: Mapping[str, Any], device: torch.device | None = None) -> None:
        """Go on where `state()` was taken."""
        segments = [WeightAverage.from_state(segment, device) for segment in state["segments"]]
        self.converge.extend(segments[position] for position in state["converge"])
        self.smooth.extend(segments[position] for position in state["smooth"])
        self.valley = WeightAverage.from_state(state["valley"], device) if state["valley"] is not None else None
        self.converge_step, self.threshold = state["converge_step"], state["threshold"]
        self.is_dead = state["is_dead"]


def starts_new_segment(rule: SegmentRule, step: int) -> bool:
    """Whether the running average restarts after the evaluation at `step`.

    `every_evaluation` is standard SWAD. `authors`: the scripts restart it only where step % 1000 == 0 and step > 2500.
    """
    if rule == "authors":
        return step % 1000 == 0 and step > 2500
    return True


class DenseAverager:
    """SWAD as the training loop uses it: `after_step`, `after_evaluation`, `result`."""

    def __init__(self, settings: Swad, *, device: torch.device | None = None) -> None:
        """`device` is where the averages lie; None for beside the weights. It changes no number."""
        self.settings = settings
        self.device = device
        self.segment = WeightAverage(device)
        self.valley = LossValley(settings)

    def after_step(self, weights: Weights, step: int) -> None:
        """Count the weights after the update of `step`."""
        self.segment.add(weights, step, step)

    def after_evaluation(self, step: int, validation_loss: float) -> bool:
        """Feed the segment; return whether training may end because the valley is dead."""
        if starts_new_segment(self.settings.segments, step):
            finished, self.segment = self.segment, WeightAverage(self.device)
        else:
            finished = self.segment.frozen(validation_loss)
        self.valley.feed(finished, validation_loss)
        return self.valley.is_dead

    def result(self) -> WeightAverage:
        """The averaged weights; call it once, at the end."""
        return self.valley.result()

    def state(self) -> dict[str, Any]:
        return {"segment": self.segment.state(), "valley": self.valley.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.segment = WeightAverage.from_state(state["segment"], self.device)
        self.valley.load_state(state["valley"], self.device)
