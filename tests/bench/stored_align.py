"""Align on stored features (`views:K`) against the plain loop on pixels: 1,000 steps, same batches, in CPU seconds.

The plain loop decodes, augments, asks the teacher and keeps the frozen backbone in the graph at every step. Beside the
ratio stands what filling the stores costs, the totals with it (Distill of as many steps included, from the medians of
a few steps) for one fold, one benchmark and a sweep of 20 configurations, and the number of steps from which it pays.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from search_spaces.hyperparameters import Hyperparameters, StageHyperparameters
from tests.bench.distill import bench_parts, distill_steps
from tests.bench.steps import plain_steps
from trainables.fitting.inputs import StageInputs
from trainables.fitting.stage import StageFit
from trainables.fold_setup import FoldSetup
from trainables.methods.recipes import Stage
from trainables.storage.fold_folder import FoldFolder
from trainables.teacher.ledger import query_counts

LR = 5e-5
DISTILL_STEPS = 23


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """CPU seconds: per step with its data, and once for the filling of one fold's three source domains."""

    align_live_s: float
    align_stored_s: float
    distill_live_s: float
    distill_stored_s: float
    filling_s: float

    def fold(self, steps: int, *, stored: bool) -> float:
        """Align and Distill of one fold, its stores being filled."""
        align, distill = (
            (self.align_stored_s, self.distill_stored_s) if stored else (self.align_live_s, self.distill_live_s)
        )
        return steps * (align + distill)

    @property
    def pays_after_steps(self) -> float:
        """Steps per stage after which one fold has earned its filling."""
        return self.filling_s / (self.fold(1, stored=False) - self.fold(1, stored=True))


def _settings(num_steps: int, num_views: int) -> Hyperparameters:
    return Hyperparameters(
        student="small",
        teacher="demo",
        teacher_mode=f"views:{num_views}",
        align=StageHyperparameters(lr=LR, num_steps=num_steps),
        distill=StageHyperparameters(num_steps=num_steps),
        evaluate_every=num_steps - 1,
    )


def _print_totals(costs: Costs, steps: int, asked: int) -> None:
    print(f"  Distill step with its data: live {costs.distill_live_s * 1e3:.0f} ms, "
          f"stored {costs.distill_stored_s * 1e3:.0f} ms")  # fmt: skip
    print(f"  totals of {steps:,} Align and {steps:,} Distill steps a fold, the filling included:")
    # Three source domains are filled for one fold, all four for a benchmark.
    rows = (
        ("one fold", 1, 1.0),
        ("one benchmark (4 folds)", 4, 4 / 3),
        ("20 configurations (80 folds)", 80, 4 / 3),
    )
    for label, folds, fillings in rows:
        live, filling = folds * costs.fold(steps, stored=False), fillings * costs.filling_s
        total = filling + folds * costs.fold(steps, stored=True)
        asked_live, asked_stored = folds * 2 * steps * 96, round(fillings * asked)
        print(f"    {label:28} live {live:8,.0f} s   stored {total:8,.0f} s, {filling:4.0f} of them filling   "
              f"{live / total:4.2f}x; teacher asked {asked_live:,} and {asked_stored:,} times")  # fmt: skip
    print(f"  the filling pays after {costs.pays_after_steps:,.0f} steps per stage of one fold")


def _stored_run(setup: FoldSetup, stage: Stage, inputs: StageInputs, folder: Path) -> tuple[float, list[float]]:
    """CPU seconds and losses of one Align, its stores being filled."""
    started = time.process_time()
    StageFit(stage, inputs, folder=FoldFolder(folder), averager=None, later_ties=True).run()
    seconds = time.process_time() - started
    return seconds, [line["loss"] for line in FoldFolder(folder).read_journal() if line["kind"] == "step"]


def main() -> None:
    """Print CPU seconds of both loops, of the filling, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--views", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        setup = bench_parts(Path(folder), _settings(arguments.steps + 1, arguments.views))
        stage, distill = setup.method.stages
        started = time.process_time()
        setup.prepare()
        teacher_s = time.process_time() - started
        asked = query_counts(Path(setup.job.queries_folder)).images
        student = setup.student()
        started = time.process_time()
        inputs = setup.align_inputs(stage, student)
        features_s = time.process_time() - started
        runs = [_stored_run(setup, stage, inputs, Path(folder) / "first")]
        plain_student = setup.student().eval()
        assert setup.teacher is not None
        started = time.process_time()
        steps = plain_steps(
            plain_student, setup.teacher, setup.texts, setup.inputs(stage, plain_student).batches(0), "projection"
        )
        plain = [loss for _, (loss, _) in zip(range(arguments.steps), steps, strict=False)]
        plain_s = time.process_time() - started
        for name in ("second", "third"):
            runs.append(_stored_run(setup, stage, setup.align_inputs(stage, setup.student()), Path(folder) / name))
        inputs = setup.inputs(distill, setup.student())
        assert inputs.ask is not None
        started = time.process_time()
        batches = list(islice(inputs.batches(0), DISTILL_STEPS))
        data_s = (time.process_time() - started) / len(batches)
        steps_s = distill_steps(setup, batches, inputs.ask)
    ours_s = statistics.median(seconds for seconds, _ in runs)
    worst = max(abs(a - b) for _, ours in runs for a, b in zip(ours[: arguments.steps], plain, strict=True))
    assert worst < 1e-5, f"the losses differ by {worst}"
    filling_s = teacher_s + features_s
    print(f"Align, {arguments.steps:,} steps of 96 images, views:{arguments.views}, CPU seconds:")
    print(f"  plain {plain_s:8.1f}   stored {ours_s:6.2f} (median of three)   ratio {plain_s / ours_s:6.1f}x")
    print(f"  largest difference of a loss {worst:.1e}")
    print(f"  filling: teacher {teacher_s:.1f}, features {features_s:.1f}; shared by every fold, seed, stage and trial")
    costs = Costs(
        align_live_s=plain_s / arguments.steps,
        align_stored_s=ours_s / arguments.steps,
        distill_live_s=data_s + statistics.median(steps_s.live_s),
        distill_stored_s=data_s + statistics.median(steps_s.stored_s),
        filling_s=filling_s,
    )
    _print_totals(costs, arguments.steps, asked)


if __name__ == "__main__":
    main()
