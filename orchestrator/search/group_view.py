"""What the folds of a group say: objectives, counts, the selected trial, what is missing. The one derivation of it.

The live search and every reader (status, explain, report, tracking) ask a `GroupView`: live with the states that the
scheduler keeps, else with those that the store shows (`read_group_view`). It writes nothing. Nothing here opens
`test.json`; the oracle, which does, is in `orchestrator.report.measurements`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from orchestrator.events import Counts
from orchestrator.plan.fold_groups import domain_pairs, has_selection
from orchestrator.search.leave_one_domain_out import held_out_validation, on_seeds, pair_folds
from orchestrator.search.sampling import TrialState
from orchestrator.search.selection import HeldOutValidation, SourceValidation, select
from orchestrator.store.fold_states import StoredStates
from orchestrator.store.records import PairRecord, PlannedFold, SelectedTrial, TrialRecord
from orchestrator.store.sweep_folder import SweepFolder
from search_spaces.fold_groups import FoldGroup
from search_spaces.hyperparameters import FoldSpec
from search_spaces.sweeps import SweepSelection


class States(Protocol):
    """The state of every fold, by key."""

    def objective(self, key: str) -> float | None:
        """Mean source validation accuracy of a finished fold; None while it is not finished, or failed."""

    def failed(self, key: str) -> bool:
        """No further attempt is made."""

    def pruned(self, key: str) -> bool:
        """Given up by this sweep, and finished by nobody else."""

    def settled(self, key: str) -> bool:
        """Done, failed or pruned."""

    def is_running(self, key: str) -> bool: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the trials that have ended come to."""

    number: int | None = None
    """The trial to select; None where pair folds are missing, or none can be judged."""
    pairs: tuple[tuple[int, PlannedFold], ...] = ()
    """Pair folds that are not settled, with the number of the trial that they judge."""


@dataclass(frozen=True, kw_only=True)
class GroupView:
    """One fold group at one moment."""

    group: FoldGroup
    domains: tuple[str, ...]
    """All domains of its benchmark."""
    selection: SweepSelection
    """What the sweep selects by; of no consequence where there is nothing to select."""
    trials: Sequence[TrialRecord]
    pairs: Mapping[int, PairRecord]
    """Pair folds that are written, by the number of their trial."""
    written: SelectedTrial | None
    """The selected trial as it was last written; `selected` is what still holds of it."""
    states: States
    spec: Callable[[str], FoldSpec | None]
    """What a fold was asked to compute, by its key."""
    judge: Callable[[int, Sequence[PlannedFold]], HeldOutValidation | None]
    """Judges a trial, by its number, from its pair folds."""

    @property
    def by_pairs(self) -> bool:
        """Whether trials are judged by pair folds."""
        return self.selection == "leave_one_domain_out" and has_selection(self.group.method, self.group.trials)

    @property
    def num_pairs(self) -> int:
        """Pair folds of one trial."""
        return len(domain_pairs(self.group.test_domains, self.domains)) if self.by_pairs else 0

    def state(self, trial: TrialRecord) -> TrialState:
        """One failed fold fails a trial; one that was pruned makes it pruned, unless its result is there."""
        if self.has_failed(trial):
            return "failed"
        keys = [planned.key for planned in trial.folds]
        if all(self.states.objective(key) is not None for key in keys):
            return "complete"
        return "pruned" if any(map(self.states.pruned, keys)) else "running"

    def objective(self, trial: TrialRecord) -> float | None:
        """Mean source validation accuracy over a complete trial's folds, a fraction; None for any other."""
        if self.has_failed(trial):
            return None
        values = [self.states.objective(planned.key) for planned in trial.folds]
        known = [value for value in values if value is not None]
        return math.fsum(known) / len(known) if len(known) == len(values) else None

    def has_failed(self, trial: TrialRecord) -> bool:
        return any(self.states.failed(planned.key) for planned in trial.folds)

    def is_settled(self, trial: TrialRecord) -> bool:
        """Nothing of the trial waits or runs."""
        return all(self.states.settled(planned.key) for planned in trial.folds)

    @property
    def objectives(self) -> dict[int, float]:
        """Of the complete trials, by number."""
        found = ((trial.number, self.objective(trial)) for trial in self.trials)
        return {number: value for number, value in found if value is not None}

    @property
    def selected(self) -> SelectedTrial | None:
        """The selected trial, while that holds: not once a further trial began, or one that had failed is retried."""
        found = self.written
        if found is None or found.trials not in (0, len(self.trials)):
            return None
        return found if found.stands(lambda number: self.has_failed(self.trials[number])) else None

    @property
    def best(self) -> int | None:
        """Number of the selected trial; before one is, of the best complete one so far."""
        objectives, selected = self.objectives, self.selected
        if selected is not None and selected.number in objectives:
            return selected.number
        return max(objectives, key=lambda number: (objectives[number], number), default=None)

    def pair_folds_of(self, trial: TrialRecord) -> tuple[PlannedFold, ...]:
        """The pair folds that judge a trial, whether anybody wrote them or not."""
        if trial.number in self.pairs:
            return self.pairs[trial.number].folds
        spec = self.spec(trial.folds[0].key)
        return () if spec is None else pair_folds(spec, domain_pairs(self.group.test_domains, self.domains))

    def verdict(self) -> Verdict:
        """Judge the complete trials."""
        objectives = self.objectives
        complete = [trial for trial in self.trials if trial.number in objectives]
        if not self.by_pairs or len(complete) < 2:
            judged = [SourceValidation(number=number, accuracy=value) for number, value in objectives.items()]
            return Verdict(number=select(judged).number if judged else None)
        folds = {trial.number: self.pair_folds_of(trial) for trial in complete}
        missing = [(number, one) for number, own in folds.items() for one in own if not self.states.settled(one.key)]
        if missing:
            return Verdict(pairs=tuple(missing))
        scores = [score for number, own in folds.items() if (score := self.judge(number, own)) is not None]
        return Verdict(number=select(scores).number if scores else None)

    @property
    def is_hopeless(self) -> bool:
        """Everything has ended and there is nothing to select: none of several trials is whole."""
        several = self.group.trials > 1 and len(self.trials) == self.group.trials
        if not several or self.selected is not None or not all(map(self.is_settled, self.trials)):
            return False
        whole = self.objectives
        return not whole or self.pairs_in_vain

    @property
    def pairs_in_vain(self) -> bool:
        """Every pair fold has ended, and no complete trial has all of its own."""
        folds = [self.pairs[number].folds for number in self.objectives if number in self.pairs]
        if not folds or not all(self.states.settled(planned.key) for own in folds for planned in own):
            return False
        return all(any(self.states.failed(planned.key) for planned in own) for own in folds)

    @property
    def is_finished(self) -> bool:
        """Nothing is left to run, and nothing runs."""
        if len(self.trials) < self.group.trials or not all(map(self.is_settled, self.trials)):
            return False
        selected = self.selected
        if selected is None:
            return self.is_hopeless
        return all(self.states.settled(planned.key) for planned in selected.folds)

    def planned(self) -> Iterator[tuple[int, PlannedFold]]:
        """Every fold that is written and still wanted, with its trial's number; one that two trials share comes twice.

        The further seeds of a selected trial that no longer holds, and the pair folds of another selection, are left
        as they are.
        """
        for trial in self.trials:
            yield from ((trial.number, planned) for planned in trial.folds)
        if self.by_pairs:
            for number in sorted(self.pairs):
                yield from ((number, planned) for planned in self.pairs[number].folds)
        selected = self.selected
        if selected is not None:
            own = {planned.key for planned in self.trials[selected.number].folds}
            yield from ((selected.number, planned) for planned in selected.folds if planned.key not in own)

    def counts(self) -> Counts:
        """The folds by state, those of trials that are still to come among the waiting ones."""
        keys = [planned.key for _, planned in self.planned()]
        done = sum(self.states.objective(key) is not None for key in keys)
        failed = sum(map(self.states.failed, keys))
        running = sum(map(self.states.is_running, keys))
        pruned = sum(self.states.pruned(key) and not self.states.is_running(key) for key in keys)
        expected = self.group.num_folds
        if self.by_pairs:
            written = sum(len(record.folds) for record in self.pairs.values())
            expected += written or self.group.trials * self.num_pairs
        planned = len(keys) if self.is_finished else max(expected, len(keys))
        waiting = planned - done - failed - running - pruned
        return Counts(done=done, failed=failed, running=running, pruned=pruned, waiting=waiting)

    def on_all_seeds(self, number: int) -> tuple[PlannedFold, ...]:
        """A trial's folds on every seed, as they are asked once it is selected."""
        return tuple(self._on_all_seeds(self.trials[number]))

    def _on_all_seeds(self, trial: TrialRecord) -> Iterator[PlannedFold]:
        for planned in trial.folds:
            yield planned
            spec = self.spec(planned.key)
            if spec is not None:
                yield from on_seeds(spec, self.group.all_seeds[1:])


def read_group_view(
    store: SweepFolder,
    group: FoldGroup,
    *,
    selection: SweepSelection | None = None,
    states: States | None = None,
) -> GroupView:
    """A group as its sweep's folder shows it.

    Args:
        store: what is read.
        group: the fold group.
        selection: None is what the sweep was last asked to select by.
        states: None reads them; give one object where several groups are looked at.
    """
    if selection is None:
        selection = store.existing_sweep().selection
    records = store.records
    view = GroupView(
        group=group,
        domains=planned_domains(store.groups(), group.benchmark),
        selection=selection,
        trials=records.trials(group.name),
        pairs={},
        written=None,
        states=StoredStates(store.folds) if states is None else states,
        spec=store.folds.spec,
        judge=lambda number, folds: held_out_validation(store, number, folds, group.test_domains),
    )
    effective: SweepSelection = "leave_one_domain_out" if view.by_pairs else "source_validation"
    written = records.selected(group.name, effective)
    pairs = {record.number: record for record in records.pairs(group.name)} if view.by_pairs else {}
    return replace(view, pairs=pairs, written=written)


def planned_domains(groups: Sequence[FoldGroup], benchmark: str) -> tuple[str, ...]:
    """Test domains of a benchmark, in byte order."""
    names = {name for group in groups if group.benchmark == benchmark for name in group.test_domains}
    return tuple(sorted(names, key=str.encode))
