"""Where images come from: one interface over a folder, a Parquet file and a pack, and how a file becomes pixels.

Deviation: greys of more than 8 bits are scaled to 8, where the authors' code (Pillow's `convert("RGB")`) makes all of
them white that are above 255. Black stays 0 and the format's white becomes 255: with 16 bits, v becomes v / 257,
rounded. 32-bit integers and floating-point numbers do not say which value is white: such a file cannot be read. Colours
of 16 bits are as Pillow reads them, without their low byte.
"""

from __future__ import annotations

import io
import re
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from search_spaces.errors import UserError

Role = Literal["source", "test"]
Indices = npt.NDArray[np.int64]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""What torchvision's ImageFolder takes for an image, in lower case."""

OTHER_PICTURES = (".gif", ".jfif", ".jpe", ".jp2", ".heic", ".heif", ".avif", ".tga")
"""Endings of pictures that ImageFolder leaves out."""

MAX_PIXELS = 2 * 89_478_485
"""More declared pixels than this are refused before decoding: Pillow's own limit against decompression bombs."""


@runtime_checkable
class ImageSource(Protocol):
    """The images of one benchmark, by domain and position; the position follows ImageFolder's order."""

    @property
    def benchmark(self) -> str:
        """Name of the benchmark."""

    @property
    def domain_names(self) -> tuple[str, ...]:
        """Domains in byte order."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes in byte order; a label is a position here."""

    @property
    def manifest(self) -> str:
        """SHA-256 of the manifest: which images, with which content, labels and domains."""

    def labels(self, domain: str) -> Indices:
        """Class of each image of the domain, int64 [n]."""

    def paths(self, domain: str) -> Sequence[str]:
        """`DOMAIN/CLASS/file` of each image of the domain."""

    def read(self, domain: str, index: int) -> Image.Image:
        """One image as RGB: the same pixels as Pillow's `convert("RGB")` on the file as stored.

        Greys of more than 8 bits are scaled first. Raises `UserError` naming the file when it cannot be decoded.
        """

    def pool(self, domain: str, role: Role) -> Indices:
        """Indices into the domain that may serve in that role, int64, ascending."""


def is_image_name(name: str) -> bool:
    """Whether ImageFolder would take a file of this name; hidden files are left out.

    Deviation: ImageFolder takes hidden files such as macOS's `._photo.jpg` and fails when it opens them.
    """
    return not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)


def is_other_picture(name: str) -> bool:
    """Whether a file is a picture by its name, and of those that are left out."""
    return name.lower().endswith(OTHER_PICTURES)


def decode(data: bytes | memoryview, path: str) -> Image.Image:
    """Decode an encoded image into RGB; `path` names it in errors (`UserError`)."""
    return _as_rgb(io.BytesIO(data), path)


def problem_of(data: bytes) -> str:
    """Say why an encoded image cannot be decoded; empty when it can.

    JPEGs are decoded at an eighth of their side: the whole file is still parsed, so a truncated one is found, in a
    third of the time.
    """
    try:
        with _opened(io.BytesIO(data)) as image:
            _check_size(image)
            image.draft("RGB", (1, 1))
            image.load()
            if image.mode != "RGB":
                _converted(image)
    except _DECODE_ERRORS as error:
        return _reason(error, len(data))
    return ""


def read_pixels(source: ImageSource, domain: str, index: int) -> npt.NDArray[np.uint8]:
    """One image as uint8 [height, width, 3]."""
    return np.asarray(source.read(domain, index))


class CachedSource:
    """An image source that keeps decoded images, least recently used out first; its cache stays in its process."""

    def __init__(self, source: ImageSource, decode_cache_mb: float) -> None:
        self.source = source
        self.limit_bytes = int(decode_cache_mb * 2**20)
        self.used_bytes = 0
        self._images: OrderedDict[tuple[str, int], Image.Image] = OrderedDict()

    @property
    def benchmark(self) -> str:
        return self.source.benchmark

    @property
    def domain_names(self) -> tuple[str, ...]:
        return self.source.domain_names

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.source.class_names

    @property
    def manifest(self) -> str:
        return self.source.manifest

    def labels(self, domain: str) -> Indices:
        return self.source.labels(domain)

    def paths(self, domain: str) -> Sequence[str]:
        return self.source.paths(domain)

    def pool(self, domain: str, role: Role) -> Indices:
        return self.source.pool(domain, role)

    def read(self, domain: str, index: int) -> Image.Image:
        """Read through the cache. The image is shared: callers make new images from it and never write into it."""
        key = (domain, index)
        image = self._images.get(key)
        if image is not None:
            self._images.move_to_end(key)
            return image
        image = self.source.read(domain, index)
        size = _memory_bytes(image)
        if size <= self.limit_bytes:
            self._images[key] = image
            self.used_bytes += size
            while self.used_bytes > self.limit_bytes:
                _, oldest = self._images.popitem(last=False)
                self.used_bytes -= _memory_bytes(oldest)
        return image

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "used_bytes": 0, "_images": OrderedDict()}


def cached(source: ImageSource, decode_cache_mb: float) -> ImageSource:
    """The source with a decode cache of that many MiB; itself when 0 or when it has one already."""
    if decode_cache_mb <= 0 or isinstance(source, CachedSource):
        return source
    return CachedSource(source, decode_cache_mb)


_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    MemoryError,
    IndexError,
    OverflowError,
    Image.DecompressionBombError,
)

_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262
"""Tags of a TIFF."""
_SCALED_TO_16_BITS = ("PNG", "PPM", "JPEG2000")
"""Formats whose greys of more than 8 bits Pillow scales to 16 where they have fewer."""
_PILLOWS_WARNINGS = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


def _memory_bytes(image: Image.Image) -> int:
    # Pillow keeps RGB in four bytes per pixel.
    return 4 * image.width * image.height


def _as_rgb(file: io.BytesIO, path: str) -> Image.Image:
    try:
        with _opened(file) as image:
            _check_size(image)
            return _converted(image)
    except _DECODE_ERRORS as error:
        raise UserError(f"cannot read image {path}: {_reason(error, file.getbuffer().nbytes)}") from None


def _converted(image: Image.Image) -> Image.Image:
    """Pillow's image as RGB; its modes of 16 and 32 bits are `I`, `I;16`, `I;16B` and so on, and `F`."""
    if image.mode != "F" and not image.mode.startswith("I"):
        return image.convert("RGB")
    # First: of a file that is cut short, that is said.
    image.load()
    white = _white(image)
    values = np.asarray(image).astype(np.int32)
    if image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0:  # type: ignore[attr-defined]
        # White is 0: Pillow turns 8 bits around, and leaves 16 as they are.
        values = white - values
    # Rounded: white is odd, so that no value lies half-way.
    scaled = (values * 510 + white) // (2 * white)
    return Image.fromarray(scaled.clip(0, 255).astype(np.uint8)).convert("RGB")


def _white(image: Image.Image) -> int:
    """The value of white in a grey image of more than 8 bits; raises `ValueError` where its file does not say."""
    if image.mode.startswith("I;16") and image.format == "TIFF":
        # Of 12 bits in some, which Pillow does not scale.
        bits: int = image.tag_v2[_BITS_PER_SAMPLE][0]  # type: ignore[attr-defined]
        return (1 << bits) - 1
    if image.mode != "F" and image.format in _SCALED_TO_16_BITS:
        return 65_535
    kind = "floating-point numbers" if image.mode == "F" else "32-bit or signed integers"
    raise ValueError(f"its pixels are {kind}, which do not say what is white; save it with 8 or 16 bits per pixel")


def _opened(file: io.BytesIO) -> Image.Image:
    """Pillow's image, without the warnings that Pillow prints in two lines of its own.

    What they warn of is decided here: too many pixels are refused, palettes with transparency lose it in RGB. The
    filter stays, because taking it back would not be safe beside other threads.
    """
    if _PILLOWS_WARNINGS not in warnings.filters:
        warnings.filterwarnings("ignore", module=_PILLOWS_WARNINGS[3].pattern)
    return Image.open(file)


def _check_size(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise Image.DecompressionBombError(
            f"{image.width:,} x {image.height:,} pixels, above the limit of {MAX_PIXELS:,} pixels"
        )


def _reason(error: BaseException, num_bytes: int) -> str:
    if num_bytes == 0:
        return "the file is empty"
    if isinstance(error, UnidentifiedImageError):
        return "not an image file"
    return " ".join(str(error).split()) or type(error).__name__
