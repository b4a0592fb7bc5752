"""Random images of every mode, depth and format: read as they look, or named; none becomes white or black unseen."""

from __future__ import annotations

import io
import random

import numpy as np
import numpy.typing as npt
from PIL import Image

from search_spaces.errors import UserError
from tests.fuzz.tally import Tally, main, tally
from trainables.data.formats.images import decode, problem_of

WRITABLE = {
    "1": ("PNG", "TIFF", "PPM", "BMP", "GIF"),
    "L": ("PNG", "TIFF", "PPM", "BMP", "GIF", "JPEG", "WEBP"),
    "LA": ("PNG", "TIFF"),
    "P": ("PNG", "TIFF", "BMP", "GIF"),
    "RGB": ("PNG", "TIFF", "PPM", "BMP", "JPEG", "WEBP", "GIF"),
    "RGBA": ("PNG", "TIFF", "WEBP"),
    "CMYK": ("TIFF", "JPEG"),
    "YCbCr": ("TIFF", "JPEG"),
    "LAB": ("TIFF",),
    "I;16": ("PNG", "TIFF", "PPM", "JPEG2000"),
    "I": ("TIFF", "PPM"),
    "F": ("TIFF", "PPM"),
}
"""Formats that Pillow writes a mode in."""
WHITES = (1, 255, 65_535, 2**31 - 1)
"""What is white in images of 32 bits, which differs from program to program."""


def tried(inputs: int, *, seed: int) -> Tally:
    """What came of so many images."""
    return tally(_case, inputs, seed=seed)


def _case(chance: random.Random) -> str:
    mode = chance.choice(list(WRITABLE))
    stream = io.BytesIO()
    _drawn(mode, chance).save(stream, chance.choice(WRITABLE[mode]))
    data = stream.getvalue()
    if chance.random() < 0.3:
        data = _damaged(data, chance)
    problem = problem_of(data)
    try:
        found = np.asarray(decode(data, "x"))
    except UserError as error:
        return "" if problem and str(error) == f"cannot read image x: {problem}" else f"{problem!r}, then {error}"
    if problem:
        return f"it is read, and called unreadable: {problem}"
    return _wrong_pixels(found, data)


def _drawn(mode: str, chance: random.Random) -> Image.Image:
    """A gradient from dark to bright."""
    width, height = chance.randint(1, 40), chance.randint(1, 40)
    ramp = np.linspace(0.2, 0.8, width * height).reshape(height, width)
    if mode == "I;16":
        return Image.fromarray((ramp * 65_535).astype(np.uint16))
    if mode in ("I", "F"):
        return Image.fromarray((ramp * chance.choice(WHITES)).astype(np.int32 if mode == "I" else np.float32))
    return Image.fromarray((ramp * 255).astype(np.uint8)).convert("RGB").convert(mode)


def _damaged(data: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(data))
    changed = bytearray(data)
    changed[place] ^= 1 << chance.randrange(8)
    return data[:place] if chance.random() < 0.3 else bytes(changed)


def _wrong_pixels(found: npt.NDArray[np.uint8], data: bytes) -> str:
    """How pixels differ from Pillow's of up to 8 bits, and from 16 bits that are scaled."""
    with Image.open(io.BytesIO(data)) as stored:
        if not stored.mode.startswith("I") and stored.mode != "F":
            return "" if np.array_equal(found, np.asarray(stored.convert("RGB"))) else "other pixels than Pillow's"
        if stored.mode != "I;16" and stored.format != "PPM":
            return f"{stored.mode} in a {stored.format} does not say what is white"
        bits = stored.tag_v2.get(258, (16,))[0] if stored.format == "TIFF" else 16  # type: ignore[attr-defined]
        values = np.asarray(stored).astype(np.float64) / (2**bits - 1) * 255
        if stored.format == "TIFF" and stored.tag_v2.get(262) == 0:  # type: ignore[attr-defined]
            values = 255 - values
    return "" if np.abs(found[:, :, 0] - values.clip(0, 255)).max() <= 0.5001 else "the greys are not those of the file"


if __name__ == "__main__":
    main(tried, "images")
