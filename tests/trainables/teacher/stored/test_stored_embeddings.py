"""Stored views: the same losses as asking live on the same views, asked once, counted truly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from search_spaces.hyperparameters import StageHyperparameters
from tests.support.small_folds import Interrupted, losses, run_small_fold, student_weights
from trainables.fitting.workers import Workers
from trainables.fold import run_fold
from trainables.fold_setup import FoldSetup
from trainables.jobs import FoldJob
from trainables.teacher.clip import OpenClipTeacher
from trainables.teacher.ledger import QueryLedger, Reservation, query_counts
from trainables.worker import _inputs, run_job

MakeJob = Callable[..., FoldJob]

# Local teachers answer bit-equally in batches of a multiple of 16, as the store asks them: 16 x 3 domains.
SETTINGS: dict[str, Any] = {"teacher_mode": "views:2", "batch_size_per_domain": 16}


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """An independent counter of images that reach the teacher's own encoder."""
    seen: list[int] = []
    embed = OpenClipTeacher.embed_images

    def counted(self: OpenClipTeacher, images: Any) -> Any:
        seen.append(len(images))
        return embed(self, images)

    monkeypatch.setattr(OpenClipTeacher, "embed_images", counted)
    return seen


def _only(stage: str, job: FoldJob) -> list[tuple[int, float, str]]:
    return [(step, loss, images) for name, step, loss, images in losses(job) if name == stage]


def test_losses_from_the_store_are_those_of_asking_live(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    fast, stored, live = (make_job(out=out, **SETTINGS) for out in ("fast", "stored", "live"))
    run_small_fold(fast)
    monkeypatch.setattr(FoldSetup, "align_inputs", FoldSetup.inputs)
    run_small_fold(stored)
    monkeypatch.setattr(FoldSetup, "_stored_teacher", lambda parts: None)
    run_small_fold(live)
    assert losses(stored) == losses(live)
    slow = [loss for _, loss, _ in _only("align", stored)]
    assert [loss for _, loss, _ in _only("align", fast)] == pytest.approx(slow, abs=1e-5)
    assert [images for *_, images in _only("align", fast)] == [images for *_, images in _only("align", stored)]
    assert student_weights(fast)["head.weight"].numpy() == pytest.approx(
        student_weights(stored)["head.weight"].numpy(), abs=1e-4
    )


def test_the_student_sees_other_pixels_in_other_modes(make_job: MakeJob) -> None:
    one, two = make_job(teacher_mode="views:1", out="one"), make_job(teacher_mode="views:2", out="two")
    assert one.spec.key != two.spec.key
    run_small_fold(one)
    run_small_fold(two)
    assert losses(one) != losses(two)


@pytest.mark.parametrize("mode", ["live", "views:2", "clean"])
def test_the_meter_equals_an_independent_counter(make_job: MakeJob, hook: list[int], mode: str) -> None:
    job = make_job(teacher_mode=mode)
    result = run_small_fold(job)
    assert result["teacher_queries"]["images"] == sum(hook) > 0
    assert query_counts(Path(job.queries_folder)).images == sum(hook)


@pytest.mark.parametrize("mode", ["live", "views:2"])
def test_the_count_stays_true_over_an_interruption(make_job: MakeJob, hook: list[int], mode: str) -> None:
    job = make_job(teacher_mode=mode)
    reports = iter(range(100))

    def report(metrics: dict[str, Any]) -> None:
        if next(reports) == 4:
            raise Interrupted

    with pytest.raises(Interrupted):
        run_job(job.to_mapping(), report)
    assert run_small_fold(job)["teacher_queries"]["images"] == sum(hook)


def test_a_warm_store_is_not_asked_again(make_job: MakeJob, hook: list[int]) -> None:
    cold = run_small_fold(make_job(**SETTINGS))
    asked = sum(hook)
    assert cold["teacher_queries"]["images"] == asked
    warm = make_job(distill=StageHyperparameters(num_steps=5, lr=1e-4), **SETTINGS)
    assert set(run_small_fold(warm)["teacher_queries"].values()) == {0}
    assert sum(hook) == asked


def test_a_query_whose_answer_was_lost_is_in_the_result(make_job: MakeJob) -> None:
    job = make_job()
    QueryLedger(Path(job.queries_folder), job.spec.key).reserve(Reservation(images=12))  # then kill -9
    asked = run_small_fold(job)["teacher_queries"]
    assert (asked["images"], asked["unconfirmed"]) == ((5 + 9) * 12, 12)


def test_kd_shares_the_same_embeddings(make_job: MakeJob, hook: list[int]) -> None:
    run_small_fold(make_job("vl2v_adip", **SETTINGS))
    asked = sum(hook)
    assert run_small_fold(make_job("kd", **SETTINGS))["teacher_queries"]["images"] == 0
    assert sum(hook) == asked


def test_no_image_of_the_test_domain_is_asked_for(make_job: MakeJob) -> None:
    job = make_job(**SETTINGS)
    source, teacher = _inputs(job, Workers())
    run_fold(job, source=source, teacher=teacher, report=lambda metrics: None)
    domain = source.domain_names.index("sketch")
    assert not list(Path(job.embeddings_folder).rglob(f"d{domain}-*"))
    assert list(Path(job.embeddings_folder).rglob("d0-*"))
