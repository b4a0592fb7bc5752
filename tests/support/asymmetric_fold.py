"""A fold in which no two things are alike: what it is made of, and the settings it runs with.

Domains and classes differ in size, a class is absent from two domains, two domains keep images for one role alone, and
Align's settings are unlike Distill's. A test on equal numbers cannot see which one was used.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from search_spaces.benchmarks import Benchmark, Domain
from search_spaces.folds import Fold
from search_spaces.hyperparameters import FoldSpec, Hyperparameters, Resources, StageHyperparameters, Swad
from trainables.data.formats.images import Indices, Role
from trainables.jobs import FoldJob

CLASSES = ("Fox", "barn_owl", "cat", "tea_pot")
"""In byte order, which is not that of a dictionary."""
COUNTS = {"Zoo": (9, 26, 4, 17), "art": (12, 0, 11, 8), "maps": (21, 13, 0, 30), "photo": (6, 10, 31, 18)}
"""Images of each class, by domain in byte order."""
BACKGROUNDS = {"Zoo": 0, "art": 20, "maps": 10, "photo": 60}
POOLS = {("art", "source"): (0, 1, 2), ("art", "test"): (3,), ("maps", "source"): (1, 3), ("maps", "test"): (0, 1, 2)}
"""Positions, modulo 4, that may serve in a role; elsewhere all do."""
IMAGE_SIZE = 16
EMBEDDING_DIM = 24
LOGIT_SCALE = 11.5

LOPSIDED = Benchmark(
    name="Lopsided",
    folder="lopsided",
    domains=tuple(Domain(name=name, letter=name[0]) for name in COUNTS),
    class_names=CLASSES,
    num_steps=10,
    evaluate_every=4,
    eval_batch_size=5,
    image_size=IMAGE_SIZE,
)

UNEQUAL = Hyperparameters(
    image_weight=0.3,
    batch_size_per_domain=5,
    align=StageHyperparameters(num_steps=12, lr=0.03, weight_decay=0.03),
    distill=StageHyperparameters(num_steps=25, lr=0.006, weight_decay=0.02),
    swad=Swad(num_converge=4, num_tolerate=2, tolerance_ratio=0.07),
    evaluate_every=2,
    eval_batch_size=7,
    student="small",
    teacher="tower",
    dropout=0.4,
    kd_temperature=2.5,
)
"""Every number is its own. Three evaluations of Align tie for the best, and the last one is worse; in Distill SWAD
converges, and the valley is dead at half of the steps."""


class LopsidedSource:
    """The pictures, in memory."""

    benchmark = LOPSIDED.name
    domain_names = tuple(COUNTS)
    class_names = CLASSES
    manifest = "0" * 63 + "1"

    def labels(self, domain: str) -> Indices:
        return np.repeat(np.arange(len(CLASSES), dtype=np.int64), COUNTS[domain])

    def paths(self, domain: str) -> Sequence[str]:
        return [f"{domain}/{CLASSES[label]}/{number}.png" for number, label in enumerate(self.labels(domain))]

    def pool(self, domain: str, role: Role) -> Indices:
        positions = np.arange(sum(COUNTS[domain]), dtype=np.int64)
        return positions[np.isin(positions % 4, POOLS.get((domain, role), (0, 1, 2, 3)))]

    def read(self, domain: str, index: int) -> Image.Image:
        return _drawn(domain, int(self.labels(domain)[index]), index)


@cache
def _drawn(domain: str, label: int, number: int) -> Image.Image:
    """Stripes down, stripes across, bright or dark, by class, in noise over the domain's background.

    Every sixth picture shows another class than its own, so that a student can learn too much.
    """
    random = np.random.RandomState(zlib.crc32(f"{domain}/{number}".encode()))
    height, width = 17 + number % 4, 23 - number % 3
    pixels = random.randint(0, 60, (height, width, 3)) + BACKGROUNDS[domain]
    shown = (label + 1) % len(CLASSES) if number % 6 == 5 else label
    rows, columns = np.indices((height, width))
    bright = (columns % 6 < 3, rows % 6 < 3, rows >= 0, rows < 0)[shown]
    pixels[bright] += 130
    return Image.fromarray(pixels.astype(np.uint8))


def tower() -> nn.Module:
    """The teacher's image encoder: images [N, 3, S, S] to [N, D]; it drops out while it trains."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20)
        first, last = nn.Linear(48, 24), nn.Linear(24, EMBEDDING_DIM)
        nn.init.normal_(first.weight, std=0.5)
        return nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), first, nn.GELU(), nn.Dropout(0.3), last)


def text_embedding(prompt: str) -> Tensor:
    """A unit vector [D] that depends on every character of the prompt."""
    generator = torch.Generator().manual_seed(zlib.crc32(prompt.encode()))
    return F.normalize(torch.randn(EMBEDDING_DIM, generator=generator), dim=0)


class TowerTeacher:
    """A white-box teacher without a text encoder to load."""

    name = "tower"
    embedding_dim = EMBEDDING_DIM
    logit_scale = LOGIT_SCALE

    def __init__(self) -> None:
        self.tower = tower().eval()

    def embed_images(self, images_N3HW: Tensor) -> Tensor:
        with torch.no_grad():
            return F.normalize(self.tower(images_N3HW), dim=-1)

    def embed_texts(self, prompts: Sequence[str]) -> Tensor:
        return torch.stack([text_embedding(prompt) for prompt in prompts])

    def image_encoder(self) -> tuple[nn.Module, int]:
        return tower(), EMBEDDING_DIM


def asymmetric_job(
    root: Path,
    method: str = "vl2v_adip",
    *,
    test_domains: tuple[str, ...] = ("maps",),
    seed: int = 6,
    resources: Resources | None = None,
    **changes: Any,
) -> FoldJob:
    """One fold of the lopsided benchmark below `root`; keyword arguments replace fields of `UNEQUAL`."""
    spec = FoldSpec(
        fold=Fold(benchmark=LOPSIDED.name, test_domains=test_domains, seed=seed),
        method=method,
        hyperparameters=replace(UNEQUAL, **changes),
        data_manifest=LopsidedSource.manifest,
    )
    return FoldJob(
        spec=spec,
        benchmark=LOPSIDED,
        folder=str(root / "folds" / spec.key),
        align_folder=str(root / "aligns" / spec.align_key),
        resources=resources or Resources(),
    )
