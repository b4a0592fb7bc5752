"""An image source of any size without a file: published sizes can be split and counted in a test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np
from PIL import Image

from search_spaces.benchmarks import Benchmark
from trainables.data.formats.images import Indices, Role


class SizedSource:
    """Black images of 2 x 2 pixels whose classes take turns; every image may serve in both roles."""

    manifest = "of no file"

    def __init__(self, benchmark: Benchmark, sizes: Sequence[int]) -> None:
        """`sizes` are images per domain, in the benchmark's order."""
        self.benchmark = benchmark.name
        self.domain_names, self.class_names = benchmark.domain_names, benchmark.class_names
        self.sizes = dict(zip(self.domain_names, sizes, strict=True))

    def labels(self, domain: str) -> Indices:
        """Class of each image of the domain, int64 [n]."""
        return np.arange(self.sizes[domain], dtype=np.int64) % len(self.class_names)

    def paths(self, domain: str) -> Sequence[str]:
        """`DOMAIN/CLASS/file` of each image of the domain."""
        return [f"{domain}/{self.class_names[label]}/{index}.png" for index, label in enumerate(self.labels(domain))]

    def read(self, domain: str, index: int) -> Image.Image:
        """A black image."""
        assert 0 <= index < self.sizes[domain]
        return Image.new("RGB", (2, 2))

    def pool(self, domain: str, role: Role) -> Indices:
        """All images."""
        assert role in get_args(Role)
        return np.arange(self.sizes[domain], dtype=np.int64)
