"""A student and a teacher without modes, groups or meters of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

import trainables.student.small
from search_spaces.hyperparameters import Hyperparameters
from tests.support.asymmetric_fold import CLASSES, EMBEDDING_DIM, IMAGE_SIZE, tower
from trainables.student.small.network import SmallStudent

SMALL_WEIGHTS = Path(trainables.student.small.__file__).parent / "small_student.safetensors"
Weights = dict[str, Tensor]


def seed_of(words: str) -> int:
    """The seed that stands for what it is for."""
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big") // 2


class PlainStudent:
    """A backbone and a linear head."""

    def __init__(self, method: str, hyperparameters: Hyperparameters, seed: int) -> None:
        self.dropout = hyperparameters.dropout
        self.head: nn.Module = nn.Identity()
        if method in ("vl2v_sd", "zero_shot"):
            self.backbone = tower()
            return
        self.backbone = _drawn("backbone", seed, lambda: _backbone(hyperparameters))
        width = self.judged(torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE)).shape[1]
        if method == "vl2v_adip":
            self.head = _drawn("projection", seed, lambda: nn.Linear(width, EMBEDDING_DIM))
        else:
            self.head = _drawn("classifier", seed, lambda: nn.Linear(width, len(CLASSES)))

    def parameters(self) -> dict[str, nn.Parameter]:
        """All parameters, under the names that the saved file has."""
        return {
            f"{group}.{name}": parameter
            for group, module in (("backbone", self.backbone), ("head", self.head))
            for name, parameter in module.named_parameters()
        }

    def load(self, weights: Weights) -> None:
        """Take over weights by name; buffers of a saved file are compared, because nothing may move them."""
        parameters = self.parameters()
        buffers = {f"backbone.{name}": buffer for name, buffer in self.backbone.named_buffers()}
        with torch.no_grad():
            for name, weight in weights.items():
                if name in buffers:
                    assert torch.equal(buffers[name], weight), name
                else:
                    parameters[name].copy_(weight)

    def trained(self, images: Tensor) -> Tensor:
        """Outputs while the backbone trains: all of it in training mode but BatchNorm; then its features drop out."""
        self.backbone.train()
        for module in self.backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        outputs: Tensor = self.head(F.dropout(self.backbone(images), self.dropout))
        return outputs

    def judged(self, images: Tensor) -> Tensor:
        """Outputs in evaluation mode."""
        self.backbone.eval()
        outputs: Tensor = self.head(self.backbone(images))
        return outputs


def _drawn(purpose: str, seed: int, build: Callable[[], nn.Module]) -> nn.Module:
    """Build with random weights that follow from purpose and seed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of(f"{purpose}:{seed}"))
        return build()


def _backbone(hyperparameters: Hyperparameters) -> nn.Module:
    built: nn.Module
    if hyperparameters.student == "small":
        built = SmallStudent()
    else:
        import timm

        built = timm.create_model(hyperparameters.student, pretrained=False, num_classes=0)
    if hyperparameters.student_weights == "pretrained":
        built.load_state_dict(load_file(SMALL_WEIGHTS))
    return built
