"""The Align and Distill step against a plain loop as the authors' code does it, on the same batches in one run.

Plain: the frozen backbone stays in the graph, and the true class's text embedding is looked up sample by sample.
Both loops take turns on every batch, so that a busy machine slows both alike. Prints the median CPU time of each and
the median ratio plain / ours over the pairs with its 95% interval, after checking that the losses agree.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from search_spaces.benchmarks import benchmark
from search_spaces.folds import Fold
from search_spaces.hyperparameters import Hyperparameters
from trainables.data.formats.open import open_benchmark
from trainables.data.loading.batches import Batch, BatchStream
from trainables.data.loading.splits import split_fold
from trainables.fitting.evaluation import DomainScore
from trainables.fitting.inputs import StageInputs
from trainables.fitting.stage import StageFit
from trainables.fitting.workers import Workers
from trainables.methods.recipes import METHODS, Stage
from trainables.storage.fold_folder import FoldFolder
from trainables.student.model import Student, build_student
from trainables.teacher.open import open_teacher
from trainables.teacher.protocol import Teacher, class_texts

WARM_UP = 4


def plain_steps(
    student: Student, teacher: Teacher, texts: Tensor, batches: Iterable[Batch], trains: str
) -> Iterator[tuple[float, float]]:
    """Yield (loss, seconds) per step of the plain loop."""
    student.requires_grad_(True)
    weights = student.head if trains == "projection" else student.backbone
    optimizer = torch.optim.Adam(weights.parameters(), lr=5e-5)
    for batch in batches:
        started = time.process_time()
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
        yield loss.item(), time.process_time() - started


def taking_turns(
    student: Student, teacher: Teacher, texts: Tensor, batches: list[Batch], stage: Stage, other: Student
) -> list[tuple[float, float, float, float]]:
    """Plain loss, our loss, plain seconds, our seconds per step of the plain loop on `other` and of the trainer's."""
    times: list[tuple[float, float, float]] = []
    plain = plain_steps(other, teacher, texts, batches, stage.trains[0])

    def timed(first_step: int) -> Iterator[Batch]:
        for number, batch in enumerate(batches):
            # Who goes first finds the caches cold.
            loss, plain_s = next(plain) if number % 2 == 0 else (0.0, 0.0)
            started = time.process_time()
            yield batch
            our_s = time.process_time() - started
            if number % 2 == 1:
                loss, plain_s = next(plain)
            times.append((loss, plain_s, our_s))

    with tempfile.TemporaryDirectory() as folder:
        record = FoldFolder(Path(folder))
        inputs = _inputs(student, teacher, texts, timed, len(batches))
        StageFit(stage, inputs, folder=record, averager=None, later_ties=True).run()
        losses = [line["loss"] for line in record.read_journal() if line["kind"] == "step"]
    # The first and the last step's times include an evaluation.
    rows = zip(losses, times, strict=True)
    return [(loss, ours, plain_s, our_s) for ours, (loss, plain_s, our_s) in rows][WARM_UP:-1]


def _inputs(
    student: Student, teacher: Teacher, texts: Tensor, batches: Callable[[int], Iterable[Batch]], num_steps: int
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
        num_steps=num_steps,
        evaluate_every=num_steps - 1,
    )


def _compare(label: str, hyperparameters: Hyperparameters, image_size: int, num_steps: dict[str, int]) -> None:
    icons = benchmark("icons")
    source = open_benchmark(icons, None)
    teacher = open_teacher("demo", image_size=64, device=torch.device("cpu"))
    texts = class_texts(teacher, source.class_names)
    splits = split_fold(source, icons, Fold(benchmark="icons", test_domains=("line",), seed=0))
    stream = BatchStream(
        source, icons, splits.source_train, batch_size_per_domain=hyperparameters.batch_size_per_domain,
        image_size=image_size, seed=0, stage="align", num_steps=max(num_steps.values()),
    )  # fmt: skip
    batches = list(stream)

    def student() -> Student:
        built: Any = build_student(
            hyperparameters, "projection", embedding_dim=texts.shape[1], num_classes=len(source.class_names),
            image_size=image_size, teacher=teacher, seed=0,
        )  # fmt: skip
        return built.train()

    for stage in METHODS["vl2v_adip"].stages:
        rows = taking_turns(student(), teacher, texts, batches[: num_steps[stage.name]], stage, student())
        worst = max(abs(plain - ours) for plain, ours, _, _ in rows)
        assert worst < 1e-4, f"the loops disagree by {worst}"
        plain_s, our_s = (statistics.median(row[place] for row in rows) for place in (2, 3))
        ratio, low, high = median_and_interval([row[2] / row[3] for row in rows])
        print(
            f"{label:28} {stage.name:8} {len(rows):3} steps  plain {plain_s * 1e3:6.1f} ms  "
            f"ours {our_s * 1e3:6.1f} ms  ratio {ratio:5.3f}x ({low:.3f} to {high:.3f})  "
            f"largest difference of a loss {worst:.1e}"
        )


def median_and_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The median and its 95% confidence interval from order statistics."""
    ordered, reach = sorted(values), math.ceil(0.98 * math.sqrt(len(values)))
    middle = len(ordered) // 2
    return statistics.median(ordered), ordered[max(0, middle - reach)], ordered[min(len(ordered) - 1, middle + reach)]


def main() -> None:
    """Print one row per student and stage."""
    torch.set_num_threads(1)
    _compare(
        "small student, 96 images", Hyperparameters(student="small", teacher="demo"), 64, {"align": 40, "distill": 105}
    )
    resnet = Hyperparameters(student="resnet50", student_weights="random", teacher="demo", batch_size_per_domain=4)
    _compare("resnet50 at 64 px, 12 images", resnet, 64, {"align": 20, "distill": 65})


if __name__ == "__main__":
    main()
