"""Stored features stand where the images would, in the very batches that a stream on pixels makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.folders import tiny_benchmark, write_tiny
from trainables.data.formats.images import ImageSource
from trainables.data.formats.open import open_benchmark
from trainables.data.loading.batches import BatchStream
from trainables.data.loading.feature_batches import feature_batches, feature_evaluation_batches

INDICES = {"sketch": np.array([0, 3, 4, 5, 11]), "art": np.array([9, 2, 1])}


@pytest.fixture
def source(tmp_path: Path) -> ImageSource:
    write_tiny(tmp_path)
    return open_benchmark(tiny_benchmark(), tmp_path)


def lookup(image_ids: Tensor, views: Tensor) -> Tensor:
    """Features that tell which image and which view was asked for."""
    return torch.stack([image_ids, views], dim=1).float()


def test_batches_are_the_streams_own(source: ImageSource) -> None:
    stream = BatchStream(
        source,
        tiny_benchmark(),
        INDICES,
        batch_size_per_domain=5,
        image_size=16,
        seed=3,
        stage="align",
        teacher_mode="views:4",
        first_step=2,
        num_steps=6,
        rank=1,
        world_size=2,
    )
    made = list(feature_batches(stream, lookup))
    assert len(made) == 4
    for step, batch in enumerate(made, 2):
        expected = stream.batch(step)
        for name in ("labels", "image_ids", "views", "domains"):
            assert torch.equal(getattr(batch, name), getattr(expected, name)), name
        assert batch.global_size == expected.global_size == 10
        assert torch.equal(batch.images, lookup(expected.image_ids, expected.views))
    assert len({int(view) for batch in made for view in batch.views}) > 1


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_every_image_is_evaluated_once_on_its_only_view(source: ImageSource, world_size: int) -> None:
    seen = []
    for rank in range(world_size):
        for batch in feature_evaluation_batches(source, INDICES, lookup, rank=rank, world_size=world_size):
            assert torch.equal(batch.images, torch.stack([batch.image_ids, torch.zeros_like(batch.labels)], 1).float())
            assert len(set(batch.domains.tolist())) == 1
            seen += list(zip(batch.domains.tolist(), batch.image_ids.tolist(), batch.labels.tolist(), strict=True))
    # Art has the ids 0 to 11, photo 12 to 23, sketch 24 to 35; the second half of each is of class 1.
    art, sketch = [(9, 1), (2, 0), (1, 0)], [(0, 0), (3, 0), (4, 0), (5, 0), (11, 1)]
    expected = [(0, index, label) for index, label in art] + [(1, 24 + index, label) for index, label in sketch]
    assert sorted(seen) == sorted(expected)
    if world_size == 1:
        assert seen == expected, "domains in byte order, images as they stand"
