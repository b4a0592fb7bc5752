"""What the networks see of an image: the official train view, the eval view, and ImageNet's normalisation.

The train view is torchvision's `RandomResizedCrop(S, scale=(.7, 1)), RandomHorizontalFlip(), ColorJitter(.3, .3, .3,
.3), RandomGrayscale(.1)` on a PIL image (DomainBed; the authors' scripts), number for number: the same pixels as after
`torch.manual_seed(seed)`. The parameters come from a generator of its own, in torchvision's order, so a view is a pure
function of image and seed, and the global generator is left alone. It is spelled out here because torchvision's own
classes only draw from the global generator, and because most of their time goes into copies and HSV images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from trainables.data.loading.colour_jitter import Pixels, brighten, contrast, make_grey, normalised, saturate, turn_hue

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

CROP_SCALE = (0.7, 1.0)
CROP_RATIO = (3.0 / 4.0, 4.0 / 3.0)
JITTER = 0.3
"""Strength of brightness, contrast, saturation and hue alike."""
GRAYSCALE_PROBABILITY = 0.1

_LOG_RATIO = torch.log(torch.tensor(CROP_RATIO)).tolist()
_NORMALISED = (torch.arange(256) / 255 - torch.tensor(IMAGENET_MEAN)[:, None]) / torch.tensor(IMAGENET_STD)[:, None]
"""Every value of every channel, normalised: float32 [3, 256]."""


def normalise(pixels_NHW3: Tensor) -> Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W]: `ToTensor` and `Normalize` with ImageNet's mean and deviation."""
    if pixels_NHW3.device.type == "cpu":
        return torch.from_numpy(normalised(pixels_NHW3.numpy(), _NORMALISED.numpy()))
    mean, std = (
        torch.tensor(values, device=pixels_NHW3.device).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return (pixels_NHW3.permute(0, 3, 1, 2).contiguous().to(torch.float32) / 255 - mean) / std


class TrainView:
    """A random view of an image, S x S, as a pure function of image and seed."""

    def __init__(self, image_size: int) -> None:
        self.image_size = image_size

    def __call__(self, image: Image.Image, seed: int) -> Tensor:
        """RGB image -> normalised float32 [3, S, S]."""
        return normalise(torch.from_numpy(self.pixels(image, seed))[None])[0]

    def pixels(self, image: Image.Image, seed: int) -> Pixels:
        """RGB image -> uint8 [S, S, 3], before normalisation."""
        generator = torch.Generator()
        generator.manual_seed(seed)
        top, left, height, width = crop_box(image.height, image.width, generator)
        size = (self.image_size, self.image_size)
        view = image.crop((left, top, left + width, top + height)).resize(size, Image.Resampling.BILINEAR)
        if _uniform(generator) < 0.5:
            view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = np.array(view)
        jitter_colours(pixels, generator)
        if _uniform(generator) < GRAYSCALE_PROBABILITY:
            make_grey(pixels)
        return pixels


class EvalView:
    """The whole image squashed to S x S, as torchvision's `Resize((S, S))` on a PIL image."""

    def __init__(self, image_size: int) -> None:
        self.image_size = image_size

    def __call__(self, image: Image.Image) -> Tensor:
        """RGB image -> normalised float32 [3, S, S]."""
        return normalise(torch.from_numpy(self.pixels(image))[None])[0]

    def pixels(self, image: Image.Image) -> Pixels:
        """RGB image -> uint8 [S, S, 3], before normalisation."""
        size = (self.image_size, self.image_size)
        return np.array(image if image.size == size else image.resize(size, Image.Resampling.BILINEAR))


def crop_box(height: int, width: int, generator: torch.Generator) -> tuple[int, int, int, int]:
    """Return (top, left, height, width) as torchvision's `RandomResizedCrop.get_params` draws them."""
    for _ in range(10):
        area = height * width * _uniform(generator, *CROP_SCALE)
        # float32, as torchvision's torch.exp.
        ratio = float(torch.exp(torch.empty(1).uniform_(_LOG_RATIO[0], _LOG_RATIO[1], generator=generator)))
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(torch.randint(0, height - crop_height + 1, (1,), generator=generator))
            left = int(torch.randint(0, width - crop_width + 1, (1,), generator=generator))
            return top, left, crop_height, crop_width
    if width / height < min(CROP_RATIO):
        crop_width, crop_height = width, round(width / min(CROP_RATIO))
    elif width / height > max(CROP_RATIO):
        crop_width, crop_height = round(height * max(CROP_RATIO)), height
    else:
        crop_width, crop_height = width, height
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def jitter_colours(pixels: Pixels, generator: torch.Generator) -> None:
    """Torchvision's `ColorJitter(.3, .3, .3, .3)`: four changes in random order, to uint8 [H, W, 3] in place."""
    order: Sequence[int] = torch.randperm(4, generator=generator).tolist()
    factors = [_uniform(generator, 1 - JITTER, 1 + JITTER) for _ in range(3)]
    factors.append(_uniform(generator, -JITTER, JITTER))
    for change in order:
        _CHANGES[change](pixels, factors[change])


_CHANGES = (brighten, contrast, saturate, turn_hue)


def _uniform(generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    return torch.empty(1).uniform_(low, high, generator=generator).item()
