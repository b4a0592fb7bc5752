"""The trainer's numbers of one tiny fold, pinned: when they move, `TRAINER_VERSION` must.

A fold's key holds the version, so that results of an older trainer are never taken for those of a newer one.
"""

from __future__ import annotations

import pytest

from search_spaces.hyperparameters import TRAINER_VERSION
from tests.support.small_folds import MakeJob, losses, run_small_fold

PINNED_VERSION = "1"
PINNED_LOSSES = [
    -0.0759140, -0.2158686, -0.3421620, -0.4502414, -0.5374664,  # align
    -0.5902911, -0.6608194, -0.6997311, -0.7261684, -0.7567716, -0.7727827, -0.7811623, -0.7884548, -0.7916301,
]  # fmt: skip
PINNED_CROSS_ENTROPY = 1.9067616


def test_numbers_and_version_move_together(make_job: MakeJob) -> None:
    job = make_job("vl2v_adip")
    result = run_small_fold(job)
    found = [loss for _, _, loss, _ in losses(job)]
    same = found == pytest.approx(PINNED_LOSSES, abs=1e-5) and result["source_validation"][
        "cross_entropy"
    ] == pytest.approx(PINNED_CROSS_ENTROPY, rel=1e-4)
    assert same, (
        "the trainer computes other numbers: raise TRAINER_VERSION and pin "
        f"{[round(loss, 7) for loss in found]}, {result['source_validation']['cross_entropy']!r}"
    )
    assert TRAINER_VERSION == PINNED_VERSION
