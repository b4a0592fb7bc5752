"""Which images and views a step shows, pinned: other numbers are another trainer version."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from trainables.data.loading.view_seeds import live_view_seed, step_choices, stored_view, stored_view_seed


def test_choices_are_pinned() -> None:
    assert step_choices(5, "distill", 2, 7, 11, 6).tolist() == [8, 3, 4, 3, 2, 2]
    assert step_choices(5, "distill", 2, 7, 11, 6).dtype == np.int64
    assert step_choices(5, "distill", 2, 7, 1, 3).tolist() == [0, 0, 0]


def test_view_seeds_are_pinned() -> None:
    assert live_view_seed(5, "distill", 7, 2, 3) == 949330522
    assert stored_view_seed("art/dog/a.png", 3) == 1068852855
    assert [stored_view(5, "distill", 7, 2, position, 3) for position in range(6)] == [2, 2, 2, 1, 1, 0]


@pytest.mark.parametrize("seed_of", [lambda n: live_view_seed(1, "align", n, 0, 0), lambda n: stored_view_seed("a", n)])
def test_seeds_cover_31_bits(seed_of: Callable[[int], int]) -> None:
    seeds = [seed_of(number) for number in range(400)]
    assert 0 <= min(seeds) < 2**31 / 50
    assert 2**31 > max(seeds) > 2**31 * 49 / 50
    assert len(set(seeds)) == 400


def test_every_argument_matters_in_its_place() -> None:
    places = [(1, "align", 2, 3, 4), (2, "align", 1, 3, 4), (1, "align", 3, 2, 4), (1, "align", 2, 4, 3)]
    places += [(1, "distill", 2, 3, 4), (1, "align", 2, 3, 5)]
    seeds = sorted(live_view_seed(*place) for place in places)
    assert all(first < second for first, second in pairwise(seeds))
    assert stored_view_seed("a", 0) != stored_view_seed("b", 0) != stored_view_seed("a", 1)
