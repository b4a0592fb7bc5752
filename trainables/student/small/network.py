"""A small student backbone for pictures of 64 x 64 pixels: it stands for the paper's ImageNet students in miniature."""

from typing import Final

from torch import Tensor, nn
from torch.nn import functional as F

FEATURE_WIDTH: Final = 192
"""Width of the features of `SmallStudent`."""


class Residual(nn.Module):
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


class SmallStudent(nn.Module):
    """Map ImageNet-normalised pictures [N, 3, 64, 64] to features [N, 192]; about 0.43 million parameters.

    GroupNorm instead of BatchNorm: there are no running statistics to freeze, and weight averaging (SWAD) needs no
    extra pass over the data.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.Sequential(
            nn.Conv2d(3, 32, 7, stride=4, padding=3, bias=False),
            nn.GroupNorm(8, 32),
            nn.ReLU(),
            Residual(32),
            _downsample(32, 96),
            Residual(96),
            _downsample(96, FEATURE_WIDTH),
        )

    def forward(self, images_N3HW: Tensor) -> Tensor:
        features: Tensor = self.stages(images_N3HW).mean(dim=(2, 3))
        return features
