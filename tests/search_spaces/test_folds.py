"""Folds: what one leaves out, in which order a sweep makes them, and what is none."""

from __future__ import annotations

from typing import Any

import pytest

from search_spaces.benchmarks import Benchmark, Domain
from search_spaces.folds import Fold, leave_one_domain_out, leave_two_domains_out

THREE = Benchmark(
    name="Three", folder="three", domains=tuple(Domain(name=name, letter=name) for name in "BXa"), class_names=()
)


def test_every_domain_is_left_out_once_per_seed_and_domains_vary_slowest() -> None:
    assert [str(fold) for fold in leave_one_domain_out(THREE, iter((0, 7)))] == [
        "Three/B/seed0", "Three/B/seed7", "Three/X/seed0", "Three/X/seed7", "Three/a/seed0", "Three/a/seed7",
    ]  # fmt: skip


def test_every_pair_is_left_out_once_per_seed() -> None:
    assert [str(fold) for fold in leave_two_domains_out(THREE, iter((0, 7)))] == [
        "Three/B+X/seed0", "Three/B+X/seed7", "Three/B+a/seed0", "Three/B+a/seed7",
        "Three/X+a/seed0", "Three/X+a/seed7",
    ]  # fmt: skip


def test_a_fold_says_what_it_leaves_out() -> None:
    fold = Fold(benchmark="Three", test_domains=("B", "a"), seed=2)
    assert fold.test_domain == "B"
    assert sorted([fold, Fold(benchmark="Three", test_domains=("B",), seed=9)])[1] == fold


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_domains": ()}, "at least one domain"),
        ({"test_domains": ("a", "B")}, "byte order"),
        ({"seed": -1}, "a seed is 0 or more, got -1"),
    ],
)
def test_what_is_no_fold_is_refused(changes: dict[str, Any], message: str) -> None:
    values = {"benchmark": "Three", "test_domains": ("B",), "seed": 0}
    Fold(**values)
    with pytest.raises(ValueError, match=message):
        Fold(**(values | changes))
