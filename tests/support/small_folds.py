"""Small folds, run and looked at: their losses, their students, and how one is interrupted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load_file

from trainables.jobs import FoldJob
from trainables.storage.fold_folder import FoldFolder
from trainables.worker import run_job

MakeJob = Callable[..., FoldJob]


class Interrupted(Exception):
    """Stands for kill -9: nothing after it runs."""


def run_small_fold(job: FoldJob) -> dict[str, Any]:
    return run_job(job.to_mapping())


def student_weights(job: FoldJob) -> dict[str, torch.Tensor]:
    return load_file(FoldFolder(job.folder).student)


def assert_same_weights(one: FoldJob, other: FoldJob) -> None:
    weights, others = student_weights(one), student_weights(other)
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        assert torch.equal(weight, others[name]), name


def losses(job: FoldJob) -> list[tuple[str, int, float, str]]:
    return [
        (line["stage"], line["step"], line["loss"], line["images"])
        for line in FoldFolder(job.folder).read_journal()
        if line["kind"] == "step"
    ]
