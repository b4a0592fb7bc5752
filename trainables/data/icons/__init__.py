"""The demo benchmark `icons`: real drawings in four styles, small enough to travel inside the package.

`icons.parquet` holds one row per picture (columns: `PARQUET_COLUMNS`), sorted by `path` in byte order, which is the
order torchvision's ImageFolder gives the same files once unpacked to `DOMAIN/CLASS/name.png`.

Protocol.  Three of the four domains (`flat`, `line`, `render3d`) draw the same emoji, so training on two of them would
show every object of the third.  Therefore each concept (an emoji's hexcode; for `clipart` the drawing's own file) is in
half "train" or "test" by a hash of its id (`concept_half`).  Source domains, for training and for source validation,
use half "train"; the accuracy on the unseen test domain is measured on half "test" alone.

There are 2,039 pictures: 458 concepts in `flat` and in `render3d`, 455 in `line` (three of its drawings equal another
one pixel for pixel and were dropped), 668 in `clipart`.  Near-copies remain in `clipart`, such as an apple with and
without colour, and in all domains (twelve positions of a clock's hands): accuracy on source validation flatters.  The
classes are unbalanced: show balanced accuracy beside accuracy.  Licences and attribution: `LICENCES.md`.
"""

import hashlib
from pathlib import Path
from typing import Final, Literal

ICONS_PARQUET: Final[Path] = Path(__file__).parent / "icons.parquet"
"""The pictures; it travels with the package."""

DOMAINS: Final[tuple[str, ...]] = ("clipart", "flat", "line", "render3d")
"""Domains in byte order, which is their index order."""

CLASSES: Final[tuple[str, ...]] = (
    "bird",
    "book",
    "bug",
    "building",
    "clock",
    "clothing",
    "drink",
    "face",
    "fruit_or_vegetable",
    "mammal",
    "musical_instrument",
    "plant",
    "vehicle",
)
"""Classes in byte order, which is their label order."""

PICTURE_SIZE: Final = 64
"""Height and width of every picture in pixels."""

PARQUET_COLUMNS: Final[tuple[str, ...]] = (
    "path",
    "image",
    "domain",
    "class",
    "concept",
    "split_half",
    "name",
    "source",
    "licence",
)
"""`path` is `domain/class/name.png`; `image` the bytes of a PNG file, RGB on white; the rest is text."""

Half = Literal["train", "test"]


def concept_half(concept: str) -> Half:
    """The half that a concept belongs to: the parity of the last byte of the SHA-256 of its id."""
    return "train" if hashlib.sha256(concept.encode()).digest()[-1] % 2 == 0 else "test"
