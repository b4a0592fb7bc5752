"""What a sweep does next: one queue over all fold groups, each with its search and its repeats. No Ray in here.

A group tries its trials on one seed, then runs the best one on the others. Everything is decided from the store, so
that a sweep that was killed goes on as if it had not been: trials are written before they run, a finished fold is never
handed out again, and suggestions are pure functions (`orchestrator.search.sampling`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from orchestrator.budgets.admission import Admission
from orchestrator.events import STATES, Counts
from orchestrator.scheduler.standings import GroupNeed, Standings
from orchestrator.search.group_search import GroupSearch
from orchestrator.search.pruning import Decision
from orchestrator.search.specs import FoldSpecs
from orchestrator.store.failures import Failure, read_failures
from orchestrator.store.fold_states import FoldStates
from orchestrator.store.leases import FoldLeases
from orchestrator.store.records import PlannedFold
from orchestrator.store.sweep_folder import SweepFolder
from search_spaces.fold_groups import FoldGroup
from search_spaces.hyperparameters import FoldSpec
from search_spaces.methods import method_facts
from trainables.storage.leases import Owner, clear_dead


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
        self.groups, self._states, self._store, self._only = groups, states, store, only
        self._admission = admission or Admission()
        self._by_name = {group.group.name: group for group in groups}
        self._standings = Standings(groups, need, only=only)
        for group in groups:
            group.permits_trial = self._permits_trial
        self._admission.resume(self._standings)
        self._aligning: dict[str, str] = {}

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
        return not any(map(self._has_work, self.admitted()))

    @property
    def running(self) -> frozenset[str]:
        """Keys of the folds that run here."""
        return frozenset(self._states.running)

    def refusals(self) -> list[str]:
        """Which budgets do not cover what is left, one line each."""
        return self._admission.refusals(
            (group.group.name for group in self.groups if not group.is_finished), self._standings
        )

    def to_check(self) -> Iterator[GroupSearch]:
        """Groups that are not finished and whose queries the budget lets be asked, now or later."""
        return (group for group in self._in_order() if self._admits(group, queries_only=True))

    def admitted(self) -> Iterator[GroupSearch]:
        """Groups that are not finished and that the budget lets run; those that were begun come first."""
        return (group for group in self._in_order() if self._admits(group))

    def next(self) -> Attempt | None:
        """The next fold to start, or None while the others have to report first.

        Groups with the fewest running folds come first, then those with the most left: no group is searched by
        guesswork while others wait, and none is left over at the end. Folds that share an Align stage which somebody
        runs right now stand back until it is there.
        """
        open_groups = [group for group in self.groups if not group.is_finished]
        for group in sorted(open_groups, key=lambda group: (group.num_running, -group.num_waiting)):
            if not self._admits(group):
                continue
            for number, planned in group.candidates(self._only):
                spec = group.spec(number, planned)
                if self._take(spec):
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
        self.close_budget()
        self.dropped(attempt)

    def close_budget(self) -> None:
        """Let nothing start any more that asks the teacher."""
        self._admission.close()

    def counts(self) -> Counts:
        counts = [group.counts() for group in self.groups]
        return Counts(**{name: sum(getattr(one, name) for one in counts) for name in STATES})

    def failures(self) -> Iterator[tuple[str, PlannedFold]]:
        """Failed folds with their group's name."""
        for group in self.groups:
            failed = {one.key: one for _, one in group.view.planned() if self._states.failed(one.key)}
            yield from ((group.group.name, planned) for planned in failed.values())

    def elsewhere(self) -> dict[str, Owner]:
        """Waiting folds that other sweeps on the store are at work on, with their owners."""
        keys = (planned.key for group in self.groups for _, planned in group.waiting())
        found = ((key, self._states.elsewhere(key)) for key in keys)
        return {key: owner for key, owner in found if owner is not None}

    def _has_work(self, group: GroupSearch) -> bool:
        if self._only is None:
            return self._permits_trial(group) or not group.is_idle
        return any(planned.key in self._only for _, planned in group.waiting())

    def _in_order(self) -> list[GroupSearch]:
        open_groups = (group for group in self.groups if not group.is_finished)
        return sorted(open_groups, key=lambda group: not group.is_started)

    def _ended(self, attempt: Attempt) -> None:
        """Let go of a fold's leases; an Align stage that is done needs none, whoever ran it."""
        self._changed(attempt.group, attempt.planned)
        self._states.leases.release(self._store.folds.fold(attempt.planned.key))
        align_key = self._aligning.pop(attempt.planned.key, None)
        if align_key is not None and align_key not in self._aligning.values():
            self._states.leases.release(self._store.folds.align(align_key))
        self._standings.look_again()
        self._admission.look_again()

    def _admits(self, group: GroupSearch, *, queries_only: bool = False) -> bool:
        return self._admission.admits(group.group.name, self._standings, queries_only=queries_only)

    def _permits_trial(self, group: GroupSearch) -> bool:
        return self._admission.permits_trial(group.group.name, self._standings)

    def _changed(self, name: str, planned: PlannedFold) -> None:
        """Have the fold's group counted anew; a pair fold may belong to several."""
        shared = len(planned.fold.test_domains) > 1
        for group in self.groups if shared else [self._by_name[name]]:
            group.changed()

    def _take(self, spec: FoldSpec) -> bool:
        """Hold a fold and the Align stage that it would run; False where somebody is at work on either."""
        if not self._align_is_free(spec) or not self._states.take(spec.key):
            return False
        if not method_facts(spec.method).aligns:
            return True
        align = self._store.folds.align(spec.align_key)
        if align.is_done:
            clear_dead(align.lease)
            clear_dead(align.worker)
            return True
        if self._states.leases.take(align):
            return True
        self._states.leases.release(self._store.folds.fold(spec.key))
        return False

    def _align_is_free(self, spec: FoldSpec) -> bool:
        if not method_facts(spec.method).aligns:
            return True
        return spec.align_key not in self._aligning.values() or self._store.folds.align(spec.align_key).is_done

    def _hand_out(self, group: str, number: int, planned: PlannedFold, spec: FoldSpec) -> Attempt:
        self._states.running.add(planned.key)
        self._changed(group, planned)
        if method_facts(spec.method).aligns:
            self._aligning[planned.key] = spec.align_key
        attempt = read_failures(self._store.folds.fold(planned.key)).spent + 1
        return Attempt(group=group, number=number, planned=planned, spec=spec, attempt=attempt)


def build_fold_queue(
    groups: Sequence[FoldGroup],
    *,
    specs: FoldSpecs,
    store: SweepFolder,
    max_failures: int = 1,
    retry_failed: bool = False,
    only: Collection[str] | None = None,
    admission: Admission | None = None,
    need: GroupNeed | None = None,
    leases: FoldLeases | None = None,
    repeatable: bool = False,
) -> FoldQueue:
    """Read the store and stand where it stands.

    Args:
        only: hand out the folds with these keys and no others.
        need: counts the groups' queries, where a budget or a price asks for that.
        leases: of this sweep; None makes them for this process.
        repeatable: let no suggestion depend on when other sweeps on the store finish a fold.
    """
    states = FoldStates(store, max_failures=max_failures, retry_failed=retry_failed, leases=leases)
    for key in only or ():
        # Before anything is decided: what is asked for is given back, be it run now or by the sweep itself.
        states.failed(key)
    agendas = [GroupSearch(group, specs=specs, store=store, states=states, repeatable=repeatable) for group in groups]
    return FoldQueue(agendas, states, store, admission, need=need, only=only)
