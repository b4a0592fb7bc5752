"""Colour changes of a train view on pixels in memory: Pillow's numbers, bit for bit, in a fraction of its time.

Each function changes uint8 [H, W, 3] in place. Brightness, contrast and saturation look a channel up in a table that
Pillow itself has blended. Hue turns without going through an HSV image: Pillow's hue depends on which channel is
largest and how far below it the other two are, its saturation on the largest and the smallest, so small tables that
Pillow has made hold both, and a channel of the turned colour is `value * (1 - saturation * weight)`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
Kernel = TypeVar("Kernel", bound=Callable[..., Any])


def brighten(pixels: Pixels, factor: float) -> None:
    """Pillow's `ImageEnhance.Brightness`: 1 changes nothing, 0 is black."""
    _look_up(pixels, _blended(0, factor))


def contrast(pixels: Pixels, factor: float) -> None:
    """Pillow's `ImageEnhance.Contrast`: 1 changes nothing, 0 is the mean grey, rounded half up."""
    mean = int(_sum_of_greys(pixels) / (pixels.size // 3) + 0.5)
    _look_up(pixels, _blended(mean, factor))


def saturate(pixels: Pixels, factor: float) -> None:
    """Pillow's `ImageEnhance.Color`: 1 changes nothing, 0 is grey."""
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8), (256, 256))
    greys, channels = Image.fromarray(ramp.T.copy()), Image.fromarray(ramp.copy())
    _saturate(pixels, np.asarray(Image.blend(greys, channels, factor)))


def turn_hue(pixels: Pixels, factor: float) -> None:
    """Torchvision's `adjust_hue` on a PIL image: turn by `factor` of a full circle, in 255 steps."""
    _turn(pixels, int(factor * 255) % 256, *_hue_tables())


def make_grey(pixels: Pixels) -> None:
    """Pillow's `convert("L")`, in all three channels."""
    _make_grey(pixels)


def normalised(pixels_NHW3: Pixels, table_3V: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W]: each channel's value looked up in its row of the table [3, 256]."""
    count, height, width, _ = pixels_NHW3.shape
    images = np.empty((count, 3, height, width), dtype=np.float32)
    _normalise(pixels_NHW3, table_3V, images)
    return images


def _blended(grey: int, factor: float) -> Pixels:
    """What Pillow's blend of a grey with each value is, uint8 [256]."""
    values = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    return np.asarray(Image.blend(Image.new("L", values.size, grey), values, factor)).reshape(-1)


@cache
def _hue_tables() -> tuple[Pixels, Pixels, npt.NDArray[np.float64]]:
    """Hue [3, 256, 256] by largest channel and the others where it is 255; saturation [256, 256]; weights [256, 3]."""
    first, second = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8), indexing="ij")
    full = np.full_like(first, 255)
    faces = ((full, first, second), (first, full, second), (first, second, full))
    hues = np.stack([_hsv(*face)[..., 0] for face in faces])
    smallest = np.minimum(first, second)
    saturations = np.ascontiguousarray(_hsv(first, smallest, smallest)[..., 1])
    weights = np.empty((256, 3))
    for hue in range(256):
        sixth = hue * 6.0 / 255.0
        rising = float(np.float32(sixth - int(sixth)))
        falling = 1.0 - rising
        weights[hue] = (
            (0.0, falling, 1.0), (rising, 0.0, 1.0), (1.0, 0.0, falling),
            (1.0, rising, 0.0), (falling, 1.0, 0.0), (0.0, 1.0, rising),
        )[int(sixth) % 6]  # fmt: skip
    return hues, saturations, weights


def _hsv(*channels: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(np.stack(channels, axis=-1)).convert("HSV"))


def _compiled(function: Kernel) -> Kernel:
    """Compile on first use; the machine code is kept for later processes where a folder for it can be written."""
    try:
        return cast(Kernel, numba.njit(cache=True)(function))
    except RuntimeError:
        return cast(Kernel, numba.njit(function))


@_compiled
def _look_up(pixels: Pixels, table: Pixels) -> None:
    flat = pixels.reshape(-1)
    for position in range(flat.size):
        flat[position] = table[flat[position]]


@_compiled
def _grey(red: int, green: int, blue: int) -> int:
    """Pillow's luma in integers: the weights of ITU-R 601 in 65536ths, rounded."""
    return (int(red) * 19595 + int(green) * 38470 + int(blue) * 7471 + 32768) >> 16


@_compiled
def _sum_of_greys(pixels: Pixels) -> int:
    total = 0
    flat = pixels.reshape(-1, 3)
    for row in range(len(flat)):
        total += _grey(flat[row, 0], flat[row, 1], flat[row, 2])
    return total


@_compiled
def _make_grey(pixels: Pixels) -> None:
    flat = pixels.reshape(-1, 3)
    for row in range(len(flat)):
        grey = _grey(flat[row, 0], flat[row, 1], flat[row, 2])
        for channel in range(3):
            flat[row, channel] = grey


@_compiled
def _saturate(pixels: Pixels, table: Pixels) -> None:
    """`table` [256, 256] by grey and channel."""
    flat = pixels.reshape(-1, 3)
    for row in range(len(flat)):
        grey = _grey(flat[row, 0], flat[row, 1], flat[row, 2])
        for channel in range(3):
            flat[row, channel] = table[grey, flat[row, channel]]


@_compiled
def _turn(pixels: Pixels, steps: int, hues: Pixels, saturations: Pixels, weights: npt.NDArray[np.float64]) -> None:
    flat = pixels.reshape(-1, 3)
    for row in range(len(flat)):
        red, green, blue = flat[row, 0], flat[row, 1], flat[row, 2]
        value, smallest = max(red, max(green, blue)), min(red, min(green, blue))
        saturation = saturations[value, smallest]
        if saturation == 0:
            for channel in range(3):
                flat[row, channel] = value
            continue
        lift = np.uint8(255 - value)
        if red == value:
            hue = hues[0, green + lift, blue + lift]
        elif green == value:
            hue = hues[1, red + lift, blue + lift]
        else:
            hue = hues[2, red + lift, green + lift]
        hue = np.uint8(hue + steps)
        share = np.float64(np.float32(saturation / 255.0))
        for channel in range(3):
            flat[row, channel] = np.uint8(value * (1.0 - share * weights[hue, channel]) + 0.5)


@_compiled
def _normalise(pixels_NHW3: Pixels, table_3V: npt.NDArray[np.float32], images_N3HW: npt.NDArray[np.float32]) -> None:
    count, height, width, _ = pixels_NHW3.shape
    for image in range(count):
        for channel in range(3):
            for row in range(height):
                for column in range(width):
                    images_N3HW[image, channel, row, column] = table_3V[
                        channel, pixels_NHW3[image, row, column, channel]
                    ]
