"""Small benchmark folders that tests write."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from search_spaces.benchmarks import Benchmark, Domain

DOMAINS = ("art", "photo", "sketch")
CLASSES = ("cat", "dog")


def tiny_benchmark(folder: str = "tiny", domains: tuple[str, ...] = DOMAINS) -> Benchmark:
    """A benchmark of three domains and two classes that no registry knows."""
    return Benchmark(
        name="Tiny",
        folder=folder,
        domains=tuple(Domain(name=name, letter=name[0].upper()) for name in domains),
        class_names=CLASSES,
        image_size=16,
    )


def encoded(number: int, image_format: str = "PNG", side: int = 20) -> bytes:
    """One picture of a colour gradient; another number gives other pixels."""
    image = Image.new("RGB", (side, side + number % 5))
    image.putdata([((x * 7 + number * 13) % 256, (x * 3) % 256, number % 256) for x in range(side * image.height)])
    stream = io.BytesIO()
    image.save(stream, image_format)
    return stream.getvalue()


def write_tiny(root: Path, images_per_class: int = 6) -> Path:
    """Write the tiny benchmark below `root`; returns its folder."""
    number = 0
    for domain in DOMAINS:
        for class_name in CLASSES:
            folder = root / "tiny" / domain / class_name
            folder.mkdir(parents=True)
            for index in range(images_per_class):
                (folder / f"{index}.png").write_bytes(encoded(number))
                number += 1
    return root / "tiny"
