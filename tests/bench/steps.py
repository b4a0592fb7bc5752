"""The Align and Distill step against a plain loop as the authors' code does it, on the same batches in one run.

Plain: the frozen backbone stays in the graph, and the true class's text embedding is looked up sample by sample.
Prints the median time of each and the ratio plain / ours, after checking that the losses agree.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from search_spaces.benchmarks import benchmark
from search_spaces.folds import Fold
from search_spaces.hyperparameters import Hyperparameters
from trainables.data.batches import Batch, BatchStream
from trainables.data.open import open_benchmark
from trainables.data.splits import split_fold
from trainables.fitting.evaluation import DomainScore
from trainables.fitting.stage import StageFit, StageInputs
from trainables.fitting.workers import Workers
from trainables.methods.recipes import METHODS, Stage
from trainables.record import FoldFolder
from trainables.student.model import Student, build_student
from trainables.teacher.open import open_teacher
from trainables.teacher.protocol import Teacher, class_texts

NUM_STEPS = 24
WARM_UP = 4


def plain_steps(
    student: Student, teacher: Teacher, texts: Tensor, batches: Iterable[Batch], trains: str
) -> Iterator[tuple[float, float]]:
    """Yield (loss, seconds) per step of the plain loop."""
    student.requires_grad_(True)
    weights = student.head if trains == "projection" else student.backbone
    optimizer = torch.optim.Adam(weights.parameters(), lr=5e-5)
    for batch in batches:
        started = time.perf_counter()
        with torch.no_grad():
            images = teacher.embed_images(batch.images)
        outputs = student(batch.images)
        looked_up = torch.stack([texts[int(label)] for label in batch.labels])
        image_term = F.cosine_similarity(outputs, images, dim=-1).mean()
        text_term = F.cosine_similarity(outputs, looked_up, dim=-1).mean()
        loss = -(0.5 * image_term + 0.5 * text_term)
        student.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item(), time.perf_counter() - started


def our_steps(
    student: Student, teacher: Teacher, texts: Tensor, batches: list[Batch], stage: Stage
) -> Iterator[tuple[float, float]]:
    """Yield (loss, seconds) per step of the trainer's loop, without evaluations."""
    times: list[float] = []

    def timed(first_step: int) -> Iterator[Batch]:
        for batch in batches:
            started = time.perf_counter()
            yield batch
            times.append(time.perf_counter() - started)

    with tempfile.TemporaryDirectory() as folder:
        record = FoldFolder(Path(folder))
        StageFit(stage, _inputs(student, teacher, texts, timed), folder=record, averager=None, later_ties=True).run()
        losses = [line["loss"] for line in record.read_journal() if line["kind"] == "step"]
    # The last step's time would include the evaluation.
    yield from zip(losses[:-1], times[: len(losses) - 1], strict=True)


def _inputs(
    student: Student, teacher: Teacher, texts: Tensor, batches: Callable[[int], Iterable[Batch]]
) -> StageInputs:
    nothing = DomainScore(accuracy=0.0, balanced_accuracy=0.0, cross_entropy=0.0, num_images=1)
    return StageInputs(
        student=student,
        ask=lambda batch: teacher.embed_images(batch.images),
        logit_scale=teacher.logit_scale,
        texts=texts,
        hyperparameters=Hyperparameters(),
        batches=batches,
        validate=lambda: {"none": nothing},
        report=lambda metrics: None,
        workers=Workers(),
        seed=0,
        num_steps=NUM_STEPS,
        evaluate_every=NUM_STEPS - 1,
    )


def _compare(label: str, hyperparameters: Hyperparameters, image_size: int) -> None:
    icons = benchmark("icons")
    source = open_benchmark(icons, None)
    teacher = open_teacher("demo", image_size=64, device=torch.device("cpu"))
    texts = class_texts(teacher, source.class_names)
    splits = split_fold(source, icons, Fold(benchmark="icons", test_domains=("line",), seed=0))
    stream = BatchStream(
        source, icons, splits.source_train, batch_size_per_domain=hyperparameters.batch_size_per_domain,
        image_size=image_size, seed=0, stage="align", num_steps=NUM_STEPS,
    )  # fmt: skip
    batches = list(stream)

    def student() -> Student:
        built: Any = build_student(
            hyperparameters, "projection", embedding_dim=texts.shape[1], num_classes=len(source.class_names),
            image_size=image_size, teacher=teacher, seed=0,
        )  # fmt: skip
        return built.train()

    for stage in METHODS["vl2v_adip"].stages:
        plain = list(plain_steps(student(), teacher, texts, batches, stage.trains[0]))[:-1]
        ours = list(our_steps(student(), teacher, texts, batches, stage))
        worst = max(abs(a[0] - b[0]) for a, b in zip(plain, ours, strict=True))
        assert worst < 1e-4, f"the loops disagree by {worst}"
        medians = [statistics.median(seconds for _, seconds in steps[WARM_UP:]) for steps in (plain, ours)]
        print(
            f"{label:28} {stage.name:8} plain {medians[0] * 1e3:7.1f} ms  ours {medians[1] * 1e3:7.1f} ms  "
            f"ratio {medians[0] / medians[1]:5.2f}x  largest difference of a loss {worst:.1e}"
        )


def main() -> None:
    """Print one row per student and stage."""
    torch.set_num_threads(1)
    _compare("small student, 96 images", Hyperparameters(student="small", teacher="demo"), 64)
    resnet = Hyperparameters(student="resnet50", student_weights="random", teacher="demo", batch_size_per_domain=4)
    _compare("resnet50 at 64 px, 12 images", resnet, 64)


if __name__ == "__main__":
    main()
