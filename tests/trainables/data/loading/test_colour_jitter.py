"""Every one of the 16.7 million colours changes as torchvision changes it on a PIL image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import functional

from trainables.data.loading.colour_jitter import Pixels, brighten, contrast, make_grey, saturate, turn_hue

Change = Callable[..., Any]


def of_red(red: int) -> Pixels:
    """The 65,536 colours with this red, uint8 [256, 256, 3]."""
    ramp = np.arange(256, dtype=np.uint8)
    green, blue = np.meshgrid(ramp, ramp, indexing="ij")
    return np.stack((np.full_like(green, red), green, blue), axis=-1)


@pytest.mark.parametrize(
    ("change", "torchvisions", "middle"),
    [
        (brighten, functional.adjust_brightness, 1.0),
        (contrast, functional.adjust_contrast, 1.0),
        (saturate, functional.adjust_saturation, 1.0),
        (turn_hue, functional.adjust_hue, 0.0),
    ],
)
def test_every_colour_changes_as_torchvisions(change: Change, torchvisions: Change, middle: float) -> None:
    for red in range(256):
        factor = middle + 0.3 * (red - 128) / 128
        pixels = of_red(red)
        expected = torchvisions(Image.fromarray(pixels), factor)
        change(pixels, factor)
        assert np.array_equal(pixels, np.asarray(expected)), (red, factor)


@pytest.mark.parametrize("turn", [-0.5, -0.21, 0.003, 0.5])
def test_hue_turns_by_any_part_of_the_circle(turn: float) -> None:
    for red in (0, 1, 77, 128, 254, 255):
        pixels = of_red(red)
        expected = functional.adjust_hue(Image.fromarray(pixels), turn)
        turn_hue(pixels, turn)
        assert np.array_equal(pixels, np.asarray(expected)), red


def test_every_grey_is_pillows() -> None:
    for red in range(256):
        pixels = of_red(red)
        expected = Image.fromarray(pixels).convert("L").convert("RGB")
        make_grey(pixels)
        assert np.array_equal(pixels, np.asarray(expected)), red
