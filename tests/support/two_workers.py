"""Two workers of one fold that share its batches unevenly: rank 0 in the test's process, rank 1 started as a module."""

from __future__ import annotations

import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from search_spaces.hyperparameters import StageHyperparameters
from tests.support.asymmetric_fold import LopsidedSource, TowerTeacher, asymmetric_job
from trainables.fitting.workers import Workers
from trainables.fold import run_fold
from trainables.fold_setup import Report
from trainables.jobs import FoldJob

TIMEOUT = timedelta(seconds=60)


def shared_job(root: Path) -> FoldJob:
    """Five images per domain for two workers; the valley is dead before the last step."""
    return asymmetric_job(root, distill=StageHyperparameters(num_steps=19, lr=0.01, weight_decay=0.02))


class StoppedAtTheDeadValley(Exception):
    """Stands for a kill right after the evaluation that found it."""


def run_in_two_goes(rank: int, root: Path, last_step: int) -> dict[str, Any]:
    """Run the fold up to the report of Distill's evaluation at `last_step`, then again to its end; its result."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{root}/meeting", rank=rank, world_size=2, timeout=TIMEOUT
    )

    def stop(metrics: dict[str, Any]) -> None:
        if (metrics["stage"], metrics["step"]) == ("distill", last_step):
            raise StoppedAtTheDeadValley

    try:
        with suppress(StoppedAtTheDeadValley):
            _run(rank, root, stop)
        return _run(rank, root, lambda metrics: None)
    finally:
        torch.distributed.destroy_process_group()


def _run(rank: int, root: Path, report: Report) -> dict[str, Any]:
    workers = Workers(rank=rank, size=2)
    return run_fold(shared_job(root), source=LopsidedSource(), teacher=TowerTeacher(), report=report, workers=workers)


if __name__ == "__main__":
    run_in_two_goes(1, Path(sys.argv[1]), int(sys.argv[2]))
