"""Small look-alikes of the benchmarks in their exact folder layout: all domains, all class names, a few drawn images.

A class has a shape and a colour, a domain a background and a style, so that a network can learn something from them;
they are for tests and the smoke sweep, and no result on them means anything.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterable
from pathlib import Path

from PIL import Image, ImageDraw

from search_spaces.benchmarks import BENCHMARKS, HEADLINE, Benchmark
from search_spaces.errors import UserError, unknown_name
from trainables.storage.json_files import read_json, write_json

MARKER = ".sample.json"
"""Written last into each look-alike: says that it is one, and with which settings."""

MIN_IMAGES_PER_CLASS = 1
JPEG_QUALITY = 85


def write_sample(
    root: str | Path,
    *,
    images_per_class: int = 3,
    image_side: int = 32,
    benchmarks: Iterable[str] = HEADLINE,
    seed: int = 0,
) -> dict[str, int]:
    """Write look-alikes below `root`; returns the number of images per benchmark.

    A benchmark folder appears whole or not at all; one with the same settings is left as it is, and one that is not a
    look-alike is never touched (`UserError`).
    """
    if images_per_class < MIN_IMAGES_PER_CLASS or image_side < 8:
        raise UserError(f"a sample needs images_per_class >= {MIN_IMAGES_PER_CLASS} and image_side >= 8")
    names = tuple(benchmarks)
    for name in names:
        if name not in BENCHMARKS:
            raise unknown_name("benchmark", name, BENCHMARKS)
    settings = {"images_per_class": images_per_class, "image_side": image_side, "seed": seed}
    place = Path(root).expanduser()
    try:
        place.mkdir(parents=True, exist_ok=True)
        return {name: _write_benchmark(place, BENCHMARKS[name], settings) for name in names}
    except OSError as error:
        raise UserError(f"cannot write the sample to {place}: {error.strerror or error}") from None


def is_sample(folder: Path) -> bool:
    """Whether a benchmark's folder is a look-alike written by this module."""
    return (folder / MARKER).exists()


def draw(generator: random.Random, class_number: int, domain_number: int, side: int) -> Image.Image:
    """One picture [side, side]: the class decides shape and colour, the domain background and style."""
    grey = 245 - 45 * (domain_number % 5)
    image = Image.new("RGB", (side, side), (grey, grey, 255 - 12 * domain_number))
    pen = ImageDraw.Draw(image)
    colour = tuple((class_number * step + 40) % 200 for step in (67, 131, 29))
    half = side * generator.uniform(0.25, 0.4)
    x, y = (side / 2 + side * generator.uniform(-0.1, 0.1) for _ in range(2))
    box = (x - half, y - half, x + half, y + half)
    filled = None if domain_number % 3 == 2 else colour
    shape = class_number % 4
    if shape == 0:
        pen.ellipse(box, fill=filled, outline=colour, width=2)
    elif shape == 1:
        pen.rectangle(box, fill=filled, outline=colour, width=2)
    else:
        sides = 3 if shape == 2 else 5 + class_number % 3
        pen.regular_polygon((x, y, half), sides, rotation=generator.randrange(40), fill=filled, outline=colour)
    for _ in range(side // 8):
        pen.point((generator.randrange(side), generator.randrange(side)), fill=(0, 0, 0))
    return image


def _write_benchmark(root: Path, benchmark: Benchmark, settings: dict[str, int]) -> int:
    folder = root / benchmark.folder
    num_images = settings["images_per_class"] * len(benchmark.class_names) * len(benchmark.domains)
    if folder.exists():
        if read_json(folder / MARKER) == settings:
            return num_images
        if not is_sample(folder):
            raise UserError(f"{folder} is there and is no sample; name another folder, or move it away")
        shutil.rmtree(folder)
    aside = root / f".{benchmark.folder}.{os.getpid()}.part"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        for domain_number, domain in enumerate(benchmark.domain_names):
            for class_number, class_name in enumerate(benchmark.class_names):
                class_folder = aside / domain / class_name
                class_folder.mkdir(parents=True)
                for number in range(settings["images_per_class"]):
                    generator = random.Random(f"{settings['seed']}/{benchmark.name}/{domain}/{class_name}/{number}")
                    image = draw(generator, class_number, domain_number, settings["image_side"])
                    image.save(class_folder / f"{number:03d}.jpg", quality=JPEG_QUALITY)
        write_json(aside / MARKER, settings)
        aside.rename(folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return num_images
