"""Turn monochrome icons into varied pictures: paint, thicken, shade, warp.  Written for a CPU and whole batches."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedIcons:
    """The rendered icons that `iconify.prepare` wrote, memory-mapped."""

    ink: NDArray[np.uint8]
    """Opacity of the drawing, [N, 64, 64]."""
    regions: NDArray[np.uint8]
    """Number of the enclosed area a pixel lies in, 0 for none, [N, 64, 64]."""
    coloured: NDArray[np.uint8]
    """RGBA of the icons that come with colours, [M, 64, 64, 4]."""
    colour_row: NDArray[np.int64]
    """Row of an icon in `coloured`, -1 for a monochrome one, [N]."""

    @classmethod
    def load(cls, folder: Path, colour_row: NDArray[np.int64]) -> "PreparedIcons":
        """Map the arrays of a prepared folder."""
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("ink", "regions", "coloured")}
        return cls(**arrays, colour_row=colour_row)


def normalised_drawings(images_N3HW: Tensor) -> Tensor:
    """Subtract ImageNet's mean and divide by its standard deviation; input in [0, 1]."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (images_N3HW - mean) / std


def training_batch(icons: PreparedIcons, rows: NDArray[np.int64], generator: torch.Generator) -> Tensor:
    """Augmented, normalised pictures [N, 3, 64, 64] of the icons with these numbers."""
    ink = torch.from_numpy(icons.ink[rows]).float().unsqueeze(1) / 255
    images = paint(change_stroke(ink, generator), torch.from_numpy(icons.regions[rows]), generator)
    colour_rows = icons.colour_row[rows]
    has_colour = torch.from_numpy(colour_rows >= 0) & _chance(len(rows), 0.8, generator)
    if bool(has_colour.any()):
        rgba = torch.from_numpy(icons.coloured[colour_rows[has_colour.numpy()]]).permute(0, 3, 1, 2).float() / 255
        images[has_colour] = vary_colours(rgba[:, :3] * rgba[:, 3:] + (1 - rgba[:, 3:]), generator)
    return normalised_drawings(blur(warp(shade(images, generator), generator), generator))


def change_stroke(ink_N1HW: Tensor, generator: torch.Generator) -> Tensor:
    """Thicken a fifth of the drawings and thin the edges of a tenth."""
    ink_N1HW = ink_N1HW.clone()
    thicken, thin = _chance(len(ink_N1HW), 0.2, generator), _chance(len(ink_N1HW), 0.1, generator)
    ink_N1HW[thicken] = F.max_pool2d(ink_N1HW[thicken], 3, stride=1, padding=1)
    ink_N1HW[thin] = ink_N1HW[thin] * F.avg_pool2d(ink_N1HW[thin], 3, stride=1, padding=1, count_include_pad=False)
    return ink_N1HW


def paint(ink_N1HW: Tensor, regions_NHW: Tensor, generator: torch.Generator) -> Tensor:
    """Colour ink and enclosed areas at random; what lies outside stays white: [N, 3, 64, 64] in [0, 1]."""
    num = len(ink_N1HW)
    colours = torch.rand(num, 16, 3, generator=generator)
    one_colour = _chance(num, 0.4, generator).view(-1, 1, 1)
    colours = torch.where(one_colour, colours[:, :1], colours)
    unfilled = _chance(num, 0.45, generator).view(-1, 1, 1)
    colours = torch.where(unfilled, torch.ones(()), colours)
    colours[:, 0] = 1.0
    index = regions_NHW.long().flatten(1).unsqueeze(-1).expand(-1, -1, 3)
    fill = colours.gather(1, index).view(num, *regions_NHW.shape[1:], 3).permute(0, 3, 1, 2)
    black = _chance(num, 0.5, generator).view(-1, 1, 1, 1)
    ink_colour = torch.rand(num, 3, 1, 1, generator=generator) * 0.9
    ink_colour = torch.where(black, 0.15 * ink_colour, ink_colour)
    return fill * (1 - ink_N1HW) + ink_colour * ink_N1HW


def vary_colours(images_N3HW: Tensor, generator: torch.Generator) -> Tensor:
    """Swap two colour channels in a fifth of the pictures and take the colour from a tenth."""
    swapped, grey = _chance(len(images_N3HW), 0.2, generator), _chance(len(images_N3HW), 0.1, generator)
    images_N3HW = torch.where(swapped.view(-1, 1, 1, 1), images_N3HW.flip(1), images_N3HW)
    return torch.where(grey.view(-1, 1, 1, 1), images_N3HW.mean(dim=1, keepdim=True), images_N3HW)


def shade(images_N3HW: Tensor, generator: torch.Generator) -> Tensor:
    """Darken or lighten a third of the drawings along a random direction, as light on a round thing would."""
    num, side = len(images_N3HW), images_N3HW.shape[-1]
    angle = torch.rand(num, 1, 1, generator=generator) * 2 * math.pi
    axis = torch.linspace(-1, 1, side)
    slope = axis.view(1, -1, 1) * angle.sin() + axis.view(1, 1, -1) * angle.cos()
    strength = torch.rand(num, 1, 1, generator=generator) * 0.5 * _chance(num, 0.35, generator).view(-1, 1, 1)
    white = (images_N3HW.amin(dim=1) > 0.98).float()
    return (images_N3HW + (strength * slope * (1 - white)).unsqueeze(1)).clamp(0, 1)


def warp(images_N3HW: Tensor, generator: torch.Generator) -> Tensor:
    """Scale by 0.75 to 1.1, turn by up to 15 degrees, shear, shift and mirror; what enters from outside is white."""
    num = len(images_N3HW)
    turn, shear, scale, flip = (torch.rand(num, generator=generator) for _ in range(4))
    turn, shear = (turn - 0.5) * math.radians(30), (shear - 0.5) * 0.3
    scale, flip = 1 / (0.75 + 0.35 * scale), torch.where(flip < 0.5, -1.0, 1.0)
    theta = torch.zeros(num, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = scale * turn.cos() * flip, scale * (shear - turn.sin())
    theta[:, 1, 0], theta[:, 1, 1] = scale * turn.sin() * flip, scale * turn.cos()
    theta[:, :, 2] = (torch.rand(num, 2, generator=generator) - 0.5) * 0.2
    grid = F.affine_grid(theta, list(images_N3HW.shape), align_corners=False)
    return 1 - F.grid_sample(1 - images_N3HW, grid, align_corners=False)


def blur(images_N3HW: Tensor, generator: torch.Generator) -> Tensor:
    """Blur a fifth of the pictures with a 3 x 3 mean."""
    blurred = _chance(len(images_N3HW), 0.2, generator)
    images_N3HW = images_N3HW.clone()
    padded = F.pad(images_N3HW[blurred], (1, 1, 1, 1), mode="replicate")
    images_N3HW[blurred] = F.avg_pool2d(padded, 3, stride=1)
    return images_N3HW


def _chance(num: int, probability: float, generator: torch.Generator) -> Tensor:
    return torch.rand(num, generator=generator) < probability
