"""What a fold reads instead of asking: the teacher's embeddings of stored views, and a frozen backbone's features.

Both lie in embedding stores beside the folds. In `views:K` Align then is a linear layer on tensors: the same batches
and the same loss as on pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from search_spaces.hyperparameters import FoldSpec
from trainables.data.formats.images import ImageSource, Indices
from trainables.data.loading.batches import Batch, BatchStream, EvaluationBatch
from trainables.data.loading.feature_batches import Lookup, feature_batches, feature_evaluation_batches
from trainables.fitting.workers import Workers
from trainables.teacher.stored.filling import ImageTeacher, fill
from trainables.teacher.stored.store import EmbeddingStore, StoreKey, store_key

IN_MEMORY_BYTES = 1 << 30
"""Rows up to this size are copied into memory: a step then costs one gather."""


class StoredTeacher:
    """The teacher's image embeddings of stored views; each is asked once, by whichever fold comes first."""

    def __init__(
        self, spec: FoldSpec, *, root: str, source: ImageSource, teacher: ImageTeacher, image_size: int, at_once: int
    ) -> None:
        self.teacher, self.at_once = teacher, at_once
        key, self.num_views = store_key(
            spec.hyperparameters.teacher_mode,
            manifest=source.manifest,
            teacher_fingerprint=spec.teacher_fingerprint,
            image_size=image_size,
        )
        self.store = EmbeddingStore(root, key, source)
        self._lookup: Lookup = self.store.lookup

    def fill(self, domains: Sequence[str]) -> None:
        """Ask for what is missing of some domains.

        Raises:
            BudgetReached: the meter's budget ends; every answer stays.
        """
        fill(self.store, self.teacher, num_views=self.num_views, domains=domains, at_once=self.at_once)
        self._lookup = in_memory(self.store, self.num_views, domains)

    def embed(self, batch: Batch) -> Tensor:
        """L2-normalised embeddings [B, D] of a batch's images in their views."""
        return self._lookup(batch.image_ids, batch.views)


class StoredFeatures:
    """A frozen backbone's features: of the stored train views, and of the evaluation view."""

    def __init__(
        self, spec: FoldSpec, *, root: str, source: ImageSource, backbone: nn.Module, image_size: int, num_views: int
    ) -> None:
        self.source = source
        self.backbone = _Backbone(backbone)
        self.num_views = num_views
        name = f"features of {spec.student_fingerprint}"
        if spec.hyperparameters.student_weights == "random":
            name += f" drawn with seed {spec.fold.seed}"
        self.views, self.clean = (
            EmbeddingStore(
                root,
                StoreKey(manifest=source.manifest, teacher_fingerprint=name, view=view, image_size=image_size),
                source,
            )
            for view in ("views", "clean")
        )
        self._lookup: Lookup = self.views.lookup

    def fill(self, domains: Sequence[str]) -> None:
        """Compute what is missing of some domains."""
        fill(self.views, self.backbone, num_views=self.num_views, domains=domains)
        fill(self.clean, self.backbone, num_views=1, domains=domains)
        self._lookup = in_memory(self.views, self.num_views, domains)

    def batches(self, stream: BatchStream) -> Iterable[Batch]:
        """The stream's batches with features [B, W] as their images."""
        return feature_batches(stream, self._lookup)

    def evaluation_batches(self, indices: Mapping[str, Indices], workers: Workers) -> Iterator[EvaluationBatch]:
        """Every image of `indices` once, as features [B, W]."""
        return feature_evaluation_batches(
            self.source, indices, self.clean.lookup, rank=workers.rank, world_size=workers.size
        )


def in_memory(store: EmbeddingStore, num_views: int, domains: Sequence[str]) -> Lookup:
    """The store's look-up over a copy of its rows, where they are few; its own memory-mapped one otherwise."""
    places = [store.source.domain_names.index(name) for name in domains]
    ids = torch.cat([torch.from_numpy(store.offsets[place] + store.pools[place]) for place in places])
    first = store.lookup(ids[:1], torch.zeros(1, dtype=torch.int64))
    num_images = int(ids.max()) + 1
    if num_views * num_images * first.shape[1] * 4 > IN_MEMORY_BYTES:
        return store.lookup
    table = torch.zeros(num_views, num_images, first.shape[1])
    for view in range(num_views):
        table[view, ids] = store.lookup(ids, torch.full_like(ids, view))
    if store.key.view == "clean":
        return lambda image_ids, views: table[0, image_ids.cpu()]
    return lambda image_ids, views: table[views.cpu(), image_ids.cpu()]


class _Backbone:
    """A backbone in the place of a teacher, so that its features are stored by the same code."""

    name = "backbone"

    def __init__(self, backbone: nn.Module) -> None:
        self.backbone = backbone

    @torch.inference_mode()
    def embed_images(self, images_N3HW: Tensor, *, image_ids: Sequence[int] = (), views: Sequence[int] = ()) -> Tensor:
        """Features [N, W] of a backbone in eval mode."""
        device = next(self.backbone.parameters()).device
        features: Tensor = self.backbone(images_N3HW.to(device))
        return features

    def image_query(
        self, images_N3HW: Tensor, *, image_ids: Sequence[int] = (), views: Sequence[int] = ()
    ) -> Callable[[], Tensor]:
        """The same, once it is called."""
        return lambda: self.embed_images(images_N3HW)
