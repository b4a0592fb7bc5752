"""What a model selection makes of a fold group: the selected trial's folds on every seed, and which are missing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import get_args

from orchestrator.search.group_view import GroupView, read_group_view
from orchestrator.store.records import PlannedFold
from orchestrator.store.sweep_folder import SweepFolder
from search_spaces.fold_groups import FoldGroup
from search_spaces.folds import Fold
from search_spaces.sweeps import SweepSelection


@dataclass(frozen=True, kw_only=True, slots=True)
class MissingFolds:
    """Folds that a selection needs and the store lacks."""

    group: str
    trials: int = 0
    """Configurations that are not tried yet, or not to the end."""
    pairs: tuple[tuple[int, Fold], ...] = ()
    """Pair folds, with the number of the trial that they judge."""
    seeds: tuple[tuple[int, Fold], ...] = ()
    """Folds of the selected trial, with its number."""

    def __bool__(self) -> bool:
        return bool(self.trials or self.pairs or self.seeds)


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectionOutcome:
    """What a selection makes of one fold group."""

    number: int | None = None
    """The selected trial; None while folds are missing, or where none could be judged."""
    folds: tuple[PlannedFold, ...] = ()
    """That trial's folds on every seed, done or not."""
    trials: int = 0
    """Of how many trials it was selected, where a budget ended the search; 0 for all."""
    missing: MissingFolds


def selection_outcome(view: GroupView) -> SelectionOutcome:
    """Select as a sweep does; what a sweep wrote down before stands."""
    name, selected = view.group.name, view.selected
    if selected is not None:
        return replace(_outcome(view, selected.number, selected.folds), trials=selected.trials)
    untried = view.group.trials - sum(map(view.is_settled, view.trials))
    if untried:
        return SelectionOutcome(missing=MissingFolds(group=name, trials=untried))
    verdict = view.verdict()
    pairs = tuple((number, planned.fold) for number, planned in verdict.pairs)
    if pairs or verdict.number is None:
        return SelectionOutcome(missing=MissingFolds(group=name, pairs=pairs))
    return _outcome(view, verdict.number, view.on_all_seeds(verdict.number))


def outcome_of_trial(store: SweepFolder, group: FoldGroup, number: int) -> SelectionOutcome:
    """A trial's folds on every seed, as a selection that took it would have them run, and those that were not."""
    view = read_group_view(store, group)
    for selection in get_args(SweepSelection):
        written = store.records.selected(group.name, selection)
        if written is not None and written.number == number:
            return _outcome(view, number, written.folds)
    return _outcome(view, number, view.on_all_seeds(number))


def _outcome(view: GroupView, number: int, folds: tuple[PlannedFold, ...]) -> SelectionOutcome:
    waiting = tuple((number, planned.fold) for planned in folds if not view.states.settled(planned.key))
    return SelectionOutcome(number=number, folds=folds, missing=MissingFolds(group=view.group.name, seeds=waiting))
