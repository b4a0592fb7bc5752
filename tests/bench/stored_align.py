"""Align on stored features (`views:K`) against the plain loop on pixels: 1,000 steps, same batches, in CPU seconds.

The plain loop decodes, augments, asks the teacher and keeps the frozen backbone in the graph at every step. Beside the
ratio stands what filling the stores costs, and from how many Align stages on the filling pays.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from search_spaces.benchmarks import benchmark
from search_spaces.folds import Fold
from search_spaces.hyperparameters import FoldSpec, Hyperparameters, Resources, StageHyperparameters
from tests.bench.steps import plain_steps
from trainables.data.open import open_benchmark
from trainables.fitting.stage import StageFit
from trainables.fitting.workers import Workers
from trainables.fold import metered
from trainables.jobs import FoldJob
from trainables.parts import FoldParts
from trainables.record import FoldFolder
from trainables.teacher.open import open_teacher

LR = 5e-5


def _parts(folder: Path, num_steps: int, num_views: int) -> FoldParts:
    icons = benchmark("icons")
    source = open_benchmark(icons, None)
    stage = StageHyperparameters(lr=LR, num_steps=num_steps)
    spec = FoldSpec(
        fold=Fold(benchmark="icons", test_domains=("line",), seed=0),
        method="vl2v_adip",
        hyperparameters=Hyperparameters(
            student="small",
            teacher="demo",
            teacher_mode=f"views:{num_views}",
            align=stage,
            evaluate_every=num_steps - 1,
        ),
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
    teacher = metered(job, open_teacher("demo", image_size=64), scope="bench")
    return FoldParts(job, source, teacher, lambda metrics: None, Workers())


def main() -> None:
    """Print CPU seconds of both loops, of the filling, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--views", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        parts = _parts(Path(folder), arguments.steps + 1, arguments.views)
        stage = parts.method.stages[0]
        started = time.process_time()
        parts.prepare()
        teacher_s = time.process_time() - started
        student = parts.student()
        started = time.process_time()
        inputs = parts.align_inputs(stage, student)
        features_s = time.process_time() - started
        record = FoldFolder(parts.job.align_folder)
        started = time.process_time()
        StageFit(stage, inputs, folder=record, averager=None, later_ties=True).run()
        ours_s = time.process_time() - started
        ours = [line["loss"] for line in record.read_journal() if line["kind"] == "step"][: arguments.steps]
        plain_student = parts.student().eval()
        assert parts.teacher is not None
        started = time.process_time()
        steps = plain_steps(
            plain_student, parts.teacher, parts.texts, parts.inputs(stage, plain_student).batches(0), "projection"
        )
        plain = [loss for _, (loss, _) in zip(range(arguments.steps), steps, strict=False)]
        plain_s = time.process_time() - started
    worst = max(abs(a - b) for a, b in zip(ours, plain, strict=True))
    assert worst < 1e-5, f"the losses differ by {worst}"
    filling_s = teacher_s + features_s
    print(f"Align, {arguments.steps:,} steps of 96 images, views:{arguments.views}, CPU seconds:")
    print(f"  plain {plain_s:8.1f}   stored {ours_s:6.2f} (with its evaluations)   ratio {plain_s / ours_s:6.1f}x")
    print(f"  largest difference of a loss {worst:.1e}")
    print(f"  filling: teacher {teacher_s:.1f}, features {features_s:.1f}; shared by every fold, seed, stage and trial")
    print(f"  first Align with its filling: {plain_s / (ours_s + filling_s):.1f}x; pays from the first stage: "
          f"{'yes' if ours_s + filling_s < plain_s else 'no'}")  # fmt: skip
    for label, stages in (("one benchmark (4 folds)", 4), ("a sweep of 20 configurations", 80)):
        fillings = 4 / 3  # three source domains are filled for one fold, all four for a benchmark
        ratio = stages * plain_s / (stages * ours_s + fillings * filling_s)
        print(f"  {label}: {stages * plain_s:,.0f} against {stages * ours_s + fillings * filling_s:,.0f}, {ratio:.0f}x")


if __name__ == "__main__":
    main()
