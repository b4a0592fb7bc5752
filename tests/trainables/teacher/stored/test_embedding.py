"""One benchmark's store filled by itself: what is missing, asked, there, and not what the teacher answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from search_spaces.benchmarks import BENCHMARKS
from search_spaces.errors import UserError
from search_spaces.hyperparameters import Resources
from trainables.teacher.fingerprint import teacher_fingerprint
from trainables.teacher.ledger import BudgetReached, query_counts
from trainables.teacher.stored.embedding import EmbeddingJob, check, embed, embedding_status, missing

NAME = "open_clip:vl2v-tiny:random:0"
IMAGES, CLASSES = 4 * 7 * 6, 7
"""Of the look-alike: 4 domains, 7 classes, 6 images each."""
PADDED = 4 * (7 * 6 + 15)
"""Images that a forecast counts: each file of 42 may end in a batch that is filled up to a multiple of 16."""


@pytest.fixture
def job(sample_root: Path, tmp_path: Path) -> EmbeddingJob:
    return EmbeddingJob(
        benchmark=BENCHMARKS["PACS"],
        teacher=NAME,
        teacher_fingerprint=teacher_fingerprint(NAME),
        teacher_mode="views:2",
        image_size=32,
        store=str(tmp_path),
        data_root=str(sample_root),
        cache_folder=str(tmp_path / "cache"),
    )


def test_a_store_is_filled_once_and_its_queries_are_counted(job: EmbeddingJob, tmp_path: Path) -> None:
    assert missing(job) == (2 * PADDED, CLASSES)
    assert not embedding_status(job).is_complete
    told: list[int] = []
    assert embed(job.to_mapping(), told.append) == {"rows": 2 * IMAGES}
    assert sum(told) == 2 * IMAGES
    status = embedding_status(job)
    assert (status.rows, status.rows_wanted, status.is_complete) == (2 * IMAGES, 2 * IMAGES, True)
    assert missing(job) == (0, 0)
    assert embed(job.to_mapping()) == {"rows": 0}
    counts = query_counts(tmp_path / "queries", ["embed"])
    assert (counts.images, counts.texts) == (2 * IMAGES, CLASSES)
    assert list((tmp_path / "cache").rglob("*")), "the index is kept where the job says"
    assert missing(replace(job, teacher_mode="views:3")) == (PADDED, 0)
    assert missing(replace(job, teacher_mode="clean")) == (PADDED, CLASSES)
    assert missing(replace(job, image_size=40)) == (2 * PADDED, CLASSES)


def test_a_gpu_that_was_asked_for_and_cannot_be_used_asks_nothing(
    job: EmbeddingJob, tmp_path: Path, unusable_gpu: None
) -> None:
    with pytest.raises(UserError, match=r"^1 GPUs per worker were asked for, and torch .* can use none here"):
        embed(replace(job, resources=Resources(gpus_per_worker=1.0)).to_mapping())
    assert query_counts(tmp_path / "queries").images == 0


def test_a_check_asks_rows_again_and_names_what_is_no_answer(job: EmbeddingJob, tmp_path: Path) -> None:
    clean = replace(job, teacher_mode="clean")
    embed(clean.to_mapping())
    asked = query_counts(tmp_path / "queries").images
    assert check(clean.to_mapping(), sample=0) == []
    assert check(clean.to_mapping(), sample=3) == []
    assert query_counts(tmp_path / "queries").images == asked + 3
    store = next((tmp_path / "embeddings").glob("*/d2-v000-b00000.arrow"))
    store.write_bytes(store.read_bytes()[:-200])
    (problem,) = check(clean.to_mapping(), sample=0)
    assert str(store) in problem


def test_answers_of_another_teacher_are_noticed(job: EmbeddingJob) -> None:
    clean = replace(job, teacher_mode="clean", teacher_fingerprint="")
    embed(clean.to_mapping())
    other = replace(clean, teacher="open_clip:vl2v-tiny:random:1")
    assert "the teacher answers something else" in check(other.to_mapping(), sample=1)[0]


def test_a_budget_ends_the_filling_and_every_answer_stays(job: EmbeddingJob, tmp_path: Path) -> None:
    with pytest.raises(BudgetReached):
        embed(replace(job, query_budget=100).to_mapping())
    asked = query_counts(tmp_path / "queries").images
    assert 0 < asked <= 100
    assert embedding_status(job).rows == asked
    assert embed(job.to_mapping()) == {"rows": 2 * IMAGES - asked}


def test_another_teacher_than_planned_is_refused(job: EmbeddingJob) -> None:
    with pytest.raises(UserError, match="has changed since the work was planned"):
        embed(replace(job, teacher_fingerprint="0" * 64).to_mapping())


def test_a_job_runs_on_its_threads(job: EmbeddingJob) -> None:
    import torch

    embed(replace(job, teacher_mode="clean", resources=Resources(threads_per_worker=2)).to_mapping())
    assert torch.get_num_threads() == 2
