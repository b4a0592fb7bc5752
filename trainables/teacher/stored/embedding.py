"""Fill, look at and check the embedding store of a benchmark by itself: what `teacher embed|verify` do in a process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from search_spaces.benchmarks import Benchmark
from search_spaces.configuration import from_mapping
from search_spaces.hyperparameters import Resources
from trainables.data.formats.images import ImageSource
from trainables.data.formats.open import open_benchmark
from trainables.devices import asked_device
from trainables.teacher.http.connection import patience_of
from trainables.teacher.ledger import QueryLedger
from trainables.teacher.meter import MeteredTeacher
from trainables.teacher.names import requests_at_once
from trainables.teacher.open import open_teacher
from trainables.teacher.protocol import prompts
from trainables.teacher.stored.checking import verify_stored
from trainables.teacher.stored.filling import StoreStatus, fill, missing_queries, status
from trainables.teacher.stored.store import EmbeddingStore, store_key

SCOPE = "embed"
"""What the ledger files its queries under."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingJob:
    """One benchmark's store as it travels to a worker."""

    benchmark: Benchmark
    teacher: str
    teacher_fingerprint: str
    teacher_mode: str
    """`views:K` or `clean`."""
    image_size: int
    store: str
    """Folder that holds `embeddings/` and `queries/`."""
    data_root: str | None = None
    cache_folder: str | None = None
    query_budget: int | None = None
    resources: Resources = field(default_factory=Resources)

    def to_mapping(self) -> dict[str, Any]:
        """Plain values; `embed` reads them back."""
        return asdict(self)


def embed(job: Mapping[str, Any], progress: Callable[[int], None] | None = None) -> dict[str, int]:
    """Ask for every text and view that is missing, beside whoever else does; returns the rows that were asked here.

    Raises:
        UserError: the data or the teacher do not exist, do not fit, or the teacher is no longer the job's.
        BudgetReached: the budget ends; every answer stays.
    """
    wanted = from_mapping(EmbeddingJob, job)
    torch.set_num_threads(wanted.resources.threads_per_worker)
    store, num_views = embedding_store(wanted)
    teacher = _metered(wanted)
    try:
        store.texts(teacher, prompts(store.source.class_names))
        at_once = requests_at_once(wanted.teacher, wanted.resources.teacher_requests)
        return {"rows": fill(store, teacher, num_views=num_views, at_once=at_once, progress=progress)}
    finally:
        teacher.ledger.close()


def embedding_status(job: EmbeddingJob) -> StoreStatus:
    """How far the job's store is filled."""
    store, num_views = embedding_store(job)
    return status(store, num_views=num_views)


def missing(job: EmbeddingJob) -> tuple[int, int]:
    """Image and text queries that filling the job's store still asks, at most."""
    store, _ = embedding_store(job)
    wanted = missing_queries(
        f"{job.store}/embeddings",
        store.source,
        mode=job.teacher_mode,
        teacher=job.teacher,
        teacher_fingerprint=job.teacher_fingerprint,
        image_size=job.image_size,
        domains=store.source.domain_names,
    )
    return sum(images for images, _ in wanted.values()), sum(texts for _, texts in wanted.values())


def check(job: Mapping[str, Any], *, sample: int) -> list[str]:
    """One line per problem of the job's store; `sample` rows are asked again, as queries like any other.

    Raises:
        BudgetReached: the budget ends.
    """
    wanted = from_mapping(EmbeddingJob, job)
    store, num_views = embedding_store(wanted)
    if not sample:
        return verify_stored(store, num_views=num_views)
    teacher = _metered(wanted)
    try:
        return verify_stored(store, num_views=num_views, teacher=teacher, sample=sample)
    finally:
        teacher.ledger.close()


def embedding_store(job: EmbeddingJob) -> tuple[EmbeddingStore, int]:
    """The store of a job, and its number of views."""
    source: ImageSource = open_benchmark(
        job.benchmark, job.data_root, cache=Path(job.cache_folder) if job.cache_folder else None
    )
    key, num_views = store_key(
        job.teacher_mode,
        manifest=source.manifest,
        teacher_fingerprint=job.teacher_fingerprint,
        image_size=job.image_size,
    )
    return EmbeddingStore(f"{job.store}/embeddings", key, source), num_views


def _metered(job: EmbeddingJob) -> MeteredTeacher:
    teacher = open_teacher(
        job.teacher,
        image_size=job.image_size,
        device=asked_device(job.resources),
        fingerprint=job.teacher_fingerprint,
        patience=patience_of(job.resources),
    )
    return MeteredTeacher(teacher, QueryLedger(Path(job.store) / "queries", SCOPE, budget=job.query_budget))
