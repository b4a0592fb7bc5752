"""The worker: what it refuses before it trains, and what it builds for Ray Train."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from search_spaces.errors import UserError
from trainables.jobs import FoldJob, job_from_mapping
from trainables.storage.fold_folder import FoldFolder
from trainables.teacher.fingerprint import teacher_fingerprint
from trainables.worker import preflight, run_job, train_loop

MakeJob = Callable[..., FoldJob]
NAME = "open_clip:vl2v-tiny:random:0"


def test_a_job_survives_the_border_as_plain_values(make_job: MakeJob) -> None:
    job = make_job()
    assert job_from_mapping(job.to_mapping()) == job


@pytest.mark.parametrize("method", ["vl2v_adip", "vl2v_sd", "erm", "kd", "zero_shot"])
def test_preflight_builds_the_fold(make_job: MakeJob, method: str) -> None:
    assert preflight(make_job(method).to_mapping())["num_classes"] == 7


def test_changed_data_is_noticed(make_job: MakeJob) -> None:
    job = make_job("erm")
    changed = replace(job, spec=replace(job.spec, data_manifest="0" * 64))
    with pytest.raises(UserError, match="PACS has changed since the fold was planned"):
        run_job(changed.to_mapping())


def test_a_changed_teacher_is_noticed_whether_the_planned_one_is_still_open_or_not(make_job: MakeJob) -> None:
    job = make_job()
    planned = replace(job, spec=replace(job.spec, teacher_fingerprint=teacher_fingerprint(NAME)))
    assert job.spec.hyperparameters.teacher == NAME
    preflight(planned.to_mapping())
    changed = replace(job, spec=replace(job.spec, teacher_fingerprint="0" * 64))
    with pytest.raises(UserError, match=f"{NAME} has changed since the work was planned: .*planned was {'0' * 12};"):
        run_job(changed.to_mapping())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": "open_clip:ViT-B-99:openai"}, "unknown .*ViT-B-99"),
        ({"student": "resnet51"}, "unknown .*resnet51"),
        ({"student_weights": "nowhere.safetensors"}, "nowhere.safetensors"),
        ({"batch_size_per_domain": 1}, "2 workers"),
    ],
)
def test_preflight_names_what_does_not_fit(make_job: MakeJob, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        preflight(make_job(workers=2, **changes).to_mapping())


@pytest.mark.parametrize("run", [preflight, run_job])
def test_a_gpu_that_was_asked_for_and_cannot_be_used_is_one_line(
    make_job: MakeJob, unusable_gpu: None, run: Callable[..., object]
) -> None:
    job = make_job("erm")
    asked = replace(job, resources=replace(job.resources, gpus_per_worker=0.5))
    with pytest.raises(
        UserError, match=r"^0\.5 GPUs per worker were asked for, and torch .* can use none here"
    ) as caught:
        run(asked.to_mapping())
    assert "\n" not in str(caught.value)
    assert not FoldFolder(job.folder).result.exists()


def test_ray_trains_worker_takes_no_cpu_in_place_of_a_gpu(
    make_job: MakeJob, unusable_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray.train
    import ray.train.torch

    context = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)
    monkeypatch.setattr(ray.train, "get_context", lambda: context)
    monkeypatch.setattr(ray.train.torch, "get_device", lambda: torch.device("cpu"))
    job = make_job("erm")
    with pytest.raises(UserError, match=r"^1 GPUs per worker were asked for"):
        train_loop(replace(job, resources=replace(job.resources, gpus_per_worker=1.0)).to_mapping())
