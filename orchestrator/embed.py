"""Fill embedding stores in parallel: Ray tasks that share one store, shard by shard, with their progress."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from orchestrator.execution.cluster import call_on_cluster, check_resources, connect
from orchestrator.execution.preflight import check_data
from orchestrator.run_options import absolute_data_root
from orchestrator.store.sweep_folder import SweepFolder
from search_spaces.benchmarks import Benchmark
from search_spaces.errors import UserError
from search_spaces.hyperparameters import Hyperparameters, Resources, check_stores_answers
from trainables.storage.background_threads import beside
from trainables.teacher.fingerprint import teacher_fingerprint
from trainables.teacher.stored.embedding import EmbeddingJob, embed, embedding_status

LOOK_S = 0.5

Told = Callable[[str, int, int | None], None]
"""Called with a benchmark's name, the rows that are there, and the rows wanted."""


def embedding_job(
    benchmark: Benchmark,
    hyperparameters: Hyperparameters,
    *,
    store: SweepFolder,
    data_root: str | None,
    resources: Resources,
    query_budget: int | None = None,
) -> EmbeddingJob:
    """What fills the store that folds with these hyperparameters read.

    Raises:
        UserError: mode `live`, which stores nothing; no such teacher; images that cannot be read.
    """
    check_stores_answers(hyperparameters.teacher_mode)
    root = absolute_data_root(data_root)
    check_data({benchmark.name: benchmark}, store=store, data_root=root)
    return EmbeddingJob(
        benchmark=benchmark,
        teacher=hyperparameters.teacher,
        teacher_fingerprint=teacher_fingerprint(hyperparameters.teacher),
        teacher_mode=hyperparameters.teacher_mode,
        image_size=hyperparameters.image_size or benchmark.image_size,
        store=str(store.shared),
        data_root=root,
        cache_folder=str(store.data_folder),
        query_budget=query_budget,
        resources=resources,
    )


def check_one_machine(store: SweepFolder, *, address: str | None, workers: int) -> None:
    """Raises `UserError` where nodes that share no disk would ask the teacher for the same views, each for itself."""
    wanted = address or os.environ.get("RAY_ADDRESS") or "local"
    if store.mirrors and workers > 0 and wanted != "local":
        raise UserError(
            "tasks on a cluster that share no disk would ask the same views twice: fill a store at an address on one "
            "machine, with --workers 0 or --address local"
        )


def fill_stores(
    jobs: Sequence[EmbeddingJob], *, workers: int, resources: Resources, address: str | None, told: Told
) -> None:
    """Fill every job's store by `workers` Ray tasks each, or in this process where `workers` is 0.

    Raises:
        BudgetReached: the budget ends; every answer stays.
    """
    for job in jobs:
        # Made now: an object store or a read-only place is no place to fill.
        Path(job.store).mkdir(parents=True, exist_ok=True)
    missing = [job for job in jobs if not embedding_status(job).is_complete]
    if workers == 0:
        for job in missing:
            _here(job, told)
    elif missing:
        with connect(address=address) as cluster:
            check_resources(cluster, resources)
            mappings = [job.to_mapping() for job in missing for _ in range(workers)]
            with _watched(missing, told):
                call_on_cluster(
                    "trainables.teacher.stored.embedding:embed", mappings, resources, doing="asking the teacher"
                )


def _here(job: EmbeddingJob, told: Told) -> None:
    before = embedding_status(job)
    done = before.rows

    def progress(rows: int) -> None:
        nonlocal done
        done += rows
        told(job.benchmark.name, done, before.rows_wanted)

    embed(job.to_mapping(), progress)


@contextmanager
def _watched(jobs: Sequence[EmbeddingJob], told: Told) -> Iterator[None]:
    """Tell how far the stores are, while the tasks run."""

    def follow(ended: threading.Event) -> None:
        last = False
        while not last:
            last = ended.wait(LOOK_S)
            for job in jobs:
                found = embedding_status(job)
                told(job.benchmark.name, found.rows, found.rows_wanted)

    with beside("embedding progress", follow):
        yield
