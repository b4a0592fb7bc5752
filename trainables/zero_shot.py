"""The teacher itself as a predictor: it judges images against the class prompts, and nothing trains."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from trainables.fitting.evaluation import BatchPredictor, Predictor
from trainables.fold_setup import FoldSetup
from trainables.teacher.protocol import zero_shot_logits


def zero_shot_on_images(setup: FoldSetup) -> Predictor:
    """Images [N, 3, S, S] that have no name -> class logits [N, C]."""
    return lambda images: _logits(setup, images, ())


def zero_shot_on_batches(setup: FoldSetup) -> BatchPredictor:
    """Batches in the student's evaluation view -> class logits; the teacher is told which images it is asked for."""
    return lambda batch: _logits(setup, batch.images, batch.image_ids.tolist())


def _logits(setup: FoldSetup, images: Tensor, image_ids: Sequence[int]) -> Tensor:
    assert setup.teacher is not None
    embeddings = setup.teacher.embed_images(images, image_ids=image_ids)
    return zero_shot_logits(embeddings, setup.texts, setup.teacher.logit_scale)
