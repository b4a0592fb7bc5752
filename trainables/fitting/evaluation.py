"""Accuracy and cross-entropy per domain, from any function that turns a batch of images into class logits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.data.loading.batches import EvaluationBatch
from trainables.fitting.workers import Workers

Predictor = Callable[[Tensor], Tensor]
"""Images [N, 3, S, S] -> class logits [N, C]."""
BatchPredictor = Callable[[EvaluationBatch], Tensor]
"""A batch whose images lie on the worker's device -> class logits [N, C]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DomainScore:
    """One domain's numbers on one part of it."""

    accuracy: float
    """Fraction of images whose largest logit is the true class."""
    balanced_accuracy: float
    """Mean over the classes present of the accuracy within the class."""
    cross_entropy: float
    """Mean over images, in nats, of the logits as predicted."""
    num_images: int


def score_domains(
    predict: BatchPredictor,
    batches: Iterable[EvaluationBatch],
    domain_names: Sequence[str],
    *,
    num_classes: int,
    workers: Workers,
) -> dict[str, DomainScore]:
    """Score every domain; each worker sees its share of the images once, and the sums are shared.

    Without gradients, in one pass over all domains of a part: only the last of all batches is a short one. The two
    parts of a test domain stay two passes: the bits of an image's logits may depend on how large its batch is (seen on
    the CPU), so one pass over both would be another trainer version.

    Args:
        domain_names: what the batches' domain indices stand for.
    """
    correct = torch.zeros(len(domain_names), num_classes, dtype=torch.float64)
    count = torch.zeros_like(correct)
    entropy = torch.zeros(len(domain_names), dtype=torch.float64)
    with torch.inference_mode():
        for batch in batches:
            labels = batch.labels.to(workers.device)
            logits = predict(replace(batch, images=batch.images.to(workers.device))).float()
            hits = (logits.argmax(dim=-1) == labels).double().cpu()
            losses = F.cross_entropy(logits, labels, reduction="none").double().cpu()
            correct.index_put_((batch.domains, batch.labels), hits, accumulate=True)
            count.index_put_((batch.domains, batch.labels), torch.ones_like(hits), accumulate=True)
            entropy.index_add_(0, batch.domains, losses)
    sums = workers.sum(torch.cat([correct.flatten(), count.flatten(), entropy]).to(workers.device)).cpu()
    correct, count = (part.view_as(correct) for part in sums[: 2 * correct.numel()].chunk(2))
    entropy = sums[-len(domain_names) :]
    return {name: _score(correct[i], count[i], float(entropy[i])) for i, name in enumerate(domain_names)}


def of_images(predict: Predictor) -> BatchPredictor:
    """Judge a batch by its images alone."""
    return lambda batch: predict(batch.images)


def _score(correct_C: Tensor, count_C: Tensor, entropy: float) -> DomainScore:
    total = float(count_C.sum())
    present = count_C > 0
    return DomainScore(
        accuracy=float(correct_C.sum()) / total,
        balanced_accuracy=float((correct_C[present] / count_C[present]).mean()),
        cross_entropy=entropy / total,
        num_images=int(total),
    )


def mean_accuracy(scores: dict[str, DomainScore]) -> float:
    """Mean over domains, every domain counting the same."""
    return sum(score.accuracy for score in scores.values()) / len(scores)


def mean_cross_entropy(scores: dict[str, DomainScore]) -> float:
    """Mean over domains, every domain counting the same."""
    return sum(score.cross_entropy for score in scores.values()) / len(scores)


def replaces_best(accuracy: float, best: float, *, later_ties: bool) -> bool:
    """Whether an evaluation's weights replace the best ones so far; NaN never does.

    Args:
        accuracy: of the evaluation, on the source validation parts.
        best: of the best evaluation so far; -inf before the first.
        later_ties: an equal accuracy replaces it too, as in the file that the authors' trainer saves; else the first
            maximum stays, as in DomainBed's records.
    """
    return accuracy > best or (later_ties and accuracy == best)
