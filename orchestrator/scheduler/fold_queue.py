"""What a sweep does next: one queue over all fold groups, each with its search and its repeats. No Ray in here.

A group tries its trials on one seed, then runs the best one on the others. Everything is decided from the store, so
that a killed sweep resumes as if it had not been killed: trials are written before they run, a finished fold is never
handed out again, and suggestions are pure functions (`orchestrator.search.sampling`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from orchestrator.budgets.admission import Admission
from orchestrator.events import STATES, Counts
from orchestrator.scheduler.fold_holds import FoldHolds
from orchestrator.scheduler.open_groups import OpenGroups
from orchestrator.scheduler.standings import GroupNeed
from orchestrator.search.group_search import GroupSearch
from orchestrator.search.pruning import Decision
from orchestrator.search.specs import FoldSpecs
from orchestrator.store.failures import Failure, read_failures
from orchestrator.store.fold_states import FoldStates
from orchestrator.store.records import PlannedFold
from orchestrator.store.sweep_folder import SweepFolder
from search_spaces.fold_groups import FoldGroup
from search_spaces.hyperparameters import FoldSpec
from trainables.storage.leases import Owner


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One attempt at one fold, handed out by the queue."""

    group: str
    number: int
    """The trial's number in its group."""
    planned: PlannedFold
    spec: FoldSpec
    attempt: int


class FoldQueue:
    """All groups behind one queue."""

    def __init__(
        self,
        groups: Sequence[GroupSearch],
        states: FoldStates,
        store: SweepFolder,
        admission: Admission | None = None,
        *,
        need: GroupNeed | None = None,
        only: Collection[str] | None = None,
    ) -> None:
        self.groups, self._states, self._folds, self._only = groups, states, store.folds, only
        self.open = OpenGroups(groups, admission or Admission(), need=need, only=only)
        self._by_name = {group.group.name: group for group in groups}
        self._holds = FoldHolds(states, store.folds)

    @property
    def is_finished(self) -> bool:
        if self._only is not None:
            # A fold that is no longer planned is not waited for: a new selection may need others.
            return not self._states.running and not any(map(self._has_work, self.groups))
        return all(group.is_finished for group in self.groups)

    @property
    def is_out_of_budget(self) -> bool:
        """Something is left to run, and none of it may start, now or later."""
        if self._states.running or self.is_finished:
            return False
        return not any(map(self._has_work, self.open.admitted()))

    @property
    def running(self) -> frozenset[str]:
        """Keys of the folds that run here."""
        return frozenset(self._states.running)

    def next(self) -> Attempt | None:
        """The next fold to start, or None while the others have to report first.

        Groups with the fewest running folds come first, then those with the most left: no group is searched by
        guesswork while others wait, and none is left over at the end. Folds that share an Align stage which somebody
        runs right now stand back until it is there.
        """
        open_groups = [group for group in self.groups if not group.is_finished]
        for group in sorted(open_groups, key=lambda group: (group.num_running, -group.num_waiting)):
            if not self.open.admits(group):
                continue
            for number, planned in group.candidates(self._only):
                spec = group.spec(number, planned)
                if self._holds.take(spec):
                    return self._hand_out(group.group.name, number, planned, spec)
                group.changed()
        return None

    def finished(self, attempt: Attempt) -> bool:
        """A fold ended by itself; False where it left no result that can be compared."""
        comparable = self._states.finish(attempt.planned.key)
        self._ended(attempt)
        return comparable

    def failed(self, attempt: Attempt, failure: Failure) -> bool:
        """An attempt failed; True where another one follows."""
        again = self._states.fail(attempt.planned.key, failure)
        self._ended(attempt)
        return again

    def reported(self, attempt: Attempt) -> Decision | None:
        """A running fold has evaluated: why it is to be stopped, if it is; it is then never handed out again."""
        return self._by_name[attempt.group].reported(attempt.number, attempt.planned)

    def pruned(self, attempt: Attempt) -> None:
        """A fold was stopped early by a decision of the pruner."""
        self._states.running.discard(attempt.planned.key)
        self._ended(attempt)

    def workers_ended(self) -> None:
        """No worker is left: what those of pruned folds still made counts now, as it will for the next command."""
        self._states.look_at_pruned()
        for group in self.groups:
            group.changed()

    def dropped(self, attempt: Attempt) -> None:
        """A fold was stopped from outside: it waits again, and nothing counts."""
        self._states.running.discard(attempt.planned.key)
        self._ended(attempt)

    def met_budget(self, attempt: Attempt) -> None:
        """A fold was not allowed its next query: it waits for a larger budget, and nothing counts."""
        self.open.close()
        self.dropped(attempt)

    def counts(self) -> Counts:
        counts = [group.counts() for group in self.groups]
        return Counts(**{name: sum(getattr(one, name) for one in counts) for name in STATES})

    def failures(self) -> Iterator[tuple[str, PlannedFold]]:
        """Failed folds with their group's name."""
        for group in self.groups:
            failed = {one.key: one for _, one in group.view.planned() if self._states.failed(one.key)}
            yield from ((group.group.name, planned) for planned in failed.values())

    def elsewhere(self) -> dict[str, Owner]:
        """Waiting folds that other sweeps on the store run, with their owners."""
        keys = (planned.key for group in self.groups for _, planned in group.waiting())
        found = ((key, self._states.elsewhere(key)) for key in keys)
        return {key: owner for key, owner in found if owner is not None}

    def _has_work(self, group: GroupSearch) -> bool:
        if self._only is None:
            return self.open.permits_trial(group) or not group.is_idle
        return any(planned.key in self._only for _, planned in group.waiting())

    def _ended(self, attempt: Attempt) -> None:
        self._changed(attempt.group, attempt.planned)
        self._holds.release(attempt.planned.key)
        self.open.look_again()

    def _changed(self, name: str, planned: PlannedFold) -> None:
        """Have the fold's group counted again; a pair fold may belong to several."""
        shared = len(planned.fold.test_domains) > 1
        for group in self.groups if shared else [self._by_name[name]]:
            group.changed()

    def _hand_out(self, group: str, number: int, planned: PlannedFold, spec: FoldSpec) -> Attempt:
        self._holds.starts(spec)
        self._changed(group, planned)
        attempt = read_failures(self._folds.fold(planned.key)).spent + 1
        return Attempt(group=group, number=number, planned=planned, spec=spec, attempt=attempt)


def build_fold_queue(
    groups: Sequence[FoldGroup],
    *,
    specs: FoldSpecs,
    store: SweepFolder,
    states: FoldStates | None = None,
    only: Collection[str] | None = None,
    admission: Admission | None = None,
    need: GroupNeed | None = None,
    repeatable: bool = False,
) -> FoldQueue:
    """Read the store and stand where it stands.

    Args:
        states: of the store's folds, with this sweep's leases; None makes them for this process.
        only: hand out the folds with these keys and no others.
        need: counts the groups' queries, where a budget or a price asks for that.
        repeatable: let no suggestion depend on when other sweeps on the store finish a fold.
    """
    states = states or FoldStates(store)
    for key in only or ():
        # Before anything is decided: what is asked for is given back, be it run now or by the sweep itself.
        states.failed(key)
    searches = [GroupSearch(group, specs=specs, store=store, states=states, repeatable=repeatable) for group in groups]
    return FoldQueue(searches, states, store, admission, need=need, only=only)
