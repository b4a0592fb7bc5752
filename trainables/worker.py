"""A fold inside a process: in this one (`run_job`), or as the worker loop of a Ray Train `TorchTrainer` (`train_loop`).

Both run the same `run_fold` on the same inputs, so that one worker gives the same numbers either way, bit for bit on
CPU. The only file of this package that imports ray, and only inside functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from search_spaces.benchmarks import Benchmark
from search_spaces.errors import UserError
from search_spaces.methods import method_facts
from trainables.data.formats.images import ImageSource, cached
from trainables.data.formats.open import open_benchmark
from trainables.devices import asked_device
from trainables.fitting.workers import Workers
from trainables.fold import metered, run_fold
from trainables.fold_setup import FoldSetup, Gather
from trainables.jobs import FoldJob, job_from_mapping
from trainables.remote_jobs import answers_on_this_node, on_this_node
from trainables.teacher.http.connection import Patience, patience_of
from trainables.teacher.open import open_teacher
from trainables.teacher.protocol import Teacher
from trainables.zero_shot import zero_shot_on_images

if TYPE_CHECKING:
    from ray.train import UserCallback
    from ray.train.torch import TorchTrainer

Report = Callable[[dict[str, Any]], None]

PREFLIGHT = "preflight"
"""What the ledger files the queries of checks under."""

MOST_STARTS = 30
"""Times that Ray Train tries to start a fold's workers, a minute each where a machine is waited for; then it gives up,
and whoever asked for the fold is told."""


def run_job(job: Mapping[str, Any], report: Report | None = None) -> dict[str, Any]:
    """Run one fold with one worker in this process; returns the content of its `result.json`."""
    wanted = job_from_mapping(job)
    with on_this_node(wanted, report or _silent) as (here, tell, gather):
        return _run(here, tell, Workers(device=asked_device(wanted.resources)), gather)


def train_loop(job: dict[str, Any]) -> dict[str, Any]:
    """The worker loop of Ray Train: every worker runs the same fold on its share of every batch."""
    import ray.train
    import ray.train.torch

    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        # Ray takes the CPU where torch cannot use the GPU that it reserved.
        device = asked_device(job_from_mapping(job).resources)
    workers = Workers(rank=context.get_world_rank(), size=context.get_world_size(), device=device)
    # Ray waits for a report of every worker, so all of them report.
    wanted = job_from_mapping(job)
    with on_this_node(
        wanted,
        lambda metrics: ray.train.report(metrics),
        is_first=workers.is_first,
        together=torch.distributed.barrier if workers.size > 1 else lambda: None,
    ) as (here, tell, gather):
        return _run(here, tell, workers, gather)


def torch_trainer(
    job: Mapping[str, Any],
    *,
    name: str,
    storage_path: str,
    callbacks: Sequence[UserCallback] = (),
    trainer: type[TorchTrainer] | None = None,
    max_failures: int = 0,
) -> TorchTrainer:
    """A `TorchTrainer` for one fold: one start-up for Align, Distill, SWAD and evaluation together.

    Args:
        name: Ray Train's run name; the fold's own checkpoint decides what is resumed.
        trainer: a subclass to build instead of `TorchTrainer`.
    """
    import ray.train
    import ray.train.torch

    resources = job_from_mapping(job).resources
    per_worker = {"CPU": resources.cpus_per_worker}
    if resources.gpus_per_worker:
        per_worker["GPU"] = resources.gpus_per_worker
    # Ray's annotations still describe Train v1, which 2.60 no longer runs by default.
    run_config: Any = ray.train.RunConfig
    failure_config: Any = ray.train.FailureConfig
    return (trainer or ray.train.torch.TorchTrainer)(
        train_loop,  # type: ignore[arg-type]
        train_loop_config=dict(job),
        scaling_config=ray.train.ScalingConfig(
            num_workers=resources.workers,
            use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker=per_worker,
        ),
        run_config=run_config(
            name=name,
            storage_path=storage_path,
            callbacks=list(callbacks),
            # A lost machine is told to whoever asked for the fold, as every other failure is: there it is counted.
            failure_config=failure_config(
                max_failures=max_failures, max_preemption_failures=0, controller_failure_limit=MOST_STARTS
            ),
            logging_config=ray.train.LoggingConfig("WARNING"),
        ),
    )


def preflight(job: Mapping[str, Any]) -> dict[str, Any]:
    """Build what the fold would build and push one image through it, before anything expensive.

    Raises:
        UserError: the data, the teacher or the student do not exist or do not fit each other.
    """
    with answers_on_this_node(job_from_mapping(job), scope=PREFLIGHT) as here:
        return _preflight(here)


def _preflight(fold_job: FoldJob) -> dict[str, Any]:
    workers = Workers(device=asked_device(fold_job.resources))
    source, teacher = _inputs(fold_job, workers)
    setup = FoldSetup(fold_job, source, metered(fold_job, teacher, scope=PREFLIGHT), _silent, workers)
    image = torch.zeros(1, 3, setup.image_size, setup.image_size, device=workers.device)
    if setup.method.stages:
        logits = setup.predictor(setup.student().eval())(image)
    else:
        logits = zero_shot_on_images(setup)(image)
    if fold_job.resources.workers > fold_job.spec.hyperparameters.batch_size_per_domain:
        raise UserError(
            f"{fold_job.resources.workers} workers cannot share batches of "
            f"{fold_job.spec.hyperparameters.batch_size_per_domain} images per domain; use fewer workers"
        )
    return {"num_classes": logits.shape[1], "embedding_dim": setup.texts.shape[1]}


def _run(job: FoldJob, report: Report, workers: Workers, gather: Gather) -> dict[str, Any]:
    torch.set_num_threads(job.resources.threads_per_worker)
    source, teacher = _inputs(job, workers)
    return run_fold(job, source=source, teacher=teacher, report=report, workers=workers, gather=gather)


def _inputs(job: FoldJob, workers: Workers) -> tuple[ImageSource, Teacher | None]:
    """The benchmark and the teacher; kept between the folds of a reused actor."""
    source = _source(job.benchmark, job.data_root, job.cache_folder, job.resources.decode_cache_mb)
    if source.manifest != job.spec.data_manifest:
        raise UserError(
            f"{job.benchmark.name} has changed since the fold was planned: its manifest is {source.manifest[:12]}, "
            f"planned was {job.spec.data_manifest[:12]}"
        )
    facts = method_facts(job.spec.method)
    if not facts.asks:
        return source, None
    image_size = job.spec.hyperparameters.image_size or job.benchmark.image_size
    return source, _teacher(
        job.spec.hyperparameters.teacher,
        image_size,
        str(workers.device),
        job.spec.teacher_fingerprint,
        patience_of(job.resources),
    )


@lru_cache(maxsize=2)
def _source(benchmark: Benchmark, data_root: str | None, cache_folder: str | None, decode_cache_mb: int) -> ImageSource:
    source = open_benchmark(benchmark, data_root, cache=Path(cache_folder) if cache_folder else None)
    return cached(source, decode_cache_mb)


@lru_cache(maxsize=1)
def _teacher(name: str, image_size: int, device: str, fingerprint: str, patience: Patience) -> Teacher:
    return open_teacher(
        name, image_size=image_size, device=torch.device(device), fingerprint=fingerprint, patience=patience
    )


def _silent(metrics: dict[str, Any]) -> None:
    """A fold that nobody watches."""
