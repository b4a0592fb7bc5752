"""From what a user types to one fold, or one trial, of a sweep: a key's beginning, or a readable name.

1a2b3c4d                         a key's first characters, six or more
icons/line/seed0                 benchmark, test domain and seed, as commands print them
icons/erm/line/seed0/trial2      with as much more as tells it apart; the order after the benchmark is free
icons/erm/line/trial2            a trial: no seed, and a number
icons/erm/*/seed1/trial2         a trial of all test domains, of a search per seed
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Literal

from orchestrator.store.records import PlannedFold, SelectedTrial, TrialRecord
from orchestrator.store.sweep_folder import SweepFolder
from search_spaces.errors import UserError
from search_spaces.fold_groups import FoldGroup
from search_spaces.folds import Fold

SHORTEST_KEY = 6
"""Characters of a key that are enough, where they are unique."""
SHOWN_KEY = 12
"""Characters of a key that commands print."""
LISTED = 12
"""Candidates that an error names."""
HOW = "a key's first 6 or more characters, or BENCHMARK/DOMAIN/seedN with /METHOD and /trialN where several match"


@dataclass(frozen=True, kw_only=True, slots=True)
class Use:
    """What a fold is to one fold group."""

    group: str
    number: int
    """The trial's number."""
    purpose: Literal["trial", "repeat", "selection"] = "trial"
    """It tries a configuration; repeats the selected one on a further seed; or was asked for by leave-one-domain-out
    selection."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownFold:
    """A fold of a sweep, and all that it is needed for."""

    key: str
    fold: Fold
    method: str
    uses: tuple[Use, ...] = ()
    """Empty for a fold outside a search (`train`)."""

    @property
    def name(self) -> str:
        """`icons/line/seed0/erm/trial2`."""
        numbers = sorted({use.number for use in self.uses})
        return "/".join([str(self.fold), self.method, *(f"trial{number}" for number in numbers[:1])])

    @property
    def label(self) -> str:
        """The key's beginning and the name."""
        return f"{self.key[:SHOWN_KEY]} ({self.name})"


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownFolds:
    """Every fold and trial that a folder knows."""

    store: SweepFolder
    folds: tuple[KnownFold, ...]
    groups: Mapping[str, FoldGroup] = field(default_factory=dict)
    trials: tuple[TrialRecord, ...] = ()
    selected: Mapping[str, SelectedTrial] = field(default_factory=dict)

    def fold(self, text: str) -> KnownFold:
        """The fold that a text names.

        Raises:
            UserError: none, or several; names the nearest, or all that match.
        """
        found = self._matching(text)
        if len(found) == 1:
            return found[0]
        if not found:
            raise self._unknown(text, [known.name for known in self.folds])
        raise _ambiguous("folds", text, [known.label for known in found])

    def trial(self, text: str) -> TrialRecord | None:
        """The trial that a text names; None for a text that names a fold (or nothing).

        Raises:
            UserError: several trials match.
        """
        parts = _parts(text)
        if _number(parts) is None or (any(_seed(part) is not None for part in parts) and "*" not in parts):
            return None
        found = [trial for trial in self.trials if self._names_trial(parts, trial)]
        if len(found) > 1:
            raise _ambiguous("trials", text, [trial_name(trial.group, trial.number) for trial in found])
        if not found:
            raise self._unknown(text, [trial_name(trial.group, trial.number) for trial in self.trials])
        return found[0]

    def _names_trial(self, parts: Sequence[str], trial: TrialRecord) -> bool:
        group = self.groups[trial.group]
        words = {group.method, "*", *group.test_domains, f"trial{trial.number}"}
        words |= set() if group.own_seed is None else {f"seed{group.own_seed}"}
        return parts[0].lower() == group.benchmark.lower() and set(parts[1:]) <= words

    def _matching(self, text: str) -> list[KnownFold]:
        if _is_key(text):
            return [known for known in self.folds if known.key.startswith(text.lower())]
        parts = _parts(text)
        return [known for known in self.folds if _names_fold(parts, known)]

    def _unknown(self, text: str, names: Iterable[str]) -> UserError:
        names = list(dict.fromkeys(names))
        if not names and self.folds:
            return UserError(f"{self.store.where} holds folds and no trial; give the --out of a sweep")
        if not names:
            return UserError(f"{self.store.where} holds no fold yet; give the --out of a sweep or of `train`")
        words = {word.lower() for word in _parts(text)}
        named = [name for name in names if words <= set(re.split(r"[/+]", name.lower()))]
        nearest = named[:3] or get_close_matches(text, names, n=3, cutoff=0.4) or names[:3]
        return UserError(f"no fold {text!r} in {self.store.where}; nearest: {', '.join(nearest)}; give {HOW}")


def known_folds(store: SweepFolder) -> KnownFolds:
    """Read every fold that a sweep planned so far; without a sweep, every fold in the folder.

    Raises:
        UserError: the folder holds neither.
    """
    if store.sweep() is None:
        return KnownFolds(store=store, folds=tuple(_folds_alone(store)))
    uses: dict[str, tuple[PlannedFold, str, list[Use]]] = {}
    groups = {group.name: group for group in store.groups()}
    trials, selected = [], {}
    for group in groups.values():
        trials += store.records.trials(group.name)
        found = store.selected(group.name)
        if found is not None:
            selected[group.name] = found
        for planned, use in _uses(store, group, found):
            entry = uses.setdefault(planned.key, (planned, group.method, []))
            if (use.group, use.number) not in {(known.group, known.number) for known in entry[2]}:
                entry[2].append(use)
    folds = tuple(
        KnownFold(key=key, fold=planned.fold, method=method, uses=tuple(found))
        for key, (planned, method, found) in uses.items()
    )
    return KnownFolds(store=store, folds=folds, groups=groups, trials=tuple(trials), selected=selected)


def _uses(store: SweepFolder, group: FoldGroup, selected: SelectedTrial | None) -> Iterator[tuple[PlannedFold, Use]]:
    for trial in store.records.trials(group.name):
        for planned in trial.folds:
            yield planned, Use(group=group.name, number=trial.number)
    if selected is not None:
        for planned in selected.folds:
            yield planned, Use(group=group.name, number=selected.number, purpose="repeat")
    for number, planned in store.records.left_out_folds(group.name):
        yield planned, Use(group=group.name, number=number, purpose="selection")


def trial_name(group: str, number: int) -> str:
    """`icons/erm/line/trial2`."""
    return f"{group}/trial{number}"


def _folds_alone(store: SweepFolder) -> Iterator[KnownFold]:
    for file in sorted(store.folds.fold("").path.glob("*/spec.json")):
        spec = store.folds.spec(file.parent.name)
        if spec is not None:
            yield KnownFold(key=spec.key, fold=spec.fold, method=spec.method)


def _parts(text: str) -> list[str]:
    return [part for part in text.strip("/").split("/") if part] or [""]


def _is_key(text: str) -> bool:
    return re.fullmatch(rf"[0-9a-fA-F]{{{SHORTEST_KEY},64}}", text) is not None


def _seed(part: str) -> int | None:
    found = re.fullmatch(r"seed(\d+)", part)
    return int(found[1]) if found else None


def _number(parts: Sequence[str]) -> int | None:
    numbers = [int(found[1]) for part in parts if (found := re.fullmatch(r"trial(\d+)", part))]
    return numbers[0] if numbers else None


def _names_fold(parts: Sequence[str], known: KnownFold) -> bool:
    if len(parts) < 2 or parts[0].lower() != known.fold.benchmark.lower():
        return False
    words = {"+".join(known.fold.test_domains), f"seed{known.fold.seed}", known.method}
    return set(parts[1:]) <= words | {f"trial{use.number}" for use in known.uses}


def _ambiguous(kind: str, text: str, candidates: Sequence[str]) -> UserError:
    more = f" and {len(candidates) - LISTED} more" if len(candidates) > LISTED else ""
    return UserError(f"{len(candidates)} {kind} match {text!r}: {', '.join(candidates[:LISTED])}{more}; give {HOW}")
