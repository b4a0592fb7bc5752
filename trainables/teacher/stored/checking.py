"""Checking an embedding store: every file against its checksum and its place, and rows against the teacher."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from trainables.data.loading.views import normalise
from trainables.teacher.stored.filling import BATCH_SIZE, ImageTeacher, stored_pixels
from trainables.teacher.stored.shards import ASKED_AGAIN, DamagedShardError, ShardContent, read_shard
from trainables.teacher.stored.store import EmbeddingStore, Shard


def verify_stored(
    store: EmbeddingStore, *, num_views: int, teacher: ImageTeacher | None = None, sample: int = 0, seed: int = 0
) -> list[str]:
    """One line per problem: damaged files, rows of other images, and, with a teacher, answers that are not its own.

    What nobody asked for yet is no problem. `sample` rows are asked again (they are queries like any other) and
    compared to 1e-5.
    """
    missing = set(store.missing(num_views))
    present = [shard for shard in store.shards(num_views) if shard not in missing]
    problems = [problem for path in store.texts_paths() if (problem := _texts_problem(store, path))]
    whole = []
    for shard in present:
        problem = _problem(store, shard)
        if problem:
            problems.append(problem)
        else:
            whole.append(shard)
    if teacher is not None and sample and whole:
        problems += _disagreements(store, teacher, whole, sample, seed)
    return problems


def _problem(store: EmbeddingStore, shard: Shard) -> str:
    path = store.path(shard)
    try:
        content = read_shard(path, verify=True)
    except DamagedShardError as error:
        return str(error)
    if not np.array_equal(content.image_ids, store.image_ids(shard)):
        return f"{path} holds other images than its place says; {ASKED_AGAIN}"
    return _misplaced(store, path, content, view=shard.view)


def _texts_problem(store: EmbeddingStore, path: str) -> str:
    try:
        content = read_shard(path, verify=True)
    except DamagedShardError as error:
        return str(error)
    return _misplaced(store, path, content, view=0)


def _misplaced(store: EmbeddingStore, path: str, content: ShardContent, *, view: int) -> str:
    if content.key != store.key.key or content.view != view:
        return f"{path} belongs to another store or view; {ASKED_AGAIN}"
    if not np.isfinite(content.embeddings).all():
        return f"{path} holds NaN or infinite numbers; {ASKED_AGAIN}"
    return ""


def _disagreements(
    store: EmbeddingStore, teacher: ImageTeacher, shards: Sequence[Shard], sample: int, seed: int
) -> list[str]:
    generator = np.random.default_rng(seed)
    chosen = [shards[int(number)] for number in generator.integers(len(shards), size=sample)]
    rows = [(shard, int(generator.integers(len(store.image_indices(shard))))) for shard in chosen]
    problems = []
    for start in range(0, len(rows), BATCH_SIZE):
        part = rows[start : start + BATCH_SIZE]
        images = normalise(torch.from_numpy(np.stack([stored_pixels(store, shard, row) for shard, row in part])))
        answers = teacher.embed_images(images).cpu()
        for (shard, row), answer in zip(part, answers, strict=True):
            stored = torch.from_numpy(store.rows(shard)[row].copy())
            if not torch.allclose(stored, answer, rtol=0, atol=1e-5):
                problems.append(f"{store.path(shard)}, row {row}: the teacher answers something else")
    return problems
