"""A second, plain way to the data of an asymmetric fold: its splits, batches, views and scores.

It shares no line with `trainables`. The spelling of every seed is repeated here: another spelling is another trainer
version.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torchvision import transforms

from tests.support.asymmetric_fold import CLASSES, COUNTS, IMAGE_SIZE, LopsidedSource

SOURCE = LopsidedSource()
NORMALISE = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
EVAL_VIEW = transforms.Compose([transforms.Resize((IMAGE_SIZE, IMAGE_SIZE)), transforms.ToTensor(), NORMALISE])
TRAIN_VIEW = transforms.Compose(
    [
        transforms.RandomResizedCrop(IMAGE_SIZE, scale=(0.7, 1.0)),
        transforms.RandomHorizontalFlip(),
        transforms.ColorJitter(0.3, 0.3, 0.3, 0.3),
        transforms.RandomGrayscale(0.1),
        transforms.ToTensor(),
        NORMALISE,
    ]
)
Part = dict[str, list[int]]
"""Positions in each domain."""


@dataclass(frozen=True)
class Split:
    """Which images of each domain serve for what."""

    source_train: Part
    source_validation: Part
    test_in: Part
    test_out: Part


def split(test_domains: Sequence[str], seed: int) -> Split:
    """The first fifth of a seeded shuffle of every domain validates."""
    validation: Part = {}
    training: Part = {}
    for number, domain in enumerate(COUNTS):
        pool = SOURCE.pool(domain, "test" if domain in test_domains else "source")
        order = np.arange(len(pool))
        np.random.RandomState(int(hashlib.md5(f"({seed}, {number})".encode()).hexdigest(), 16) % 2**31).shuffle(order)
        shuffled = [int(pool[place]) for place in order]
        validation[domain], training[domain] = shuffled[: len(pool) // 5], shuffled[len(pool) // 5 :]
    is_test = {domain: domain in test_domains for domain in COUNTS}
    return Split(
        source_train={domain: part for domain, part in training.items() if not is_test[domain]},
        source_validation={domain: part for domain, part in validation.items() if not is_test[domain]},
        test_in={domain: part for domain, part in training.items() if is_test[domain]},
        test_out={domain: part for domain, part in validation.items() if is_test[domain]},
    )


def image_id(domain: str, index: int) -> int:
    """Position among the images of all domains."""
    names = list(COUNTS)
    return sum(sum(COUNTS[name]) for name in names[: names.index(domain)]) + index


@cache
def eval_view(domain: str, index: int) -> Tensor:
    return EVAL_VIEW(SOURCE.read(domain, index))  # type: ignore[no-any-return]


@cache
def train_view(domain: str, index: int, seed: int) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return TRAIN_VIEW(SOURCE.read(domain, index))  # type: ignore[no-any-return]


def _digest(*words: int | str) -> bytes:
    return hashlib.sha256(repr(words).encode()).digest()


def _view_seed(*words: int | str) -> int:
    return int.from_bytes(_digest(*words)[:4], "little") // 2


@dataclass(frozen=True)
class Shown:
    """What one worker sees in one step."""

    images: Tensor
    clean: Tensor
    """The same images in the evaluation view."""
    labels: Tensor
    image_ids: tuple[int, ...]


def shown(
    part: Part, *, seed: int, stage: str, step: int, batch_size: int, num_views: int, rank: int, workers: int
) -> Shown:
    """A worker's positions of every domain's batch, drawn with replacement; `num_views` 0 draws a view for each."""
    images, clean, labels, ids = [], [], [], []
    for domain in sorted(part, key=str.encode):
        number = list(COUNTS).index(domain)
        key = int.from_bytes(_digest("choices", seed, stage, number, step)[:16], "little")
        numbers = [int(value) for value in np.random.Philox(key=key).random_raw(batch_size)]
        for position in range(rank, batch_size, workers):
            index = part[domain][numbers[position] % len(part[domain])]
            view = _view_seed("view", seed, stage, step, number, position)
            if num_views:
                view = _view_seed("stored view", SOURCE.paths(domain)[index], view % num_views)
            images.append(train_view(domain, index, view))
            clean.append(eval_view(domain, index))
            labels.append(int(SOURCE.labels(domain)[index]))
            ids.append(image_id(domain, index))
    return Shown(torch.stack(images), torch.stack(clean), torch.tensor(labels), tuple(ids))


@dataclass(frozen=True)
class Scores:
    """One number per domain."""

    accuracy: dict[str, float]
    balanced_accuracy: dict[str, float]
    cross_entropy: dict[str, float]
    num_images: dict[str, int]


def score(logits_of: Callable[[Tensor], Tensor], part: Part) -> Scores:
    """Judge every image of a part: a domain's images count the same, and so do the classes that it shows."""
    accuracy, balanced, entropy = {}, {}, {}
    for domain, indices in part.items():
        with torch.no_grad():
            logits = logits_of(torch.stack([eval_view(domain, index) for index in indices])).double()
        labels = [int(SOURCE.labels(domain)[index]) for index in indices]
        hits = [int(row.argmax()) == label for row, label in zip(logits, labels, strict=True)]
        losses = [float(row.logsumexp(0) - row[label]) for row, label in zip(logits, labels, strict=True)]
        by_class = [
            [hit for hit, own in zip(hits, labels, strict=True) if own == label] for label in range(len(CLASSES))
        ]
        shares = [sum(own) / len(own) for own in by_class if own]
        accuracy[domain] = sum(hits) / len(hits)
        balanced[domain] = sum(shares) / len(shares)
        entropy[domain] = sum(losses) / len(losses)
    return Scores(accuracy, balanced, entropy, {domain: len(indices) for domain, indices in part.items()})


def mean(values: dict[str, float]) -> float:
    """Every domain counts the same, however many images it has."""
    return sum(values.values()) / len(values)


def digest_of(image_ids: Sequence[int]) -> str:
    """The journal's fingerprint of a step's images: a wrapping sum of splitmix64 (Steele et al. 2014)."""
    total = 0
    for number in image_ids:
        mixed = (number + 0x9E3779B97F4A7C15) % 2**64
        mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB % 2**64
        total += mixed ^ mixed >> 31
    return f"{total % 2**64:016x}"
