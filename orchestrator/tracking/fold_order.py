"""The order in which a sweep's finished folds were first seen: what is drawn over folds keeps the places it once gave.

Their times do not tell it: an older fold of another sweep may join, and the clocks of two machines differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from orchestrator.store.results import FoldResult
from orchestrator.store.sweep_folder import SweepFolder


def in_order_of_arrival(store: SweepFolder, found: Mapping[str, Mapping[str, FoldResult]]) -> list[tuple[str, str]]:
    """Every finished fold that was ever seen, as (group, key); those that are seen for the first time are noted.

    Args:
        store: whose folds they are.
        found: results by key, by fold group.
    """
    known = store.records.arrivals()
    seen = set(known)
    new = [
        (result.finished, group, key)
        for group, results in found.items()
        for key, result in results.items()
        if (group, key) not in seen
    ]
    arrived = [(group, key) for _, group, key in sorted(new)]
    # A store that can only be read is a copy, in which nothing more arrives.
    with suppress(OSError):
        store.records.note_arrivals(arrived)
    return [*known, *arrived]
