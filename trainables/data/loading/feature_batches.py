"""The batches of `BatchStream` without a pixel: stored features stand where the images would.

The same images in the same views, so that a stage trained on stored features sees what the slow path would show it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from trainables.data.formats.images import ImageSource, Indices
from trainables.data.loading.batches import Batch, BatchStream, EvaluationBatch, image_id_offsets

Lookup = Callable[[Tensor, Tensor], Tensor]
"""Image ids int64 [N] and views int64 [N] -> features float32 [N, W]."""


def feature_batches(stream: BatchStream, lookup: Lookup) -> Iterator[Batch]:
    """Yield the stream's batches with features [B, W] as their images."""
    for step in stream.steps:
        named = stream.named(step)
        yield Batch(
            images=lookup(named.image_ids, named.views),
            labels=named.labels,
            image_ids=named.image_ids,
            views=named.views,
            domains=named.domains,
            global_size=named.global_size,
        )


def feature_evaluation_batches(
    source: ImageSource,
    indices: Mapping[str, Indices],
    lookup: Lookup,
    *,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[EvaluationBatch]:
    """Every image of `indices` once, a domain a batch; worker `rank` takes positions `rank::world_size` of each."""
    offsets = image_id_offsets(source)
    for number, domain in enumerate(sorted(indices, key=str.encode)):
        chosen = np.asarray(indices[domain], dtype=np.int64)[rank::world_size]
        if len(chosen) == 0:
            continue
        image_ids = torch.from_numpy(chosen + offsets[domain])
        yield EvaluationBatch(
            images=lookup(image_ids, torch.zeros_like(image_ids)),
            labels=torch.from_numpy(source.labels(domain)[chosen]),
            domains=torch.full_like(image_ids, number),
            image_ids=image_ids,
        )
