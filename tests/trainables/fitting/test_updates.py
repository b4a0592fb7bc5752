"""Ten whole update steps of Align, Distill and self-distillation against the reference implementation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from search_spaces.hyperparameters import Hyperparameters, StageHyperparameters
from tests.support.golden import golden_json, golden_path
from trainables.data.loading.batches import Batch
from trainables.fitting.evaluation import DomainScore
from trainables.fitting.inputs import StageInputs
from trainables.fitting.stage import StageFit
from trainables.fitting.workers import Workers
from trainables.methods.recipes import METHODS
from trainables.storage.fold_folder import FoldFolder
from trainables.student.model import Head, Student
from trainables.teacher.protocol import zero_shot_logits

NAMES = {
    "backbone.1.weight": "featurizer.network.1.weight",
    "backbone.1.bias": "featurizer.network.1.bias",
    "backbone.3.weight": "featurizer.network.3.weight",
    "backbone.3.bias": "featurizer.network.3.bias",
    "head.weight": "proj_lyr.weight",
    "head.bias": "proj_lyr.bias",
}
DTYPES = {"f32": torch.float32, "f64": torch.float64}
TOLERANCES = {"f32": {"loss": 2e-6, "weights": 1e-5}, "f64": {"loss": 1e-9, "weights": 1e-9}}


@dataclass(frozen=True)
class Golden:
    """The synthetic pool of 40 images in 3 domains, and the run's arithmetic."""

    dtype: torch.dtype
    run: dict[str, Any]

    def array(self, name: str) -> Tensor:
        tensor = torch.tensor(np.load(golden_path("updates_data.npz"))[name])
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor.long()

    def texts(self) -> Tensor:
        """The reference keeps text embeddings in float32 beside a float64 student; the cosine normalises them so."""
        return torch.tensor(np.load(golden_path("updates_data.npz"))["zeroshot_weights"])

    def weights(self, prefix: str) -> dict[str, Tensor]:
        stored = load_file(golden_path("updates_weights.safetensors"))
        return {
            name[len(prefix) + 1 :]: w.to(self.dtype) for name, w in stored.items() if name.startswith(prefix + "/")
        }

    def student(self, head_name: Head) -> Student:
        backbone = nn.Sequential(nn.Flatten(), nn.Linear(768, 12), nn.GELU(), nn.Linear(12, 16))
        head = nn.Linear(16, 16) if head_name == "projection" else nn.Identity()
        student = Student(backbone=backbone, head=head, head_name=head_name).to(self.dtype)
        initial = self.weights("mlp/init")
        student.load_state_dict({ours: initial[NAMES[ours]] for ours in student.state_dict()})
        return student

    def batches(self, name: str) -> Iterator[Batch]:
        images, labels = self.array("images"), self.array("labels")
        for choice in self.array(name):
            ids = choice.flatten()
            yield Batch(
                images=images[ids], labels=labels[ids], image_ids=ids, views=ids, domains=ids, global_size=len(ids)
            )


class PoolTeacher:
    """Answers with the golden embedding of the image it is shown."""

    def __init__(self, golden: Golden) -> None:
        self.images = golden.array("images").flatten(1)
        self.embeddings = golden.array("teacher_img_raw")

    def ask(self, batch: Batch) -> Tensor:
        ids = [int((self.images == image).all(dim=1).nonzero()) for image in batch.images.flatten(1)]
        return self.embeddings[ids]


def _fit(golden: Golden, student: Student, stage: Any, batches: str, folder: Path) -> list[float]:
    run = golden.run
    settings = StageHyperparameters(lr=run["lr"], weight_decay=run["weight_decay"])

    def all_batches(first_step: int) -> Iterable[Batch]:
        assert first_step == 0
        return golden.batches(batches)

    inputs = StageInputs(
        student=student,
        ask=PoolTeacher(golden).ask,
        logit_scale=100.0,
        texts=golden.texts(),
        hyperparameters=Hyperparameters(image_weight=run["lmd"], align=settings, distill=settings),
        batches=all_batches,
        validate=lambda: {"d": DomainScore(accuracy=0.0, balanced_accuracy=0.0, cross_entropy=0.0, num_images=1)},
        report=lambda metrics: None,
        workers=Workers(),
        seed=0,
        num_steps=10,
        evaluate_every=9,
    )
    record = FoldFolder(folder)
    StageFit(stage, inputs, folder=record, averager=None, later_ties=True).run()
    return [line["loss"] for line in record.read_journal() if line["kind"] == "step"]


def _check(golden: Golden, student: Student, stage: str, losses: list[float], before: dict[str, Tensor]) -> None:
    precision = golden.run["key"].rsplit("/", 1)[1]
    tolerances = TOLERANCES[precision]
    torch.testing.assert_close(
        torch.tensor(losses, dtype=torch.float64),
        torch.tensor(golden.run[f"{stage}_loss"], dtype=torch.float64),
        rtol=0.0,
        atol=tolerances["loss"],
    )
    changed = golden.weights(f"{golden.run['key']}/{stage}")
    trained = {NAMES[ours] for ours, weight in student.state_dict().items() if not torch.equal(weight, before[ours])}
    assert trained == changed.keys(), "what moved; all else is frozen bit for bit"
    if f"{stage}_changed" in golden.run:
        assert trained == set(golden.run[f"{stage}_changed"])
        assert trained.isdisjoint(golden.run.get(f"{stage}_unchanged", ()))
    for ours, weight in student.state_dict().items():
        if NAMES[ours] in changed:
            torch.testing.assert_close(weight, changed[NAMES[ours]], rtol=0.0, atol=tolerances["weights"])


def _logits(golden: Golden, student: Student) -> Tensor:
    student.eval()
    with torch.no_grad():
        outputs = student(golden.array("images")[:12])
    scale = golden_json("updates.json")["logit_scale_exp"]
    return zero_shot_logits(outputs, F.normalize(golden.array("zeroshot_weights"), dim=-1), scale)


def _runs() -> list[Golden]:
    return [Golden(dtype=DTYPES[run["dtype"]], run=run) for run in golden_json("updates.json")["runs"]]


def _copy(student: Student) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in student.state_dict().items()}


def _check_logits(golden: Golden, student: Student, name: str) -> None:
    stored = np.load(golden_path("updates_logits.npz"))
    key = f"{golden.run['key']}/{name}"
    torch.testing.assert_close(_logits(golden, student).double(), torch.tensor(stored[key]), rtol=1e-4, atol=2e-3)


def test_align_then_distill(tmp_path: Path) -> None:
    align, distill = METHODS["vl2v_adip"].stages
    for number, golden in enumerate(_runs()):
        student = golden.student("projection")
        _check_logits(golden, student, "stage1_logits_before")
        before = _copy(student)
        losses = _fit(golden, student, align, "batches_stage1", tmp_path / f"{number}-align")
        _check(golden, student, "stage1", losses, before)
        _check_logits(golden, student, "stage1_logits_after")
        _check_logits(golden, student, "stage2_logits_before")
        before = _copy(student)
        losses = _fit(golden, student, distill, "batches_stage2", tmp_path / f"{number}-distill")
        _check(golden, student, "stage2", losses, before)
        _check_logits(golden, student, "stage2_logits_after")


def test_self_distillation(tmp_path: Path) -> None:
    (stage,) = METHODS["vl2v_sd"].stages
    for number, golden in enumerate(_runs()):
        student = golden.student("none")
        _check_logits(golden, student, "clip_init_logits_before")
        before = _copy(student)
        losses = _fit(golden, student, stage, "batches_stage1", tmp_path / str(number))
        _check(golden, student, "clip_init", losses, before)
        _check_logits(golden, student, "clip_init_logits_after")


@pytest.mark.parametrize("stage_number", [0, 1])
def test_what_is_frozen_gets_no_gradient(tmp_path: Path, stage_number: int) -> None:
    golden = _runs()[0]
    student = golden.student("projection")
    _fit(golden, student, METHODS["vl2v_adip"].stages[stage_number], "batches_stage1", tmp_path)
    frozen = student.backbone if stage_number == 0 else student.head
    assert all(weight.grad is None for weight in frozen.parameters())
