"""A network whose tensors are of one shape where they can be, so that shapes say nothing, and weights for it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class NamedNetwork(nn.Module):
    """Linear layers and norms of three numbers, and one scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 3)
        self.blocks = nn.Sequential(*(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)) for _ in range(3)))
        self.scale = nn.Parameter(torch.ones(()))


def named_state(seed: int = 1) -> dict[str, Tensor]:
    """Random weights for the network; its counters say 3."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(value.shape, generator=generator) + 0.5 if value.is_floating_point() else value + 3
        for name, value in NamedNetwork().state_dict().items()
    }


def below(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights with a prefix."""
    return {f"{prefix}{name}": value for name, value in weights.items()}
