"""Domain-balanced endless batches with replacement, and evaluation without padding.

Which images a step shows, and how, is a pure function of (seed, stage, domain, step, position): a resumed run, any
number of workers and any number of loader processes see the same global batch.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from search_spaces.benchmarks import Benchmark
from search_spaces.errors import UserError
from search_spaces.hyperparameters import check_teacher_mode
from trainables.data.formats.images import ImageSource, Indices, cached
from trainables.data.loading.colour_jitter import Pixels
from trainables.data.loading.view_seeds import live_view_seed, step_choices, stored_view, stored_view_seed
from trainables.data.loading.views import EvalView, TrainView, normalise


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One worker's part of a step's global batch, source domains concatenated in byte order."""

    images: Tensor
    """float32 [B, 3, S, S], ImageNet-normalised: what the student sees, and in `live` the teacher too."""
    labels: Tensor
    """int64 [B]"""
    image_ids: Tensor
    """int64 [B]: position in the benchmark, domains in byte order, each in ImageFolder's order."""
    views: Tensor
    """int64 [B]: the view's seed in `live` and `clean`, the view's number in `views:K`."""
    domains: Tensor
    """int64 [B]: index into the benchmark's domains."""
    global_size: int
    """Images of the step over all workers together."""

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on a device."""
        return Batch(**{name: _moved(value, device) for name, value in _items(self)})


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationBatch:
    """Images to be judged, each once over all workers together."""

    images: Tensor
    """float32 [B, 3, S, S], the eval view."""
    labels: Tensor
    """int64 [B]"""
    domains: Tensor
    """int64 [B]: index into the sorted names of the domains that are evaluated."""
    image_ids: Tensor
    """int64 [B], as in `Batch`."""

    def to(self, device: torch.device | str) -> EvaluationBatch:
        """The same batch with its tensors on a device."""
        return EvaluationBatch(**{name: _moved(value, device) for name, value in _items(self)})


@dataclass(eq=False)
class BatchStream:
    """The batches of steps `first_step` to `num_steps - 1`, for one worker; can be iterated again and again.

    All workers together make the same global batch.

    Raises:
        UserError: a domain's batch has fewer images than there are workers.
    """

    source: ImageSource
    benchmark: Benchmark
    indices: Mapping[str, Indices]
    """Of each source domain, which images may be drawn."""
    _: KW_ONLY
    batch_size_per_domain: int
    image_size: int
    seed: int
    stage: str
    num_steps: int
    teacher_mode: str = "live"
    first_step: int = 0
    rank: int = 0
    """This worker takes the positions `rank::world_size` of every domain's batch."""
    world_size: int = 1
    loader_processes: int = 0
    decode_cache_mb: float = 512
    device: torch.device | str = "cpu"
    """Where batches come out."""

    def __post_init__(self) -> None:
        if self.batch_size_per_domain < self.world_size:
            raise UserError(
                f"batch_size_per_domain {self.batch_size_per_domain} cannot be shared by {self.world_size} workers; "
                f"use at most {self.batch_size_per_domain} workers"
            )
        self.steps = range(self.first_step, self.num_steps)
        self._dataset = _StepDataset(self)
        self._loader: DataLoader[_SeenBatch] | None = None

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Batch]:
        if self._loader is None:
            self._loader = _loader(self._dataset, self.steps, self.loader_processes)
        return (seen.batch(self.device) for seen in self._loader)

    def batch(self, step: int) -> Batch:
        """The batch of one step, made in this process."""
        return self._dataset[step].batch(self.device)

    def named(self, step: int) -> Batch:
        """The batch of one step without a pixel: `images` is [B, 0]."""
        return self._dataset.named(step)


@dataclass(frozen=True, kw_only=True, slots=True)
class _SeenBatch:
    """A batch on its way out of a loader process: pixels take a quarter of the memory that normalised images do."""

    named: Batch
    pixels: Tensor
    """uint8 [B, S, S, 3]"""

    def batch(self, device: torch.device | str) -> Batch:
        """The batch on a device, its images normalised there."""
        return replace(self.named.to(device), images=normalise(self.pixels.to(device, non_blocking=True)))


class _StepDataset(Dataset[_SeenBatch]):
    """Step number -> batch."""

    def __init__(self, stream: BatchStream) -> None:
        self.source = cached(stream.source, stream.decode_cache_mb)
        self.indices = {
            name: np.asarray(stream.indices[name], dtype=np.int64) for name in sorted(stream.indices, key=str.encode)
        }
        self.domain_indices = {name: stream.benchmark.domain_index(name) for name in self.indices}
        self.batch_size_per_domain = stream.batch_size_per_domain
        self.view = TrainView(stream.image_size)
        self.seed = stream.seed
        self.stage = stream.stage
        mode = stream.teacher_mode
        self.num_views = check_teacher_mode(mode) if mode.startswith("views:") else 0
        self.positions = range(stream.rank, stream.batch_size_per_domain, stream.world_size)
        self.offsets = image_id_offsets(self.source)
        self.labels = {name: self.source.labels(name) for name in self.indices}
        self.paths = {name: self.source.paths(name) for name in self.indices} if self.num_views else {}

    def __getitem__(self, step: int) -> _SeenBatch:
        size = self.view.image_size
        num_images = len(self.positions) * len(self.indices)
        pixels = np.empty((num_images, size, size, 3), dtype=np.uint8)
        for row, (domain, position, index) in enumerate(self._chosen(step)):
            seed = self._view_seed(domain, position, index, step)
            pixels[row] = self.view.pixels(self.source.read(domain, index), seed)
        return _SeenBatch(named=self.named(step), pixels=torch.from_numpy(pixels))

    def named(self, step: int) -> Batch:
        """Which images, in which views, with which labels: everything about a batch but its pixels."""
        rows: list[tuple[int, int, int, int]] = []
        for domain, position, index in self._chosen(step):
            view, domain_index = self._view(domain, position, step), self.domain_indices[domain]
            rows.append((int(self.labels[domain][index]), self.offsets[domain] + index, view, domain_index))
        labels, image_ids, views, domains = torch.tensor(rows, dtype=torch.int64).T.contiguous()
        return Batch(
            images=torch.empty(len(rows), 0),
            labels=labels,
            image_ids=image_ids,
            views=views,
            domains=domains,
            global_size=self.batch_size_per_domain * len(self.indices),
        )

    def _chosen(self, step: int) -> Iterator[tuple[str, int, int]]:
        for domain, pool in self.indices.items():
            domain_index = self.domain_indices[domain]
            chosen = step_choices(self.seed, self.stage, domain_index, step, len(pool), self.batch_size_per_domain)
            for position in self.positions:
                yield domain, position, int(pool[chosen[position]])

    def _view(self, domain: str, position: int, step: int) -> int:
        """What `Batch.views` says of a position."""
        place = (self.seed, self.stage, step, self.domain_indices[domain], position)
        return stored_view(*place, self.num_views) if self.num_views else live_view_seed(*place)

    def _view_seed(self, domain: str, position: int, index: int, step: int) -> int:
        """The seed that a position's view is drawn with."""
        view = self._view(domain, position, step)
        return stored_view_seed(self.paths[domain][index], view) if self.num_views else view


def evaluation_batches(
    source: ImageSource,
    indices: Mapping[str, Indices],
    *,
    image_size: int,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    loader_processes: int = 0,
    decode_cache_mb: float = 0,
) -> Iterator[EvaluationBatch]:
    """Every image of `indices` once, in the eval view: no padding, no repetition.

    The images stand domain after domain, names sorted in byte order; worker `rank` takes positions
    `rank::world_size`. The last batch may be smaller; a worker without images gets none.
    """
    dataset = _EvaluationDataset(cached(source, decode_cache_mb), indices, image_size, batch_size, rank, world_size)
    if len(dataset) == 0:
        return iter(())
    return iter(_loader(dataset, range(len(dataset)), min(loader_processes, len(dataset))))


class _EvaluationDataset(Dataset[EvaluationBatch]):
    """Batch number -> batch."""

    def __init__(
        self,
        source: ImageSource,
        indices: Mapping[str, Indices],
        image_size: int,
        batch_size: int,
        rank: int,
        world_size: int,
    ) -> None:
        self.source = source
        self.view = EvalView(image_size)
        self.batch_size = batch_size
        self.domains = sorted(indices, key=str.encode)
        self.offsets = image_id_offsets(source)
        self.labels = {name: source.labels(name) for name in self.domains}
        places = [(domain, int(index)) for domain, name in enumerate(self.domains) for index in indices[name]]
        self.places = places[rank::world_size]

    def __len__(self) -> int:
        return -(-len(self.places) // self.batch_size)

    def __getitem__(self, number: int) -> EvaluationBatch:
        places = self.places[number * self.batch_size : (number + 1) * self.batch_size]
        names = self.domains
        pixels: list[Pixels] = [self.view.pixels(self.source.read(names[domain], index)) for domain, index in places]
        rows = [
            (int(self.labels[names[domain]][index]), domain, self.offsets[names[domain]] + index)
            for domain, index in places
        ]
        labels, domains, image_ids = torch.tensor(rows, dtype=torch.int64).T.contiguous()
        return EvaluationBatch(
            images=normalise(torch.from_numpy(np.stack(pixels))), labels=labels, domains=domains, image_ids=image_ids
        )


def image_id_offsets(source: ImageSource) -> dict[str, int]:
    """The image id of each domain's first image."""
    offsets, start = {}, 0
    for name in source.domain_names:
        offsets[name] = start
        start += len(source.labels(name))
    return offsets


def _loader(dataset: Dataset[Any], steps: Iterable[int], loader_processes: int) -> DataLoader[Any]:
    if loader_processes == 0:
        return DataLoader(dataset, batch_size=None, sampler=steps)
    # Ray's workers have gRPC threads, which a fork could leave locked; importing torch once in the fork server makes
    # each further process start in milliseconds.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trainables.data.loading.batches"])
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=steps,
        num_workers=loader_processes,
        multiprocessing_context=context,
        persistent_workers=True,
    )


def _items(batch: Batch | EvaluationBatch) -> Iterator[tuple[str, Any]]:
    return ((field.name, getattr(batch, field.name)) for field in fields(batch))


def _moved(value: Any, device: torch.device | str) -> Any:
    return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
