"""The setup of a fold: where they lie, whose share they are, and which option reaches which part."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from search_spaces.hyperparameters import Resources
from tests.support.asymmetric_fold import EMBEDDING_DIM, LOGIT_SCALE, LopsidedSource, TowerTeacher, asymmetric_job
from trainables.data.formats.images import CachedSource
from trainables.data.loading.batches import Batch
from trainables.fitting.workers import Workers
from trainables.fold import metered
from trainables.fold_setup import FoldSetup
from trainables.methods.recipes import METHODS


def made(
    folder: Path, method: str = "vl2v_adip", *, workers: Workers | None = None, asks: bool = True, **changes: Any
) -> FoldSetup:
    """The setup of an asymmetric fold; a second worker is told what the first one asked for."""
    job = asymmetric_job(folder, method, **changes)
    teacher = metered(job, TowerTeacher() if asks else None, scope="x")
    return FoldSetup(job, LopsidedSource(), teacher, lambda metrics: None, workers or Workers())


def first_batch(setup: FoldSetup) -> Batch:
    """The first batch of the last stage."""
    stage = METHODS[setup.job.spec.method].stages[-1]
    return next(iter(setup.inputs(stage, setup.student()).batches(0)))


def test_everything_lies_on_the_workers_device(tmp_path: Path) -> None:
    """Torch's `meta` device has shapes and no numbers: it stands for a GPU here."""
    setup = made(tmp_path, workers=Workers(device="meta"))
    assert {parameter.device.type for parameter in setup.student().parameters()} == {"meta"}
    assert setup.texts.device.type == "meta"
    batch = first_batch(setup)
    assert {getattr(batch, name).device.type for name in ("images", "labels", "image_ids", "views", "domains")} == {
        "meta"
    }
    assert made(tmp_path, "erm", workers=Workers(device="meta"), asks=False).texts.device.type == "meta"
    assert setup.swad_device == torch.device("meta")
    setup = made(tmp_path, workers=Workers(device="meta"), resources=Resources(swad_device="cpu"))
    assert setup.swad_device == torch.device("cpu")


def test_a_worker_makes_its_share(tmp_path: Path) -> None:
    """Of 5 images of each of 3 domains the second of two workers shows the positions 1 and 3."""
    whole = first_batch(made(tmp_path, "erm", asks=False))
    setup = made(tmp_path, "erm", asks=False, workers=Workers(rank=1, size=2))
    share = first_batch(setup)
    own = [domain * 5 + position for domain in range(3) for position in (1, 3)]
    assert torch.equal(share.images, whole.images[own])
    assert (share.global_size, whole.global_size) == (15, 15)
    seen: list[int] = []

    def predict(batch: Any) -> torch.Tensor:
        seen.extend(batch.image_ids.tolist())
        return torch.zeros(len(batch.labels), 4)

    setup.workers.sum = lambda tensor: tensor  # type: ignore[method-assign]
    setup.score(predict, setup.splits.source_validation)
    every = sum(len(indices) for indices in setup.splits.source_validation.values())
    assert len(seen) == every // 2


def test_options_reach_their_parts(tmp_path: Path) -> None:
    setup = made(tmp_path, resources=Resources(decode_cache_mb=3, loader_processes=2, batch_pieces=4))
    assert isinstance(setup.source, CachedSource)
    assert setup.source.limit_bytes == 3 * 2**20
    inputs = setup.inputs(METHODS["vl2v_adip"].stages[0], setup.student())
    stream: Any = inputs.batches(0)
    assert stream.loader_processes == 2
    assert inputs.batch_pieces == 4
    assert (inputs.num_steps, inputs.evaluate_every, inputs.seed) == (13, 2, 6)
    assert inputs.hyperparameters == setup.hyperparameters
    assert isinstance(made(tmp_path, resources=Resources(decode_cache_mb=0)).source, LopsidedSource)


def test_without_a_teacher_nothing_is_asked_and_logits_have_no_scale(tmp_path: Path) -> None:
    with_one, without = made(tmp_path), made(tmp_path, "erm", asks=False)
    assert with_one.texts.shape == (4, EMBEDDING_DIM)
    assert without.texts.shape == (4, 0)
    assert (with_one.logit_scale, without.logit_scale) == (pytest.approx(LOGIT_SCALE), 1.0)
    assert with_one.inputs(METHODS["vl2v_adip"].stages[0], with_one.student()).ask is not None
    assert without.inputs(METHODS["erm"].stages[0], without.student()).ask is None


def test_a_size_that_is_not_asked_for_is_the_benchmarks(tmp_path: Path) -> None:
    assert made(tmp_path).image_size == 16
    assert made(tmp_path, image_size=24).image_size == 24
    job = asymmetric_job(tmp_path)
    larger = replace(job, benchmark=replace(job.benchmark, image_size=32))
    setup = FoldSetup(larger, LopsidedSource(), metered(larger, TowerTeacher(), scope="x"), print, Workers())
    assert setup.image_size == 32
