"""Scores by hand: domains of unequal size, classes that a domain lacks, batches of any size, two workers."""

from __future__ import annotations

from collections.abc import Iterator
from math import exp, log

import pytest
import torch
from torch import Tensor

from trainables.data.loading.batches import EvaluationBatch
from trainables.fitting.evaluation import (
    DomainScore,
    mean_accuracy,
    mean_cross_entropy,
    of_images,
    replaces_best,
    score_domains,
)
from trainables.fitting.workers import Workers

# Domain, label, logits of the three classes.
ROWS = [
    ("art", 0, (2.0, 1.0, 0.0)),
    ("art", 0, (0.0, 3.0, 0.0)),
    ("art", 0, (4.0, 0.0, 1.0)),
    ("art", 2, (0.0, 0.0, 1.0)),
    ("art", 0, (5.0, 0.0, 0.0)),
    ("zoo", 1, (0.0, 1.0, 0.0)),
    ("zoo", 1, (1.0, 0.0, 0.0)),
]
DOMAINS = ("art", "zoo")


def batches(size: int, *, rank: int = 0, world_size: int = 1) -> Iterator[EvaluationBatch]:
    """A worker's rows; the logits stand where the images would, so that a predictor is the identity."""
    rows = list(enumerate(ROWS))[rank::world_size]
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        yield EvaluationBatch(
            images=torch.tensor([logits for _, (*_, logits) in part]),
            labels=torch.tensor([label for _, (_, label, _) in part]),
            domains=torch.tensor([DOMAINS.index(domain) for _, (domain, *_) in part]),
            image_ids=torch.tensor([number for number, _ in part]),
        )


def entropy(label: int, logits: tuple[float, ...]) -> float:
    return log(sum(map(exp, logits))) - logits[label]


def check(scores: dict[str, DomainScore]) -> None:
    """Art: 4 of 5 right; of class 0 three of four, of class 2 the only one. Zoo shows class 1 alone: one of two."""
    assert scores["art"].accuracy == pytest.approx(4 / 5)
    assert scores["art"].balanced_accuracy == pytest.approx((3 / 4 + 1) / 2)
    assert scores["zoo"].accuracy == scores["zoo"].balanced_accuracy == pytest.approx(1 / 2)
    for name in DOMAINS:
        losses = [entropy(label, logits) for domain, label, logits in ROWS if domain == name]
        assert scores[name].cross_entropy == pytest.approx(sum(losses) / len(losses), rel=1e-6)
        assert scores[name].num_images == len(losses)
    assert list(scores) == list(DOMAINS)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_scores_by_hand(size: int) -> None:
    found = score_domains(of_images(lambda images: images), batches(size), DOMAINS, num_classes=3, workers=Workers())
    check(found)


class _Both(Workers):
    """The first of two workers; the other one's sums are known beforehand."""

    def __init__(self, other: Tensor | None) -> None:
        super().__init__(size=2)
        self.other, self.summed = other, torch.zeros(0)

    def sum(self, tensor: Tensor) -> Tensor:
        self.summed = tensor.clone()
        return tensor if self.other is None else tensor + self.other


def test_workers_with_uneven_shares_add_up() -> None:
    other = _Both(None)
    score_domains(lambda batch: batch.images, batches(2, rank=1, world_size=2), DOMAINS, num_classes=3, workers=other)
    first = _Both(other.summed)
    check(
        score_domains(
            lambda batch: batch.images, batches(2, rank=0, world_size=2), DOMAINS, num_classes=3, workers=first
        )
    )


def test_nothing_is_learnt_from_an_evaluation() -> None:
    weight = torch.ones(3, requires_grad=True)
    modes = []

    def predict(batch: EvaluationBatch) -> Tensor:
        logits = batch.images * weight
        modes.append(logits.requires_grad)
        return logits.double()

    check(score_domains(predict, batches(3), DOMAINS, num_classes=3, workers=Workers()))
    assert modes == [False] * 3
    assert weight.grad is None


def test_every_domain_counts_the_same() -> None:
    scores = {
        "large": DomainScore(accuracy=0.9, balanced_accuracy=0.1, cross_entropy=1.0, num_images=900),
        "small": DomainScore(accuracy=0.2, balanced_accuracy=0.3, cross_entropy=4.0, num_images=3),
        "third": DomainScore(accuracy=0.1, balanced_accuracy=0.7, cross_entropy=4.0, num_images=40),
    }
    assert mean_accuracy(scores) == pytest.approx(0.4)
    assert mean_cross_entropy(scores) == pytest.approx(3.0)


@pytest.mark.parametrize("later_ties", [False, True])
def test_a_better_evaluation_replaces_the_best_and_a_worse_one_never_does(later_ties: bool) -> None:
    assert replaces_best(0.51, 0.5, later_ties=later_ties)
    assert not replaces_best(0.49, 0.5, later_ties=later_ties)
    assert replaces_best(0.5, 0.5, later_ties=later_ties) is later_ties
    assert replaces_best(0.0, float("-inf"), later_ties=later_ties)
