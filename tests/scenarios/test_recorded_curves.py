"""Pruning on recorded real folds, against the full grid."""

from __future__ import annotations

from statistics import fmean

import pytest

from search_spaces.sweeps import Pruner
from tests.support.pruned_searches import between_folds, inside_folds


@pytest.mark.parametrize(("pruner", "saved", "regret"), [("median", 0.2, 0.005), ("asha", 0.45, 0.015)])
def test_folds_saved_and_regret_inside_folds(pruner: Pruner, saved: float, regret: float) -> None:
    found = inside_folds(pruner)
    assert found.saved > saved
    assert fmean(found.regrets) < regret


def test_folds_saved_and_regret_between_folds() -> None:
    found = between_folds()
    assert found.saved > 0.2
    assert max(found.regrets) == 0.0


def test_no_pruner_saves_nothing() -> None:
    found = inside_folds("none")
    assert (found.saved, max(found.regrets)) == (0.0, 0.0)
