"""What one fold group does next: trials on its first seed, one after another, then the chosen one on its others."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence

from orchestrator.events import Counts
from orchestrator.search.leave_one_domain_out import left_out
from orchestrator.search.pruning import Decision, GroupPruning
from orchestrator.search.sampling import TriedPoint, suggest_point
from orchestrator.search.selection import SourceValidation, select
from orchestrator.search.specs import FoldSpecs
from orchestrator.store.fold_states import FoldStates
from orchestrator.store.records import ConfirmationRecord, GroupRecord, PlannedFold, TrialRecord
from orchestrator.store.sweep_folder import SweepFolder
from search_spaces.folds import Fold
from search_spaces.hyperparameters import FoldSpec
from search_spaces.schedule import stage_steps
from search_spaces.spaces import Point, search_space
from search_spaces.sweeps import SweepSelection


class GroupAgenda:
    """One fold group: trials on its first seed, then the chosen one on all of its seeds."""

    def __init__(
        self, group: GroupRecord, *, specs: FoldSpecs, store: SweepFolder, states: FoldStates, repeatable: bool = False
    ) -> None:
        self.group, self._specs, self._store, self._states = group, specs, store, states
        self._repeatable = repeatable
        self._trials = store.records.trials(group.name)
        self._left_out = left_out(group, specs=specs, store=store, states=states)
        self._selection: SweepSelection = "leave_one_domain_out" if self._left_out else "source_validation"
        self._confirmation = store.records.confirmation(group.name, self._selection)
        self.permits_trial: Callable[[GroupAgenda], bool] = lambda group: True
        """Whether the budgets let one more trial begin."""
        self._hyperparameters = specs.sweep.hyperparameters_for(group.benchmark)
        self._benchmark = specs.benchmarks[group.benchmark]
        steps = stage_steps(self._benchmark, self._hyperparameters, group.method)
        self._pruning = GroupPruning(
            group, sweep=specs.sweep, store=store, states=states, num_steps=steps[-1] if steps else 0
        )
        self._known: tuple[Counts, bool] | None = None
        if self._confirmation is not None and not self._stands(self._confirmation):
            self._confirmation = None

    @property
    def is_finished(self) -> bool:
        """Nothing is left to run, and nothing runs."""
        return self._standing()[1]

    def changed(self) -> None:
        """Something happened to one of the group's folds: what was counted is counted anew."""
        self._known = None

    @property
    def num_running(self) -> int:
        """Folds that somebody is at work on: this sweep, or another one on the store."""
        here = self.counts().running
        if not self._states.leases.somebody_elsewhere:
            return here
        return here + sum(self._states.elsewhere(planned.key) is not None for _, planned in self.waiting())

    @property
    def num_waiting(self) -> int:
        return self.counts().waiting

    def candidates(self, only: Collection[str] | None = None) -> Iterator[tuple[int, PlannedFold]]:
        """Folds that wait, in order; the next trial is suggested (and written) once no earlier fold waits here.

        A fold that another sweep on the store is at work on holds nothing up, unless suggestions have to be repeatable.

        With `only`, the folds with these keys alone, and nothing new is begun.
        """
        if only is not None:
            yield from ((number, planned) for number, planned in self.waiting() if planned.key in only)
            return
        while True:
            for _ in self._pruning.look_between_folds(self._trials):
                self.changed()
            yield from list(self.waiting())
            if any(self._repeatable or not self._states.elsewhere(planned.key) for _, planned in self.waiting()):
                return
            if len(self._trials) < self.group.trials and self.permits_trial(self):
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
            fold = Fold(benchmark=self.group.benchmark, test_domains=(domain,), seed=self.group.all_seeds[0])
            yield self._specs.spec(self.group, self._point(0, ()), fold)

    def unsettled_specs(self) -> Iterator[FoldSpec]:
        """What the folds compute that are written and neither done nor failed."""
        for number, planned in self._planned():
            if not self._states.settled(planned.key):
                yield self.spec(number, planned)

    def num_unwritten(self, further: int | None = None) -> int:
        """Folds that will be written for each test domain, by further trials (None for all) and by the confirmation."""
        left = self.group.trials - len(self._trials)
        unwritten = left if further is None else min(left, further)
        return unwritten + (self.group.seeds - 1 if self._confirmation is None or unwritten else 0)

    def unwritten_pairs(self) -> Iterator[tuple[FoldSpec, bool]]:
        """The first trial's pair folds while none is written, and whether each is settled already by another group."""
        if self._left_out is not None and not self._left_out.is_begun and self._confirmation is None:
            for fold in self._left_out.folds():
                spec = self._specs.spec(self.group, self._point(0, ()), fold)
                yield spec, self._states.settled(spec.key)

    @property
    def is_started(self) -> bool:
        return bool(self._trials)

    @property
    def is_at_rest(self) -> bool:
        """The budgets let no further trial begin, and what was begun is finished."""
        if len(self._trials) == self.group.trials or self.permits_trial(self) or self.running_keys():
            return False
        if any(self.waiting()):
            return False
        hopeless = self._left_out is not None and self._left_out.is_hopeless
        return self._confirmation is not None or hopeless or all(trial.objective is None for trial in self.history())

    @property
    def num_left(self) -> int:
        """Folds that are not settled, of trials that are still to come too."""
        counts = self.counts()
        return counts.waiting + counts.running

    @property
    def num_to_finish(self) -> int:
        """Folds that are not settled if no further trial begins."""
        return max(0, self.num_left - (self.group.trials - len(self._trials)) * self.num_per_trial)

    @property
    def num_promised(self) -> int:
        """Folds that are not settled if no trial begins but the first: a group that begins is given at least these."""
        return self.num_to_finish + (0 if self.is_started else self.num_per_trial)

    @property
    def num_with_another_trial(self) -> int:
        """Folds that are not settled if one more trial begins, a new choice after an early one among them."""
        anew = 0 if self._confirmation is None else (self.group.seeds - 1) * len(self.group.test_domains)
        return self.num_to_finish + self.num_per_trial + anew

    @property
    def num_per_trial(self) -> int:
        """Folds of one trial, its pair folds among them while they are still to be written."""
        pairs = self._left_out.num_per_trial if self._left_out is not None and not self._left_out.is_begun else 0
        return len(self.group.test_domains) + pairs

    def running_keys(self) -> set[str]:
        """The group's folds that run."""
        return {planned.key for _, planned in self._planned() if planned.key in self._states.running}

    def took(self) -> list[float]:
        """Seconds that each finished fold of the group took."""
        found = {planned.key: self._states.seconds(planned.key) for _, planned in self._planned()}
        return [seconds for seconds in found.values() if seconds is not None]

    def history(self, *, values: bool = False) -> list[TriedPoint]:
        """The group's trials as the sampler sees them; pruned ones with what they reached, where `values` are asked."""
        return [self._tried(trial, values=values) for trial in self._trials]

    def counts(self) -> Counts:
        """The group's folds by state; a fold that two trials share counts for both."""
        return self._standing()[0]

    def _standing(self) -> tuple[Counts, bool]:
        """The counts, and whether nothing is left; kept until something changes."""
        if self._known is None:
            is_finished = self._look_whether_finished()
            self._known = self._count(is_finished), is_finished
        return self._known

    def _look_whether_finished(self) -> bool:
        if len(self._trials) < self.group.trials or not all(map(self._is_settled, self._trials)):
            return False
        if self._confirmation is None:
            if self._left_out is not None and self._left_out.is_hopeless:
                return True
            # A lone configuration is confirmed whatever becomes of its first seed.
            return self.group.trials > 1 and not any(trial.objective is not None for trial in self.history())
        return all(self._states.settled(planned.key) for planned in self._confirmation.folds)

    def _count(self, is_finished: bool) -> Counts:
        keys = [planned.key for _, planned in self._planned()]
        done = sum(self._states.objective(key) is not None for key in keys)
        failed = sum(self._states.failed(key) for key in keys)
        running = sum(key in self._states.running for key in keys)
        pruned = sum(self._states.pruned(key) and key not in self._states.running for key in keys)
        expected = self.group.num_folds + (self._left_out.num_expected if self._left_out is not None else 0)
        planned = len(keys) if is_finished else max(expected, len(keys))
        waiting = planned - done - failed - running - pruned
        return Counts(done=done, failed=failed, running=running, pruned=pruned, waiting=waiting)

    def failures(self) -> Iterator[PlannedFold]:
        """Folds that failed, once each."""
        failed = {planned.key: planned for _, planned in self._planned() if self._states.failed(planned.key)}
        yield from failed.values()

    def _planned(self) -> Iterator[tuple[int, PlannedFold]]:
        for trial in self._trials:
            for planned in trial.folds:
                yield trial.number, planned
        if self._left_out is not None:
            yield from self._left_out.planned()
        if self._confirmation is not None:
            own = {planned.key for planned in self._trials[self._confirmation.number].folds}
            for planned in self._confirmation.folds:
                if planned.key not in own:
                    yield self._confirmation.number, planned

    def waiting(self) -> Iterator[tuple[int, PlannedFold]]:
        """Folds that may start, with their trial's number."""
        for number, planned in list(self._planned()):
            if self._states.waiting(planned.key) and self._pruning.may_run(self._trials[number], planned):
                yield number, planned

    def reported(self, number: int, planned: PlannedFold) -> Decision | None:
        """A running fold has evaluated: why it is to be stopped, if it is."""
        return self._pruning.reported(self._trials[number], planned, self._trials)

    def _stands(self, choice: ConfirmationRecord) -> bool:
        """False where a larger budget has let the search go on since, or a trial is retried that had failed."""
        if choice.trials not in (0, len(self._trials)):
            return False
        return choice.stands(lambda number: self._has_failed(self._trials[number]))

    def _has_failed(self, trial: TrialRecord) -> bool:
        return any(self._states.failed(planned.key) for planned in trial.folds)

    def _is_settled(self, trial: TrialRecord) -> bool:
        return all(self._states.settled(planned.key) for planned in trial.folds)

    def _tried(self, trial: TrialRecord, *, values: bool) -> TriedPoint:
        keys = [planned.key for planned in trial.folds]
        objectives = [value for value in map(self._states.objective, keys) if value is not None]
        if self._has_failed(trial):
            return TriedPoint(number=trial.number, point=trial.point, state="failed")
        if len(objectives) < len(keys) and self._pruning.is_pruned(trial):
            reached = self._pruning.values(trial) if values else {}
            return TriedPoint(number=trial.number, point=trial.point, state="pruned", values=reached)
        if len(objectives) < len(keys):
            return TriedPoint(number=trial.number, point=trial.point, state="running")
        mean = math.fsum(objectives) / len(objectives)
        return TriedPoint(number=trial.number, point=trial.point, state="complete", objective=mean)

    def _begin_trial(self) -> None:
        """Choose the next point and write it, before any of its folds runs."""
        number, history = len(self._trials), self.history(values=True)
        point = self._point(number, history)
        record = TrialRecord(
            group=self.group.name,
            number=number,
            point=point,
            folds=self._specs.planned(self.group, point, self.group.all_seeds[:1]),
            source="paper" if number == 0 else "sampler",
            created=time.time(),
            history=_numbers_by_state(history),
        )
        self._store.records.write_trial(record)
        self._trials.append(record)
        self._confirmation = None
        self.changed()

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
            fold_seed=self.group.all_seeds[0],
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
            if self._left_out is not None and len(complete) > 1:
                if self._left_out.begin([self._trials[trial.number] for trial in complete]):
                    self.changed()
                    return True
                chosen = self._left_out.chosen()
                if chosen is None:
                    return False
                number = chosen
            else:
                number = select(complete).number
        folds = self._specs.planned(self.group, self._trials[number].point, self.group.all_seeds)
        self._confirmation = ConfirmationRecord(
            group=self.group.name,
            number=number,
            folds=folds,
            trials=len(self._trials),
            without=tuple(trial.number for trial in self._trials if trial.number != number and self._has_failed(trial)),
        )
        self._store.records.write_confirmation(self._confirmation, self._selection)
        self.changed()
        return True


def _numbers_by_state(history: Sequence[TriedPoint]) -> dict[str, list[int]]:
    numbers: dict[str, list[int]] = {"complete": [], "failed": [], "pruned": [], "running": []}
    for tried in history:
        numbers[tried.state].append(tried.number)
    return numbers
