"""The demo teacher's image tower: a small residual convolutional network for pictures of 64 x 64 pixels."""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EMBEDDING_SIZE: Final = 384
"""Width of the text space that the tower maps into: that of all-MiniLM-L6-v2."""


class DemoResidual(nn.Module):
    """Two 3 x 3 convolutions with GroupNorm around a shortcut; keeps the shape [N, width, H, W]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.first_norm = nn.GroupNorm(8, width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = nn.GroupNorm(8, width)

    def forward(self, features_NWHW: Tensor) -> Tensor:
        hidden = F.relu(self.first_norm(self.first(features_NWHW)))
        return F.relu(features_NWHW + self.second_norm(self.second(hidden)))


def _downsample(width_in: int, width_out: int) -> nn.Sequential:
    """Halve height and width."""
    return nn.Sequential(
        nn.Conv2d(width_in, width_out, 3, stride=2, padding=1, bias=False), nn.GroupNorm(8, width_out), nn.ReLU()
    )


class DemoImageTower(nn.Module):
    """Map ImageNet-normalised pictures [N, 3, 64, 64] to image embeddings [N, 384], not yet L2-normalised.

    GroupNorm instead of BatchNorm: a picture's embedding never depends on the other pictures of its batch, and there
    are no running statistics.
    """

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.stages = nn.Sequential(
            _downsample(3, width // 2),
            _downsample(width // 2, width),
            DemoResidual(width),
            _downsample(width, 2 * width),
            DemoResidual(2 * width),
            _downsample(2 * width, 4 * width),
            DemoResidual(4 * width),
            _downsample(4 * width, 6 * width),
        )
        self.head = nn.Linear(2 * 6 * width, EMBEDDING_SIZE)
        self.logit_scale = nn.Parameter(torch.tensor(3.0))
        """Natural logarithm of the factor on cosine similarities, as in CLIP."""

    def forward(self, images_N3HW: Tensor) -> Tensor:
        features = self.stages(images_N3HW)
        pooled = torch.cat([features.mean(dim=(2, 3)), features.amax(dim=(2, 3))], dim=1)
        embeddings_ND: Tensor = self.head(pooled)
        return embeddings_ND
