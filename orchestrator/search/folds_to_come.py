"""What a fold group will still run, as budgets and the preflight ask: counts of folds, and what these compute."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.plan.fold_groups import domain_pairs
from orchestrator.search.group_search import GroupSearch
from search_spaces.folds import Fold
from search_spaces.hyperparameters import FoldSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class FoldsLeft:
    """Folds of a group that are not settled, running ones among them."""

    whole: int
    """Those of trials that are still to come too."""
    to_finish: int
    """Those if no further trial begins."""
    first: int
    """Those if no trial begins but the first: a group that begins is given at least these."""
    with_another_trial: int
    """Those if one more trial begins, a new selection after an early one among them."""


def folds_left(group: GroupSearch) -> FoldsLeft:
    """Count the folds that a group has left."""
    counts, view = group.counts(), group.view
    test_domains = len(group.group.test_domains)
    per_trial = test_domains + (0 if view.pairs else view.num_pairs)
    whole = counts.waiting + counts.running
    to_finish = max(0, whole - (group.group.trials - len(view.trials)) * per_trial)
    again = 0 if view.selected is None else (group.group.seeds - 1) * test_domains
    return FoldsLeft(
        whole=whole,
        to_finish=to_finish,
        first=to_finish + (0 if group.is_started else per_trial),
        with_another_trial=to_finish + per_trial + again,
    )


def running_keys(group: GroupSearch) -> set[str]:
    """The group's folds that run."""
    return {planned.key for _, planned in group.view.planned() if group.states.is_running(planned.key)}


def seconds_taken(group: GroupSearch) -> list[float]:
    """Seconds that each finished fold of the group took."""
    found = {planned.key: group.states.seconds(planned.key) for _, planned in group.view.planned()}
    return [seconds for seconds in found.values() if seconds is not None]


def first_specs(group: GroupSearch) -> Iterator[FoldSpec]:
    """What the group's first folds compute, one for each test domain: the sweep's own point."""
    point, record = group.point(0, ()), group.group
    for domain in record.test_domains:
        fold = Fold(benchmark=record.benchmark, test_domains=(domain,), seed=record.all_seeds[0])
        yield group.specs.spec(record, point, fold)


def unsettled_specs(group: GroupSearch) -> Iterator[FoldSpec]:
    """What the folds compute that are written and neither done nor failed."""
    for number, planned in group.view.planned():
        if not group.states.settled(planned.key):
            yield group.spec(number, planned)


def num_unwritten(group: GroupSearch, further: int | None = None) -> int:
    """Folds that will be written for each test domain, by further trials (None for all) and by the further seeds."""
    left = group.group.trials - len(group.view.trials)
    unwritten = left if further is None else min(left, further)
    return unwritten + (group.group.seeds - 1 if group.view.selected is None or unwritten else 0)


def unwritten_pairs(group: GroupSearch) -> Iterator[tuple[FoldSpec, bool]]:
    """The first trial's pair folds while none is written, and whether each is settled already by another group."""
    view, record = group.view, group.group
    if view.by_pairs and not view.pairs and view.selected is None:
        point = group.point(0, ())
        for pair in domain_pairs(record.test_domains, view.domains):
            fold = Fold(benchmark=record.benchmark, test_domains=pair, seed=record.all_seeds[0])
            spec = group.specs.spec(record, point, fold)
            yield spec, group.states.settled(spec.key)
