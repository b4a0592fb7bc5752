"""Leave-one-domain-out selection: which pair folds it needs, and the one place that opens what they held out.

To select for test domain t, every configuration is judged by folds that leave out t and one other domain s in turn: by
the accuracy on s, which is a source domain as far as t is concerned. A pair fold {s, t} serves both, so it has one file
per domain, and `held_out_accuracy` can only build the name of the file about the domain that is not selected for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from orchestrator.search.selection import HeldOutValidation, mean
from orchestrator.store.records import PlannedFold
from orchestrator.store.results import parse_held_out
from orchestrator.store.sweep_folder import SweepFolder
from search_spaces.fold_groups import FoldGroup
from search_spaces.folds import Fold
from search_spaces.hyperparameters import FoldSpec
from trainables.storage.finished_folds import stated_sha256


def pair_folds(spec: FoldSpec, pairs: Iterable[tuple[str, str]]) -> tuple[PlannedFold, ...]:
    """The pair folds of the configuration that a fold's specification is about, on the same seed."""
    return tuple(_like(spec, replace(spec.fold, test_domains=pair)) for pair in pairs)


def on_seeds(spec: FoldSpec, seeds: Iterable[int]) -> Iterator[PlannedFold]:
    """The same configuration and test domain on other seeds."""
    return (_like(spec, replace(spec.fold, seed=seed)) for seed in seeds)


def held_out_accuracy(store: SweepFolder, planned: PlannedFold, *, selecting_for: str) -> float | None:
    """Accuracy on the 80% part of a pair fold's other domain; None where the fold is not done, or failed.

    The file about the domain that is selected for cannot be named here.
    """
    (other,) = set(planned.fold.test_domains) - {selecting_for}
    folder = store.folds.fold(planned.key)
    _, result = store.folds.standing(planned.key, None)
    if result is None:
        return None
    file = folder.held_out(other)
    held_out = folder.read_held_out(other, sha256=stated_sha256(result.content, f"held_out/{file.name}"))
    return None if held_out is None else parse_held_out(held_out, file)


def held_out_validation(
    store: SweepFolder, number: int, folds: Sequence[PlannedFold], test_domains: Sequence[str]
) -> HeldOutValidation | None:
    """Judge a trial: for each test domain the mean over its pair folds, then the mean; None while one is missing.

    Args:
        store: Where the folds lie.
        number: The trial's number in its group.
        folds: The trial's pair folds.
        test_domains: The domains that a configuration is selected for: one, or all in scope `benchmark`.
    """
    means = []
    for domain in test_domains:
        own = [planned for planned in folds if domain in planned.fold.test_domains]
        found = [held_out_accuracy(store, planned, selecting_for=domain) for planned in own]
        known = [value for value in found if value is not None and math.isfinite(value)]
        if not own or len(known) < len(own):
            return None
        means.append(mean(known))
    return HeldOutValidation(number=number, accuracy=mean(means))


def held_out_scores(store: SweepFolder, group: FoldGroup) -> dict[int, float]:
    """What leave-one-domain-out selection judged the group's trials by: number to accuracy, whole ones only."""
    records = store.records.pairs(group.name)
    found = (held_out_validation(store, record.number, record.folds, group.test_domains) for record in records)
    return {score.number: score.accuracy for score in found if score is not None}


def _like(spec: FoldSpec, fold: Fold) -> PlannedFold:
    return PlannedFold(fold=fold, key=replace(spec, fold=fold).key)
