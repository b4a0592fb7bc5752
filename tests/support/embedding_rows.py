"""Rows of an embedding store, and a source of drawn images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from trainables.data.formats.images import Indices, Role
from trainables.teacher.stored.store import store_key

COUNTS = {"art": 41, "photo": 58}
"""Images per domain; the first of each may not serve as source. 97 images, two views: two over from batches of 64."""


class Drawn:
    """Two domains of random pictures, made from their index."""

    benchmark, manifest = "drawn", "m" * 64
    domain_names, class_names = ("art", "photo"), ("a", "b")

    def labels(self, domain: str) -> Indices:
        return np.arange(COUNTS[domain], dtype=np.int64) % 2

    def paths(self, domain: str) -> Sequence[str]:
        return [f"{domain}/{'ab'[index % 2]}/{index:03}.png" for index in range(COUNTS[domain])]

    def read(self, domain: str, index: int) -> Image.Image:
        generator = np.random.default_rng([len(domain), index])
        return Image.fromarray(generator.integers(0, 256, size=(40, 36, 3), dtype=np.uint8))

    def pool(self, domain: str, role: Role) -> Indices:
        every = np.arange(COUNTS[domain], dtype=np.int64)
        return every[1:] if role == "source" else every[:1]


SOURCE_ROWS = sum(COUNTS.values()) - 2


KEY, DESCRIPTION = store_key("views:2", manifest=Drawn.manifest, teacher_fingerprint="t", image_size=32)
