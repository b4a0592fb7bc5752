"""What a sweep does next: one queue over all fold groups, each with its search and its confirmation. No Ray in here.

A group tries its trials on seed 0, then runs the best one on the other seeds. Everything is decided from the store, so
that a sweep that was killed goes on as if it had not been: trials are written before they run, a finished fold is never
handed out again, and suggestions are pure functions (`orchestrator.studies`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.attempts import RETRYABLE, Attempt, allow_again, give_up, read_attempts, record_attempt
from orchestrator.budget import Admission
from orchestrator.progress import Counts
from orchestrator.selection import SourceValidation, select
from orchestrator.specs import FoldSpecs
from orchestrator.store import ConfirmationRecord, GroupRecord, PlannedFold, Store, TrialRecord
from orchestrator.studies import TriedPoint, suggest_point
from search_spaces.folds import Fold
from search_spaces.hyperparameters import FoldSpec
from search_spaces.methods import method_facts
from search_spaces.spaces import Point, search_space


@dataclass(frozen=True, kw_only=True, slots=True)
class Ticket:
    """One attempt at one fold, handed out by the agenda."""

    group: str
    number: int
    """The trial's number in its group."""
    planned: PlannedFold
    spec: FoldSpec
    attempt: int


class FoldStates:
    """The state of every fold, remembered once it cannot change any more."""

    def __init__(self, store: Store, *, max_failures: int, retry_failed: bool) -> None:
        self._store, self._max_failures, self._retry_failed = store, max_failures, retry_failed
        self._accuracy: dict[str, float] = {}
        self._failed: set[str] = set()
        self._looked: set[str] = set()
        self.running: set[str] = set()

    def objective(self, key: str) -> float | None:
        """Mean source validation accuracy of a finished fold; None while it is not finished, or failed."""
        self._look(key)
        return self._accuracy.get(key)

    def failed(self, key: str) -> bool:
        self._look(key)
        return key in self._failed

    def settled(self, key: str) -> bool:
        return self.objective(key) is not None or self.failed(key)

    def waiting(self, key: str) -> bool:
        return key not in self.running and not self.settled(key)

    def finish(self, key: str) -> bool:
        """Take a finished fold's result over; False where it has none, or none that can be compared."""
        self.running.discard(key)
        self._looked.discard(key)
        self._look(key)
        return key in self._accuracy

    def fail(self, key: str, attempt: Attempt) -> bool:
        """Record a failed attempt; True where another one follows."""
        self.running.discard(key)
        folder = self._store.fold(key)
        attempts = record_attempt(folder, attempt)
        if attempt.kind in RETRYABLE and attempts.spent <= self._max_failures:
            return True
        give_up(folder)
        self._failed.add(key)
        return False

    def _look(self, key: str) -> None:
        if key in self._looked or key in self.running:
            return
        self._looked.add(key)
        folder = self._store.fold(key)
        if self._retry_failed and key not in self._failed:
            allow_again(folder)
        if read_attempts(folder).failed:
            self._failed.add(key)
            return
        result = folder.read_result()
        if result is None:
            return
        # A driver that was killed between a fold's result and its own tidying leaves a mark that nobody else removes.
        self._store.unmark_running(key)
        accuracy = _accuracy(result)
        if math.isfinite(accuracy):
            self._accuracy[key] = accuracy
        else:
            error = f"the mean source validation accuracy is {accuracy}, which no trial can be judged by"
            record_attempt(folder, Attempt(time=time.time(), kind="no_metric", error=error))
            give_up(folder)
            self._failed.add(key)


class GroupAgenda:
    """One fold group: trials on seed 0, then the chosen one on all seeds."""

    def __init__(self, group: GroupRecord, *, specs: FoldSpecs, store: Store, states: FoldStates) -> None:
        self.group, self._specs, self._store, self._states = group, specs, store, states
        self._trials = store.trials(group.name)
        self._confirmation = store.confirmation(group.name)
        self._hyperparameters = specs.sweep.hyperparameters_for(group.benchmark)
        self._benchmark = specs.benchmarks[group.benchmark]

    @property
    def is_finished(self) -> bool:
        """Nothing is left to run, and nothing runs."""
        if len(self._trials) < self.group.trials or not all(map(self._is_settled, self._trials)):
            return False
        if self._confirmation is None:
            # A lone configuration is confirmed whatever becomes of its first seed.
            return self.group.trials > 1 and not any(trial.objective is not None for trial in self.history())
        return all(self._states.settled(planned.key) for planned in self._confirmation.folds)

    @property
    def num_running(self) -> int:
        return sum(planned.key in self._states.running for _, planned in self._planned())

    @property
    def num_waiting(self) -> int:
        return self.counts().waiting

    def candidates(self) -> Iterator[tuple[int, PlannedFold]]:
        """Folds that wait, in order; the next trial is suggested (and written) once no earlier fold waits."""
        while True:
            waiting = list(self._waiting())
            yield from waiting
            if waiting:
                return
            if len(self._trials) < self.group.trials:
                self._begin_trial()
            elif self._confirmation is not None or not self._choose():
                return

    def spec(self, number: int, planned: PlannedFold) -> FoldSpec:
        """What a fold of a trial computes."""
        spec = self._specs.spec(self.group, self._trials[number].point, planned.fold)
        assert spec.key == planned.key, f"{planned.fold} was written with another key"
        return spec

    def first_specs(self) -> Iterator[FoldSpec]:
        """What the group's first folds compute, one for each test domain: the sweep's own point."""
        for domain in self.group.test_domains:
            fold = Fold(benchmark=self.group.benchmark, test_domains=(domain,), seed=0)
            yield self._specs.spec(self.group, self._point(0, ()), fold)

    def unsettled_specs(self) -> Iterator[FoldSpec]:
        """What the folds compute that are written and neither done nor failed."""
        for number, planned in self._planned():
            if not self._states.settled(planned.key):
                yield self.spec(number, planned)

    @property
    def num_unwritten(self) -> int:
        """Folds that will be written for each test domain, by further trials and by the confirmation."""
        unwritten = self.group.trials - len(self._trials)
        return unwritten + (self.group.seeds - 1 if self._confirmation is None else 0)

    @property
    def is_started(self) -> bool:
        return bool(self._trials)

    def history(self) -> list[TriedPoint]:
        """The group's trials as the sampler sees them."""
        return [self._tried(trial) for trial in self._trials]

    def counts(self) -> Counts:
        """The group's folds by state; a fold that two trials share counts for both."""
        keys = [planned.key for _, planned in self._planned()]
        done = sum(self._states.objective(key) is not None for key in keys)
        failed = sum(self._states.failed(key) for key in keys)
        running = sum(key in self._states.running for key in keys)
        planned = len(keys) if self.is_finished else max(self.group.num_folds, len(keys))
        return Counts(done=done, failed=failed, running=running, waiting=planned - done - failed - running)

    def failures(self) -> Iterator[PlannedFold]:
        """Folds that failed, once each."""
        failed = {planned.key: planned for _, planned in self._planned() if self._states.failed(planned.key)}
        yield from failed.values()

    def _planned(self) -> Iterator[tuple[int, PlannedFold]]:
        for trial in self._trials:
            for planned in trial.folds:
                yield trial.number, planned
        if self._confirmation is not None:
            own = {planned.key for planned in self._trials[self._confirmation.number].folds}
            for planned in self._confirmation.folds:
                if planned.key not in own:
                    yield self._confirmation.number, planned

    def _waiting(self) -> Iterator[tuple[int, PlannedFold]]:
        for number, planned in list(self._planned()):
            if self._states.waiting(planned.key):
                yield number, planned

    def _is_settled(self, trial: TrialRecord) -> bool:
        return all(self._states.settled(planned.key) for planned in trial.folds)

    def _tried(self, trial: TrialRecord) -> TriedPoint:
        keys = [planned.key for planned in trial.folds]
        objectives = [value for value in map(self._states.objective, keys) if value is not None]
        if any(map(self._states.failed, keys)):
            return TriedPoint(number=trial.number, point=trial.point, state="failed")
        if len(objectives) < len(keys):
            return TriedPoint(number=trial.number, point=trial.point, state="running")
        mean = math.fsum(objectives) / len(objectives)
        return TriedPoint(number=trial.number, point=trial.point, state="complete", objective=mean)

    def _begin_trial(self) -> None:
        """Choose the next point and write it, before any of its folds runs."""
        number, history = len(self._trials), self.history()
        point = self._point(number, history)
        record = TrialRecord(
            group=self.group.name,
            number=number,
            point=point,
            folds=self._specs.planned(self.group, point, range(1)),
            source="paper" if number == 0 else "sampler",
            created=time.time(),
            history=_numbers_by_state(history),
        )
        self._store.write_trial(record)
        self._trials.append(record)

    def _point(self, number: int, history: Sequence[TriedPoint]) -> Point:
        sweep = self._specs.sweep
        space = search_space(sweep.space)
        if number == 0:
            return space.paper_point(self._benchmark, self.group.method, self._hyperparameters)
        return suggest_point(
            space.distributions(self._benchmark, self.group.method, self._hyperparameters),
            history,
            sampler=sweep.sampler,
            search_seed=sweep.search_seed,
            group=self.group.name,
            number=number,
        )

    def _choose(self) -> bool:
        """Write which trial is confirmed; a lone trial needs no wait."""
        if self.group.trials == 1:
            number = 0
        else:
            history = self.history()
            complete = [
                SourceValidation(number=trial.number, accuracy=trial.objective)
                for trial in history
                if trial.objective is not None
            ]
            if any(trial.state == "running" for trial in history) or not complete:
                return False
            number = select(complete).number
        folds = self._specs.planned(self.group, self._trials[number].point, range(self.group.seeds))
        self._confirmation = ConfirmationRecord(group=self.group.name, number=number, folds=folds)
        self._store.write_confirmation(self._confirmation)
        return True


class Agenda:
    """All groups behind one queue."""

    def __init__(
        self, groups: Sequence[GroupAgenda], states: FoldStates, store: Store, admission: Admission | None = None
    ) -> None:
        self.groups, self._states, self._store = groups, states, store
        self._admission = admission or Admission()
        self._aligning: dict[str, str] = {}

    @property
    def is_finished(self) -> bool:
        return all(group.is_finished for group in self.groups)

    @property
    def is_out_of_budget(self) -> bool:
        """Something is left to run, and none of it may start, now or later."""
        return not self._states.running and not self.is_finished and not any(self.admitted())

    def admitted(self) -> Iterator[GroupAgenda]:
        """Groups that are not finished and that the budget lets run; those that were begun come first."""
        open_groups = (group for group in self.groups if not group.is_finished)
        in_order = sorted(open_groups, key=lambda group: not group.is_started)
        return (group for group in in_order if self._admission.admits(group))

    def next(self) -> Ticket | None:
        """The next fold to start, or None while the others have to report first.

        Groups with the fewest running folds come first, then those with the most left: no group is searched by
        guesswork while others wait, and none is left over at the end. Folds that share an Align stage which somebody
        runs right now stand back until it is there.
        """
        open_groups = [group for group in self.groups if not group.is_finished]
        for group in sorted(open_groups, key=lambda group: (group.num_running, -group.num_waiting)):
            if not self._admission.admits(group):
                continue
            for number, planned in group.candidates():
                spec = group.spec(number, planned)
                if self._align_is_free(spec):
                    return self._hand_out(group.group.name, number, planned, spec)
        return None

    def finished(self, ticket: Ticket) -> bool:
        """A fold ended by itself; False where it left no result that can be compared."""
        self._ended(ticket)
        return self._states.finish(ticket.planned.key)

    def failed(self, ticket: Ticket, attempt: Attempt) -> bool:
        """A fold's attempt went wrong; True where another one follows."""
        self._ended(ticket)
        return self._states.fail(ticket.planned.key, attempt)

    def dropped(self, ticket: Ticket) -> None:
        """A fold was stopped from outside: it waits again, and nothing counts."""
        self._ended(ticket)
        self._states.running.discard(ticket.planned.key)

    def met_budget(self, ticket: Ticket) -> None:
        """A fold was not allowed its next query: it waits for a larger budget, and nothing counts."""
        self.close_budget()
        self.dropped(ticket)

    def close_budget(self) -> None:
        """Let nothing start any more that asks the teacher."""
        self._admission.close()

    def counts(self) -> Counts:
        return sum((group.counts() for group in self.groups), Counts())

    def failures(self) -> Iterator[tuple[str, PlannedFold]]:
        """Failed folds with their group's name."""
        for group in self.groups:
            for planned in group.failures():
                yield group.group.name, planned

    def _ended(self, ticket: Ticket) -> None:
        self._aligning.pop(ticket.planned.key, None)
        self._admission.look_again()

    def _align_is_free(self, spec: FoldSpec) -> bool:
        if "align" not in method_facts(spec.method).stages:
            return True
        return spec.align_key not in self._aligning.values() or self._store.align(spec.align_key).is_done

    def _hand_out(self, group: str, number: int, planned: PlannedFold, spec: FoldSpec) -> Ticket:
        self._states.running.add(planned.key)
        if "align" in method_facts(spec.method).stages:
            self._aligning[planned.key] = spec.align_key
        attempt = read_attempts(self._store.fold(planned.key)).spent + 1
        return Ticket(group=group, number=number, planned=planned, spec=spec, attempt=attempt)


def build_agenda(
    groups: Sequence[GroupRecord],
    *,
    specs: FoldSpecs,
    store: Store,
    max_failures: int = 1,
    retry_failed: bool = False,
    admission: Admission | None = None,
) -> Agenda:
    """Read the store and stand where it stands."""
    states = FoldStates(store, max_failures=max_failures, retry_failed=retry_failed)
    agendas = [GroupAgenda(group, specs=specs, store=store, states=states) for group in groups]
    return Agenda(agendas, states, store, admission)


def _numbers_by_state(history: Sequence[TriedPoint]) -> dict[str, list[int]]:
    numbers: dict[str, list[int]] = {"complete": [], "failed": [], "running": []}
    for tried in history:
        numbers[tried.state].append(tried.number)
    return numbers


def _accuracy(result: Mapping[str, Any]) -> float:
    value = result["source_validation"]["accuracy"]
    return float("nan") if value is None else float(value)
