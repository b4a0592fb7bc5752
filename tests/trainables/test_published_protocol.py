"""The published protocol where it is code and not a value: numbers worked out by hand, on DomainNet as on PACS."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from search_spaces.benchmarks import BENCHMARKS
from search_spaces.folds import Fold
from search_spaces.hyperparameters import FoldSpec, Hyperparameters, StageHyperparameters, Swad
from tests.support.sized_source import SizedSource
from trainables.data.formats.images import Indices
from trainables.data.loading.batches import Batch
from trainables.fitting.evaluation import DomainScore, mean_accuracy, mean_cross_entropy
from trainables.fitting.inputs import StageInputs
from trainables.fitting.swad import DenseAverager
from trainables.fitting.update import Update
from trainables.fitting.workers import Workers
from trainables.fold import metered, run_fold
from trainables.fold_setup import FoldSetup
from trainables.jobs import FoldJob
from trainables.methods.recipes import METHODS, Stage, StepTensors
from trainables.storage.fold_folder import FoldFolder
from trainables.student.model import Student

DIM = 8
"""D: a direction for each class of PACS."""


class NotingTeacher:
    """Answers everything with one direction, and notes what it was shown."""

    name, embedding_dim, logit_scale = "noting", DIM, 100.0

    def __init__(self) -> None:
        self.images: list[Tensor] = []
        self.prompts: list[str] = []

    def embed_images(self, images: Tensor) -> Tensor:
        self.images.append(images)
        return torch.eye(DIM)[:1].expand(len(images), DIM)

    def embed_texts(self, prompts: Sequence[str]) -> Tensor:
        self.prompts += prompts
        return torch.eye(DIM)[[number % DIM for number in range(len(prompts))]]

    def image_encoder(self) -> tuple[nn.Module, int]:
        raise AssertionError("it is a black box")


def setup(folder: Path, name: str, test_domain: str, teacher: NotingTeacher, **changes: Any) -> FoldSetup:
    """The setup of a fold of VL2V-ADiP over a benchmark of 250 images per domain."""
    benchmark = BENCHMARKS[name]
    source = SizedSource(benchmark, [250] * len(benchmark.domains))
    spec = FoldSpec(
        fold=Fold(benchmark=name, test_domains=(test_domain,), seed=0),
        method="vl2v_adip",
        hyperparameters=Hyperparameters(**changes),
        data_manifest=source.manifest,
    )
    job = FoldJob(spec=spec, benchmark=benchmark, folder=str(folder / "folds" / "x"), align_folder=str(folder / "a"))
    asked = metered(job, teacher, scope="x")
    return FoldSetup(job, source, asked, report=lambda metrics: None, workers=Workers())


def pooled_student() -> Student:
    """Whatever the size of an image, three numbers and a projection."""
    backbone = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Student(backbone=backbone, head=nn.Linear(3, DIM), head_name="projection")


def evaluated(inputs: StageInputs) -> list[tuple[int, ...]]:
    """Shapes of the batches in which the source validation setup are scored."""
    shapes: list[tuple[int, ...]] = []
    hook = inputs.student.backbone.register_forward_pre_hook(lambda module, given: shapes.append(tuple(given[0].shape)))
    inputs.validate()
    hook.remove()
    return shapes


@pytest.mark.parametrize(
    ("name", "test_domain", "steps_and_interval", "batch", "evaluation"),
    [
        ("PACS", "sketch", (5001, 200), 3 * 32, [128, 22]),
        ("DomainNet", "real", (15001, 1000), 5 * 32, [64, 64, 64, 58]),
    ],
)
def test_steps_batches_views_and_prompts_of_both_stages(
    tmp_path: Path,
    name: str,
    test_domain: str,
    steps_and_interval: tuple[int, int],
    batch: int,
    evaluation: list[int],
) -> None:
    teacher = NotingTeacher()
    built = setup(tmp_path, name, test_domain, teacher)
    assert teacher.prompts == [f"a photo of a {one.replace('_', ' ')}" for one in BENCHMARKS[name].class_names]
    student = pooled_student()
    for stage in METHODS["vl2v_adip"].stages:
        inputs = built.inputs(stage, student)
        assert (inputs.num_steps, inputs.evaluate_every) == steps_and_interval
        assert len(inputs.batches(0)) == inputs.num_steps  # type: ignore[arg-type]
        assert len(inputs.batches(11)) == inputs.num_steps - 11, "a resumed stage makes the rest"  # type: ignore[arg-type]
        first = next(iter(inputs.batches(0)))
        assert first.images.shape == (batch, 3, 224, 224)
        assert first.global_size == batch
        assert [count for count in first.domains.bincount().tolist() if count] == [32] * (batch // 32)
        assert inputs.ask is not None
        inputs.ask(first)
        assert torch.equal(teacher.images[-1], first.images), "the teacher sees the student's very own view"
        assert evaluated(inputs) == [(images, 3, 224, 224) for images in evaluation]


def test_what_the_user_asks_for_goes_before_the_benchmarks_own(tmp_path: Path) -> None:
    settings = StageHyperparameters(num_steps=401), StageHyperparameters(num_steps=850)
    built = setup(
        tmp_path, "DomainNet", "real", NotingTeacher(), align=settings[0], distill=settings[1], evaluate_every=100,
        eval_batch_size=30, batch_size_per_domain=7, image_size=8,
    )  # fmt: skip
    student = pooled_student()
    inputs = [built.inputs(stage, student) for stage in METHODS["vl2v_adip"].stages]
    assert [(one.num_steps, one.evaluate_every) for one in inputs] == [(401, 100), (801, 100)]
    assert next(iter(inputs[0].batches(0))).images.shape == (5 * 7, 3, 8, 8)
    assert evaluated(inputs[0]) == [(30, 3, 8, 8)] * 8 + [(10, 3, 8, 8)]


def adam_by_hand(weight: float, gradients: Sequence[float], lr: float, weight_decay: float) -> float:
    """Kingma and Ba 2015, algorithm 1, with the L2 penalty in the gradient (not AdamW's decay of the weight)."""
    mean = square = 0.0
    for step, gradient in enumerate(gradients, 1):
        total = gradient + weight_decay * weight
        mean = 0.9 * mean + 0.1 * total
        square = 0.999 * square + 0.001 * total**2
        weight -= lr * (mean / (1 - 0.9**step)) / (math.sqrt(square / (1 - 0.999**step)) + 1e-8)
    return weight


def update_of(stage: Stage, hyperparameters: Hyperparameters) -> tuple[Update, nn.Parameter]:
    """A stage's update of one weight of 2.0, whose gradient is the sum of the images."""
    backbone, head = nn.Linear(1, 1, bias=False).double(), nn.Linear(1, 1, bias=False).double()
    student = Student(backbone=backbone, head=head, head_name="projection")
    trained, frozen = (head, backbone) if stage.trains == ("projection",) else (backbone, head)
    nn.init.constant_(trained.weight, 2.0)
    nn.init.constant_(frozen.weight, 1.0)
    student.set_trainable(stage.trains)
    inputs = StageInputs(
        student=student,
        ask=None,
        logit_scale=1.0,
        texts=torch.empty(1, 0),
        hyperparameters=hyperparameters,
        batches=lambda first_step: (),
        validate=dict,
        report=lambda metrics: None,
        workers=Workers(),
        seed=0,
        num_steps=1,
        evaluate_every=1,
    )
    summed = replace(stage, loss=lambda step, hyperparameters: step.outputs.sum(), asks_teacher=False)
    return Update(summed, inputs, {"weight": trained.weight}), trained.weight


@pytest.mark.parametrize("stage", METHODS["vl2v_adip"].stages, ids=lambda stage: stage.name)
def test_adam_with_the_stages_own_settings_and_no_schedule(stage: Stage) -> None:
    settings = {"align": (0.01, 0.3), "distill": (0.002, 0.07)}
    stages = {name: StageHyperparameters(lr=lr, weight_decay=decay) for name, (lr, decay) in settings.items()}
    update, weight = update_of(stage, Hyperparameters(**stages))  # type: ignore[arg-type]
    gradients = [1.0, 0.0, -2.0, 0.5, 0.0, 0.0, 3.0, -1.0] * 4
    for step, gradient in enumerate(gradients):
        update(step, one_image(gradient))
    assert weight.item() == pytest.approx(adam_by_hand(2.0, gradients, *settings[stage.name]), rel=1e-12)


def test_adam_by_default() -> None:
    for stage in METHODS["vl2v_adip"].stages:
        update, weight = update_of(stage, Hyperparameters())
        gradients = [4.0, -1.0, 0.0]
        for step, gradient in enumerate(gradients):
            update(step, one_image(gradient))
        assert weight.item() == pytest.approx(adam_by_hand(2.0, gradients, 5e-5, 0.0), rel=1e-12)


def one_image(pixel: float) -> Batch:
    ids = torch.zeros(1, dtype=torch.int64)
    images = torch.tensor([[pixel]], dtype=torch.float64)
    return Batch(images=images, labels=ids, image_ids=ids, views=ids, domains=ids, global_size=1)


@pytest.mark.parametrize("method", ["vl2v_adip", "vl2v_sd"])
def test_image_and_text_weigh_the_same_by_default_and_nothing_else_enters(method: str) -> None:
    """cos(s, v) = 0.8 and cos(s, t) = 0.6 on the class of the image; another class's text is not looked at."""
    step = StepTensors(
        outputs=torch.tensor([[5.0, 0.0, 0.0]]),
        labels=torch.tensor([1]),
        texts=torch.tensor([[0.0, 0.0, 1.0], [0.6, 0.8, 0.0]]),
        teacher_images=torch.tensor([[0.8, 0.0, 0.6]]),
        logit_scale=100.0,
    )
    for stage in METHODS[method].stages:
        assert stage.loss(step, Hyperparameters()).item() == pytest.approx(-0.7)
        assert stage.loss(step, Hyperparameters(image_weight=0.9)).item() == pytest.approx(-0.78)
        other = replace(step, logit_scale=1.0)
        assert stage.loss(other, Hyperparameters(kd_temperature=3.0)).item() == pytest.approx(-0.7)


def test_what_trains_in_which_stage() -> None:
    trains = {name: [(stage.name, stage.trains) for stage in METHODS[name].stages] for name in METHODS}
    assert trains == {
        "vl2v_adip": [("align", ("projection",)), ("distill", ("backbone",))],
        "vl2v_sd": [("distill", ("backbone",))],
        "erm": [("distill", ("backbone", "classifier"))],
        "kd": [("distill", ("backbone", "classifier"))],
        "zero_shot": [],
    }


def test_swad_by_default() -> None:
    """Three losses without improvement start the valley at 1.0; its end is 1.3 times their mean of 1.1, six times."""
    averager, died = DenseAverager(Swad()), []
    for step, loss in enumerate([2.0, 1.0, 1.1, 1.2, 1.42, *[1.44] * 6]):
        averager.after_step({"weight": torch.tensor([float(step)])}, step)
        died.append(averager.after_evaluation(step, loss))
    assert averager.valley.converge_step == 1
    assert averager.valley.threshold == pytest.approx(1.43)
    assert died == [False] * 10 + [True]
    # Every evaluation ends a segment; so early a convergence counts those of 1.1 and 1.2 twice.
    result = averager.result()
    assert result.count == 6
    assert result.weights["weight"].item() == pytest.approx((2 + 3 + 1 + 2 + 3 + 4) / 6)


def test_every_domain_counts_the_same() -> None:
    scores = {
        name: DomainScore(accuracy=accuracy, balanced_accuracy=0.0, cross_entropy=entropy, num_images=images)
        for name, accuracy, entropy, images in (("a", 0.9, 0.5, 10), ("b", 0.5, 1.5, 1000), ("c", 0.4, 4.0, 90))
    }
    assert mean_accuracy(scores) == pytest.approx(0.6)
    assert mean_cross_entropy(scores) == pytest.approx(2.0)


def validation_part(num_images: int, domain_index: int) -> Indices:
    """DomainBed's 20% of trial seed 0, written out."""
    order = np.arange(num_images)
    seed = int(hashlib.md5(str((0, domain_index)).encode()).hexdigest(), 16) % 2**31
    np.random.RandomState(seed).shuffle(order)
    return order[: int(num_images * 0.2)]


FIRST_CLASS = {"art_painting": 10, "cartoon": 5, "photo": 0, "sketch": 8}
"""How many images of the validation setup, of 10, 20, 4 and 8, are of class 0."""


class UnequalDomains(SizedSource):
    """PACS with 50, 100, 20 and 40 images; outside the validation setup all are of class 0, in sketch of class 1."""

    def __init__(self) -> None:
        super().__init__(BENCHMARKS["PACS"], [50, 100, 20, 40])

    def labels(self, domain: str) -> Indices:
        labels = np.full(self.sizes[domain], int(domain == "sketch"), dtype=np.int64)
        part = validation_part(self.sizes[domain], self.domain_names.index(domain))
        labels[part] = 1
        labels[part[: FIRST_CLASS[domain]]] = 0
        return labels


def test_ood_is_of_the_80_percent_and_id_the_mean_over_the_20_percent_parts(tmp_path: Path) -> None:
    """The teacher says class 0 of everything."""
    source = UnequalDomains()
    spec = FoldSpec(
        fold=Fold(benchmark="PACS", test_domains=("sketch",), seed=0),
        method="zero_shot",
        hyperparameters=Hyperparameters(image_size=4),
        data_manifest=source.manifest,
    )
    folder = str(tmp_path / "folds" / "x")
    job = FoldJob(spec=spec, benchmark=BENCHMARKS["PACS"], folder=folder, align_folder=str(tmp_path / "a"))
    result = run_fold(job, source=source, teacher=NotingTeacher(), report=lambda metrics: None)
    assert result["source_validation"]["domains"] == {"art_painting": 1.0, "cartoon": 0.25, "photo": 0.0}
    assert result["source_validation"]["accuracy"] == pytest.approx(1.25 / 3)
    test = FoldFolder(folder).read_test()
    assert test is not None
    assert (test["accuracy"], test["num_images"]) == ({"sketch": 0.0}, {"sketch": 32})
    assert test["out_accuracy"] == {"sketch": 1.0}
