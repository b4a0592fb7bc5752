"""Peak memory of SWAD: ours against deep copies of network and optimiser, as the public implementation keeps them.

Every row is a process of its own. It takes Adam steps with made-up gradients (no forward pass, so that nothing else
needs memory) until all windows are full and the valley has begun, and tells its largest resident size (`ru_maxrss`)
and a checksum of the averaged weights, which must agree.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import resource
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from search_spaces.hyperparameters import Swad
from trainables.fitting.swad import DenseAverager

MODELS = ("vit_small_patch16_224", "resnet50")
STEPS_PER_SEGMENT = 2
LOSSES = (3.0, 2.0, 1.0, 1.01, 1.02, 1.03, 1.04, 1.03, 1.02, 1.03, 1.04, 1.05)


class Algorithm(nn.Module):
    """What the public code copies: the network together with its optimiser."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)


class PlainAverage:
    """A deep copy of an algorithm whose network becomes a running mean."""

    def __init__(self, algorithm: nn.Module) -> None:
        self.algorithm: Any = copy.deepcopy(algorithm)
        self.count = 0
        self.end_step = -1
        self.end_loss = float("nan")

    @torch.no_grad()
    def add(self, algorithm: Any, step: int) -> None:
        for mean, new in zip(self.algorithm.network.parameters(), algorithm.network.parameters(), strict=True):
            mean.copy_(new if self.count == 0 else mean + (new - mean) / (self.count + 1))
        self.count, self.end_step = self.count + 1, step


class PlainSwad:
    """LossValley on deep copies (Cha et al. 2021), for runs whose valley stays alive."""

    def __init__(self, settings: Swad) -> None:
        self.settings = settings
        self.converge: deque[PlainAverage] = deque(maxlen=settings.num_converge)
        self.smooth: deque[PlainAverage] = deque(maxlen=settings.num_tolerate)
        self.valley: PlainAverage | None = None
        self.converge_step = self.threshold = 0.0

    def feed(self, segment: PlainAverage, loss: float) -> None:
        frozen = copy.deepcopy(segment)
        frozen.end_loss = loss
        self.converge.append(frozen)
        self.smooth.append(frozen)
        if self.valley is None:
            losses = [item.end_loss for item in self.converge]
            if len(losses) == self.settings.num_converge and int(np.argmin(losses)) == 0:
                self._begin(losses)
        elif self.smooth[0].end_step >= self.converge_step:
            assert min(item.end_loss for item in self.smooth) <= self.threshold
            self.valley.add(self.smooth[0].algorithm, self.smooth[0].end_step)

    def _begin(self, losses: Sequence[float]) -> None:
        self.converge_step = self.converge[0].end_step
        self.threshold = float(np.mean(losses)) * (1.0 + self.settings.tolerance_ratio)
        self.valley = PlainAverage(self.converge[0].algorithm)
        surplus = self.settings.num_tolerate - self.settings.num_converge
        window = list(self.smooth)[: surplus + 1]
        above = [position for position, item in enumerate(window) if item.end_loss > self.threshold]
        for item in window[(above[-1] + 1 if above else 0) + 1 :]:
            self.valley.add(item.algorithm, item.end_step)

    def result(self) -> dict[str, Tensor]:
        assert self.valley is not None
        self.smooth.popleft()
        while self.smooth and min(item.end_loss for item in self.smooth) <= self.threshold:
            last = self.smooth.popleft()
            self.valley.add(last.algorithm, last.end_step)
        return dict(self.valley.algorithm.network.named_parameters())


def train(name: str, kind: str) -> dict[str, float]:
    """Run one kind of averaging; sizes in MiB."""
    import timm

    torch.manual_seed(0)
    torch.set_num_threads(1)
    algorithm = Algorithm(timm.create_model(name, num_classes=0))
    weights = dict(algorithm.network.named_parameters())
    for weight in weights.values():
        weight.grad = torch.randn_like(weight)
    algorithm.optimizer.step()
    gc.collect()
    settings = Swad()
    ours = DenseAverager(settings) if kind == "ours" else None
    plain = PlainSwad(settings) if kind == "plain" else None
    segment = PlainAverage(algorithm) if plain is not None else None
    for step in range(1, STEPS_PER_SEGMENT * len(LOSSES) + 1):
        algorithm.optimizer.step()
        if ours is not None:
            ours.after_step(weights, step)
        if segment is not None:
            segment.add(algorithm, step)
        if step % STEPS_PER_SEGMENT == 0:
            loss = LOSSES[step // STEPS_PER_SEGMENT - 1]
            if ours is not None:
                ours.after_evaluation(step, loss)
            if plain is not None and segment is not None:
                plain.feed(segment, loss)
                segment = PlainAverage(algorithm)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    averaged = ours.result().weights if ours is not None else plain.result() if plain is not None else {}
    checksum = sum(float(weight.double().abs().sum()) for weight in averaged.values())
    return {"peak": peak, "weights": sum(w.nbytes for w in weights.values()) / 2**20, "checksum": checksum}


def main() -> None:
    """Print one row per model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs=2, metavar=("MODEL", "KIND"), help="one process: none, ours or plain")
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(train(*arguments.only)))
        return
    for name in MODELS:
        found = {kind: _in_a_process(name, kind) for kind in ("none", "ours", "plain")}
        checksums = [found[kind]["checksum"] for kind in ("ours", "plain")]
        assert abs(checksums[0] - checksums[1]) < 1e-6 * checksums[0], f"the averages differ: {checksums}"
        size = found["none"]["weights"]
        ours, plain = (found[kind]["peak"] - found["none"]["peak"] for kind in ("ours", "plain"))
        print(
            f"SWAD of {name:22} ({size:.0f} MiB of weights)  above training without it: ours {ours:5.0f} MiB "
            f"({ours / size:.1f} x the weights), deep copies with optimiser state {plain:5.0f} MiB "
            f"({plain / size:.1f} x)  ratio {plain / ours:.1f}x  same average"
        )


def _in_a_process(name: str, kind: str) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench.swad", "--only", name, kind]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


if __name__ == "__main__":
    main()
