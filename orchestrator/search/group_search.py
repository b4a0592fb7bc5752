"""What one fold group does next: trials on its first seed, one after another, then the selected one on its others."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace

from orchestrator.events import Counts
from orchestrator.plan.fold_groups import domain_pairs
from orchestrator.search.group_view import read_group_view
from orchestrator.search.pruning import Decision, GroupPruning
from orchestrator.search.sampling import TriedPoint, suggest_point
from orchestrator.search.specs import FoldSpecs
from orchestrator.store.fold_states import FoldStates
from orchestrator.store.records import PairRecord, PlannedFold, SelectedTrial, TrialRecord
from orchestrator.store.sweep_folder import SweepFolder
from search_spaces.errors import UserError
from search_spaces.fold_groups import FoldGroup
from search_spaces.folds import Fold
from search_spaces.hyperparameters import FoldSpec
from search_spaces.schedule import stage_steps
from search_spaces.spaces import Point, search_space
from search_spaces.sweeps import SweepSelection


class GroupSearch:
    """One fold group's search. What its folds say is in its `view`; this decides what runs next and writes it down."""

    def __init__(
        self, group: FoldGroup, *, specs: FoldSpecs, store: SweepFolder, states: FoldStates, repeatable: bool = False
    ) -> None:
        """Stand where the store stands.

        Args:
            repeatable: let no suggestion depend on when other sweeps on the store finish a fold.
        """
        self.group, self.specs, self.states, self._store = group, specs, states, store
        self._repeatable = repeatable
        self._benchmark = specs.benchmarks[group.benchmark]
        self._hyperparameters = specs.sweep.hyperparameters_for(group.benchmark)
        view = read_group_view(store, group, selection=specs.sweep.selection, states=states)
        self._trials, self._pairs = list(view.trials), dict(view.pairs)
        if [trial.number for trial in self._trials] != list(range(len(self._trials))):
            raise UserError(
                f"a trial of {group.name} is missing in {store.where}, between those that are there: put a whole copy "
                "of its file in its place"
            )
        self.view = replace(
            view,
            domains=self._benchmark.domain_names,
            trials=self._trials,
            pairs=self._pairs,
            # What does not hold now is selected again, whatever becomes of a failed trial that is retried.
            written=view.selected,
        )
        self.permits_trial: Callable[[GroupSearch], bool] = lambda group: True
        """Whether the budgets let one more trial begin."""
        steps = stage_steps(self._benchmark, self._hyperparameters, group.method)
        self._pruning = GroupPruning(
            group, sweep=specs.sweep, store=store, states=states, num_steps=steps[-1] if steps else 0
        )
        self._known: tuple[Counts, bool] | None = None
        self.num_changes = 0
        """Goes up with everything that happens to the group's folds."""

    @property
    def is_finished(self) -> bool:
        """Nothing is left to run, and nothing runs."""
        return self._standing()[1]

    def changed(self) -> None:
        """Something happened to one of the group's folds: count again when next asked."""
        self._known = None
        self.num_changes += 1

    def counts(self) -> Counts:
        """The group's folds by state; a fold that two trials share counts for both."""
        return self._standing()[0]

    def _standing(self) -> tuple[Counts, bool]:
        """The counts, and whether nothing is left; kept until something changes."""
        if self._known is None:
            self._known = self.view.counts(), self.view.is_finished
        return self._known

    @property
    def num_running(self) -> int:
        """Folds that run here, or in another sweep on the store."""
        here = self.counts().running
        if not self.states.leases.somebody_elsewhere:
            return here
        return here + sum(self.states.elsewhere(planned.key) is not None for _, planned in self.waiting())

    @property
    def num_waiting(self) -> int:
        return self.counts().waiting

    @property
    def is_started(self) -> bool:
        return bool(self._trials)

    @property
    def is_idle(self) -> bool:
        """Nothing waits or runs and the best trial is settled: only a further trial brings the group work."""
        if len(self._trials) == self.group.trials or any(self.waiting()):
            return False
        if any(self.states.is_running(planned.key) for _, planned in self.view.planned()):
            return False
        return self.view.selected is not None or self.view.pairs_in_vain or not self.view.objectives

    def candidates(self, only: Collection[str] | None = None) -> Iterator[tuple[int, PlannedFold]]:
        """Folds that wait, in order; the next trial is suggested (and written) once no earlier fold waits here.

        A fold that runs in another sweep on the store holds nothing up, unless suggestions have to be repeatable.

        With `only`, the folds with these keys alone, and nothing new begins.
        """
        if only is not None:
            yield from ((number, planned) for number, planned in self.waiting() if planned.key in only)
            return
        while True:
            for _ in self._pruning.look_between_folds(self._trials):
                self.changed()
            yield from list(self.waiting())
            if any(self._repeatable or not self.states.elsewhere(planned.key) for _, planned in self.waiting()):
                return
            if len(self._trials) < self.group.trials and self.permits_trial(self):
                self._begin_trial()
            elif self.view.selected is not None or not self._select():
                return

    def waiting(self) -> Iterator[tuple[int, PlannedFold]]:
        """Folds that may start, with their trial's number."""
        for number, planned in list(self.view.planned()):
            if self.states.waiting(planned.key) and self._pruning.may_run(self._trials[number], planned):
                yield number, planned

    def spec(self, number: int, planned: PlannedFold) -> FoldSpec:
        """What a fold of a trial computes."""
        spec = self.specs.spec(self.group, self._trials[number].point, planned.fold)
        if spec.key != planned.key:
            raise UserError(
                f"a record of {self.group.name} in {self._store.where} is damaged: trial {number} names {planned.fold} "
                f"by {planned.key[:12]}, and its hyperparameters give {spec.key[:12]}; put a whole copy of it in place"
            )
        return spec

    def reported(self, number: int, planned: PlannedFold) -> Decision | None:
        """A running fold has evaluated: why it is to be stopped, if it is."""
        return self._pruning.reported(self._trials[number], planned, self._trials)

    def history(self, *, values: bool = False) -> list[TriedPoint]:
        """The group's trials as the sampler sees them; pruned ones with what they reached, where `values` are asked."""
        return [self._tried(trial, values=values) for trial in self._trials]

    def _tried(self, trial: TrialRecord, *, values: bool) -> TriedPoint:
        state = self.view.state(trial)
        return TriedPoint(
            number=trial.number,
            point=trial.point,
            state=state,
            objective=self.view.objective(trial),
            values=self._pruning.values(trial) if values and state == "pruned" else {},
        )

    def point(self, number: int, history: Sequence[TriedPoint]) -> Point:
        """The hyperparameters of a trial: the sweep's own for the first one, then what the sampler suggests."""
        sweep = self.specs.sweep
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

    def _begin_trial(self) -> None:
        """Suggest the next point and write it, before any of its folds runs."""
        number, history = len(self._trials), self.history(values=True)
        point = self.point(number, history)
        record = TrialRecord(
            group=self.group.name,
            number=number,
            point=point,
            folds=self.specs.planned(self.group, point, self.group.all_seeds[:1]),
            source="paper" if number == 0 else "sampler",
            created=time.time(),
            history=_numbers_by_state(history),
        )
        self._store.records.write_trial(record)
        self._trials.append(record)
        self.changed()

    def _select(self) -> bool:
        """Write which trial is selected, or which pair folds judge it; False where neither can be said yet."""
        if self.group.trials == 1:
            # A lone trial needs no wait.
            self._write_selected(0)
            return True
        states = {trial.number: self.view.state(trial) for trial in self._trials}
        complete = [trial for trial in self._trials if states[trial.number] == "complete"]
        if "running" in states.values() or not complete:
            return False
        if self.view.by_pairs and len(complete) > 1 and self._begin_pairs(complete):
            return True
        number = self.view.verdict().number
        if number is None:
            return False
        self._write_selected(number)
        return True

    def _begin_pairs(self, complete: Sequence[TrialRecord]) -> bool:
        """Write the pair folds of trials that have none; False where nothing was left to write.

        A trial that failed or was pruned costs none, and a search that is cut off early is no dearer than without them.
        """
        new = [trial for trial in complete if trial.number not in self._pairs]
        seed = self.group.all_seeds[0]
        for trial in new:
            folds = (
                Fold(benchmark=self.group.benchmark, test_domains=pair, seed=seed)
                for pair in domain_pairs(self.group.test_domains, self.view.domains)
            )
            planned = tuple(
                PlannedFold(fold=fold, key=self.specs.spec(self.group, trial.point, fold).key) for fold in folds
            )
            record = PairRecord(group=self.group.name, number=trial.number, folds=planned)
            self._store.records.write_pairs(record)
            self._pairs[trial.number] = record
        self.changed()
        return bool(new)

    def _write_selected(self, number: int) -> None:
        view = self.view
        without = (trial.number for trial in self._trials if trial.number != number and view.has_failed(trial))
        record = SelectedTrial(
            group=self.group.name,
            number=number,
            folds=self.specs.planned(self.group, self._trials[number].point, self.group.all_seeds),
            trials=len(self._trials),
            without=tuple(without),
        )
        selection: SweepSelection = "leave_one_domain_out" if view.by_pairs else "source_validation"
        self._store.records.write_selected(record, selection)
        self.view = replace(view, written=record)
        self.changed()


def _numbers_by_state(history: Sequence[TriedPoint]) -> dict[str, list[int]]:
    numbers: dict[str, list[int]] = {"complete": [], "failed": [], "pruned": [], "running": []}
    for tried in history:
        numbers[tried.state].append(tried.number)
    return numbers
