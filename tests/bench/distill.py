"""Distill in `views:K` against `live`: the same views, the same student, step by step in turns, in CPU time.

What a step saves is the teacher's share of it, which is measured inside the same live steps. The second row's teacher
is too slow to fill a store here: its answers for these very batches are asked beforehand.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from search_spaces.benchmarks import benchmark
from search_spaces.folds import Fold
from search_spaces.hyperparameters import FoldSpec, Hyperparameters, Resources, StageHyperparameters
from tests.bench.steps import median_and_interval
from trainables.data.formats.open import open_benchmark
from trainables.data.loading.batches import Batch
from trainables.fitting.update import Update
from trainables.fitting.workers import Workers
from trainables.fold import metered
from trainables.fold_setup import FoldSetup
from trainables.jobs import FoldJob
from trainables.teacher.open import open_teacher

WARM_UP = 3
Ask = Callable[[Batch], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillSteps:
    """CPU seconds of live steps, of the teacher inside them, and of steps on stored answers; one of each per batch."""

    live_s: list[float]
    teacher_s: list[float]
    stored_s: list[float]
    largest_difference: float
    """Of the losses."""

    @property
    def teacher_share(self) -> float:
        return statistics.median(part / whole for part, whole in zip(self.teacher_s, self.live_s, strict=True))


def bench_parts(folder: Path, hyperparameters: Hyperparameters) -> FoldSetup:
    """The setup of one icons fold below a folder of its own."""
    icons = benchmark("icons")
    source = open_benchmark(icons, None)
    spec = FoldSpec(
        fold=Fold(benchmark="icons", test_domains=("line",), seed=0),
        method="vl2v_adip",
        hyperparameters=hyperparameters,
        data_manifest=source.manifest,
        teacher_fingerprint="bench",
        student_fingerprint="bench",
    )
    job = FoldJob(
        spec=spec,
        benchmark=icons,
        folder=str(folder / "folds" / spec.key),
        align_folder=str(folder / "aligns" / spec.align_key),
        resources=Resources(),
    )
    image_size = hyperparameters.image_size or icons.image_size
    teacher = metered(job, open_teacher(hyperparameters.teacher, image_size=image_size), scope="bench")
    return FoldSetup(job, source, teacher, lambda metrics: None, Workers())


def distill_steps(setup: FoldSetup, batches: Iterable[Batch], stored: Ask) -> DistillSteps:
    """Take a live and a stored step in turns on every batch, each on a student of its own."""
    assert setup.teacher is not None
    teacher, teacher_s = setup.teacher, []

    def live(batch: Batch) -> Tensor:
        started = time.process_time()
        answer = teacher.embed_images(batch.images, image_ids=batch.image_ids.tolist())
        teacher_s.append(time.process_time() - started)
        return answer

    updates = (_update(setup, live), _update(setup, stored))
    seconds: tuple[list[float], list[float]] = ([], [])
    worst = 0.0
    for step, batch in enumerate(batches):
        losses = [0.0, 0.0]
        for number in (0, 1) if step % 2 == 0 else (1, 0):
            started = time.process_time()
            losses[number] = float(updates[number](step, batch))
            seconds[number].append(time.process_time() - started)
        worst = max(worst, abs(losses[0] - losses[1]))
    return DistillSteps(
        live_s=seconds[0][WARM_UP:],
        teacher_s=teacher_s[WARM_UP:],
        stored_s=seconds[1][WARM_UP:],
        largest_difference=worst,
    )


def _update(setup: FoldSetup, ask: Ask) -> Update:
    stage = setup.method.stages[1]
    student = setup.student()
    student.set_trainable(stage.trains)
    student.train()
    weights = {name: weight for name, weight in student.named_parameters() if weight.requires_grad}
    return Update(stage, replace(setup.inputs(stage, student), ask=ask), weights)


def _print(label: str, steps: DistillSteps) -> None:
    assert steps.largest_difference < 1e-5, f"the losses differ by {steps.largest_difference}"
    ratio, low, high = median_and_interval([a / b for a, b in zip(steps.live_s, steps.stored_s, strict=True)])
    live_s, stored_s = statistics.median(steps.live_s), statistics.median(steps.stored_s)
    share = steps.teacher_share
    print(
        f"{label:46} {len(steps.live_s):3} steps  live {live_s * 1e3:6.1f} ms  stored {stored_s * 1e3:6.1f} ms  "
        f"ratio {ratio:5.3f}x ({low:.3f} to {high:.3f})\n"
        f"{'':46} teacher's share of the live step {share:.1%}: without it {1 / (1 - share):.3f}x; "
        f"largest difference of a loss {steps.largest_difference:.1e}"
    )


def main() -> None:
    """Print one row per student and teacher."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        stage = StageHyperparameters(num_steps=64)
        small = Hyperparameters(
            student="small", teacher="demo", teacher_mode="views:1", evaluate_every=8, align=stage, distill=stage
        )
        setup = bench_parts(Path(folder), small)
        setup.prepare()
        inputs = setup.inputs(setup.method.stages[1], setup.student())
        assert inputs.ask is not None
        _print("small student, demo teacher, 96 images, views:1", distill_steps(setup, inputs.batches(0), inputs.ask))
    with tempfile.TemporaryDirectory() as folder:
        stage = StageHyperparameters(num_steps=24)
        large = Hyperparameters(
            student="vit_small_patch16_224", student_weights="random", teacher="open_clip:ViT-B-32:random:0",
            image_size=224, batch_size_per_domain=1, evaluate_every=8, align=stage, distill=stage,
        )  # fmt: skip
        setup = bench_parts(Path(folder), large)
        assert setup.teacher is not None
        batches = list(setup.inputs(setup.method.stages[1], setup.student()).batches(0))
        answers = {id(batch.image_ids): setup.teacher.embed_images(batch.images) for batch in batches}
        _print(
            "ViT-S student, ViT-B/32 teacher, 3 of 224 px",
            distill_steps(setup, batches, lambda batch: answers[id(batch.image_ids)]),
        )


if __name__ == "__main__":
    main()
