"""Pruning in one fold group: which folds stop early, which configurations stop between folds, and the audit.

A decision is written to OUT/pruning/GROUP.jsonl before it takes effect, and stands from then on: a sweep that was
killed makes none twice. Each follows from source-side journals and results alone and names what it was compared with,
so that it can be made again from the store (`GroupPruning.replay`). The paper's own point (trial 0), repeats and
pair folds are never pruned.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from orchestrator.search.learning_curves import Curves
from orchestrator.search.pruning_rules import Curve, Judgement, Rule, is_audited, judge_curve, judge_overtaking
from orchestrator.store.records import PlannedFold, TrialRecord
from orchestrator.store.sweep_folder import SweepFolder
from search_spaces.configuration import from_mapping
from search_spaces.fold_groups import FoldGroup
from search_spaces.methods import method_facts
from search_spaces.sweeps import Sweep

if TYPE_CHECKING:
    from orchestrator.store.fold_states import FoldStates

Verdict = Literal["keep", "prune", "audit"]
"""`audit`: it was to be pruned, and runs on so that the regret is known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """One look at a trial."""

    group: str
    number: int
    """The trial's number in its group."""
    rule: Rule
    verdict: Verdict
    stage: str
    """Where it was looked at: a fold's last stage; `folds` between two folds."""
    step: int
    """The evaluation's step; between folds, how many of them are done."""
    num_steps: int
    """Steps of the whole stage; between folds, the trial's folds."""
    key: str
    """The fold that was looked at; between folds, the last one that is done."""
    value: float
    """Best source validation accuracy so far; between folds, the chance to overtake the best trial."""
    threshold: float
    """Below this it is pruned."""
    against: tuple[str, ...] = ()
    """The folds that it was compared with, by key, where it is pruned."""
    trials: tuple[int, ...]
    """The trials these belong to; between folds the best one first, then those that the spread was taken of."""
    folds: tuple[str, ...] = ()
    """Folds that are not run on because of it."""
    time: float

    @property
    def line(self) -> str:
        """In words."""
        if self.rule == "overtake":
            return (
                f"after {self.step} folds the chance to overtake trial {self.trials[0]} is {self.value:.2%}, below "
                f"{self.threshold:.2%}"
            )
        return (
            f"{self.rule}: best source validation accuracy {self.value:.1%} at {self.stage} step {self.step} of "
            f"{self.num_steps} is below {self.threshold:.1%}, by {len(self.trials)} other trials"
        )


class _Place(NamedTuple):
    """Where a look was taken, in `Decision`'s words."""

    rule: Rule
    stage: str
    step: int
    num_steps: int
    key: str


class GroupPruning:
    """The decisions of one group, made and remembered."""

    def __init__(
        self, group: FoldGroup, *, sweep: Sweep, store: SweepFolder, states: FoldStates, num_steps: int
    ) -> None:
        """Read what was decided before.

        Args:
            num_steps: of the method's last stage.
        """
        self._group, self._sweep, self._store, self._states = group, sweep, store, states
        self._num_steps = num_steps
        self._stage = (method_facts(group.method).stages or ("",))[-1]
        self._curves = Curves(store, self._stage)
        self._looked: set[tuple[int, str, int]] = set()
        self._cuts: dict[str, int] = {}
        self.pruned: set[int] = set()
        """Numbers of the trials that were pruned."""
        self.audited: set[int] = set()
        """Numbers of those that run on for the audit."""
        for decision in read_decisions(store, group.name):
            self._apply(decision)
            _mark(store, decision, sweep.key)

    @property
    def one_fold_after_another(self) -> bool:
        """Whether a trial's folds are rungs, so that each may end it."""
        several = len(self._group.test_domains) > 1 and self._group.trials > 1
        return several and (self._sweep.stop_level > 0.0 or self._sweep.pruner != "none")

    def is_pruned(self, trial: TrialRecord) -> bool:
        """Whether a trial was pruned, by itself or as another trial's equal."""
        return trial.number in self.pruned or any(self._states.pruned(planned.key) for planned in trial.folds)

    def may_run(self, trial: TrialRecord, planned: PlannedFold) -> bool:
        """Whether a waiting fold's turn has come."""
        if trial.number == 0 or not self.one_fold_after_another or planned not in trial.folds:
            return True
        return planned.key == next((fold.key for fold in trial.folds if not self._states.settled(fold.key)), None)

    def reported(self, trial: TrialRecord, planned: PlannedFold, trials: Sequence[TrialRecord]) -> Decision | None:
        """A running fold reported: look at each of its evaluations that was not looked at; the one that prunes it."""
        if self._sweep.pruner == "none" or self._is_exempt(trial) or planned.key not in self._pruned(trial, trials):
            return None
        curve = self._curves.of(planned.key)
        for step in sorted(curve):
            identity = (trial.number, planned.key, step)
            if identity in self._looked or self._is_exempt(trial):
                continue
            self._looked.add(identity)
            judgement, rivals = self._judge_fold(planned, step, trials)
            if judgement is None:
                continue
            numbers = tuple(rivals[key] for key in judgement.against)
            place = _Place(self._sweep.pruner, self._stage, step, self._num_steps, planned.key)
            decision = self._decide(trial, judgement, place, numbers, trials)
            if decision.verdict == "prune":
                return decision
        return None

    def look_between_folds(self, trials: Sequence[TrialRecord]) -> Iterator[Decision]:
        """Look at the trials that have done some of their folds and run none; yields those that are pruned."""
        if self._sweep.stop_level == 0.0 or not self.one_fold_after_another:
            return
        for trial in trials:
            done = self._done(trial)
            identity = (trial.number, "", len(done))
            if self._is_exempt(trial) or identity in self._looked or len(done) == len(trial.folds):
                continue
            if any(planned.key in self._states.running for planned in trial.folds):
                continue
            judgement, numbers = self._judge_trial(done, trials)
            if judgement is None:
                continue
            self._looked.add(identity)
            against = tuple(planned.key for planned in trials[numbers[0]].folds[: len(done)])
            place = _Place("overtake", "folds", len(done), len(trial.folds), trial.folds[len(done) - 1].key)
            decision = self._decide(trial, replace(judgement, against=against), place, numbers, trials)
            if decision.verdict == "prune":
                yield decision

    def replay(self, decision: Decision, trials: Sequence[TrialRecord]) -> Judgement | None:
        """Make a decision again, from the store and against the trials that it names."""
        known = [trial for trial in trials if trial.number in decision.trials]
        own = trials[decision.number]
        if decision.rule == "overtake":
            return self._judge_trial(self._done(own)[: decision.step], known)[0]
        planned = next(planned for planned in own.folds if planned.key == decision.key)
        return self._judge_fold(planned, decision.step, [*known, own], cut=False)[0]

    def values(self, trial: TrialRecord) -> Mapping[int, float]:
        """What a pruned trial reached, as one curve over its folds: the mean of those done and the one under way."""
        values: dict[int, float] = {}
        total = 0.0
        for position, planned in enumerate(trial.folds):
            objective, start = self._states.objective(planned.key), position * self._num_steps
            if objective is None:
                curve = self._cut_curve(planned.key)
                return values | {start + step: (total + value) / (position + 1) for step, value in curve.items()}
            total += objective
            values[start + self._num_steps - 1] = total / (position + 1)
        return values

    def _judge_fold(
        self, planned: PlannedFold, step: int, trials: Sequence[TrialRecord], *, cut: bool = True
    ) -> tuple[Judgement | None, dict[str, int]]:
        """Judge a fold against the same fold of other trials; failed ones are no measure.

        What a rival reported after it was pruned does not count. A rival that an earlier decision names may have
        been pruned since, for what it had reported sooner: to make that decision again, nothing is `cut`.
        """
        rivals = {
            other.key: trial.number
            for trial in trials
            for other in trial.folds
            if other.fold == planned.fold and other.key != planned.key and not self._states.failed(other.key)
        }
        curves = {key: self._cut_curve(key) if cut else self._curves.of(key) for key in rivals}
        own = self._curves.of(planned.key)
        return judge_curve(self._sweep.pruner, own, curves, step=step, num_steps=self._num_steps), rivals

    def _cut_curve(self, key: str) -> Curve:
        """A fold's curve up to where it was pruned: how far its worker ran on is a matter of timing."""
        curve = self._curves.of(key)
        if key not in self._cuts:
            return curve
        return {step: value for step, value in curve.items() if step <= self._cuts[key]}

    def _judge_trial(
        self, done: Sequence[float], trials: Sequence[TrialRecord]
    ) -> tuple[Judgement | None, tuple[int, ...]]:
        """Judge a trial against the best of the complete ones."""
        complete = {trial.number: self._done(trial) for trial in trials}
        complete = {
            number: values for number, values in complete.items() if len(values) == len(self._group.test_domains)
        }
        if not complete:
            return None, ()
        best = max(complete, key=lambda number: (fmean(complete[number]), number))
        by_name = {str(number): values for number, values in complete.items()}
        judgement = judge_overtaking(done, str(best), by_name, stop_level=self._sweep.stop_level)
        return judgement, (best, *(number for number in complete if number != best))

    def _done(self, trial: TrialRecord) -> list[float]:
        """Accuracies of a trial's folds in order, up to the first that is not done."""
        done: list[float] = []
        for planned in trial.folds:
            objective = self._states.objective(planned.key)
            if objective is None:
                break
            done.append(objective)
        return done

    def _is_exempt(self, trial: TrialRecord) -> bool:
        return trial.number == 0 or trial.number in self.audited or self.is_pruned(trial)

    def _decide(
        self,
        trial: TrialRecord,
        judgement: Judgement,
        place: _Place,
        numbers: tuple[int, ...],
        trials: Sequence[TrialRecord],
    ) -> Decision:
        """Keep what a judgement comes to, then let it take effect.

        Args:
            numbers: the trials that it was compared with.
            trials: all of the group.
        """
        verdict: Verdict = "prune" if judgement.prune else "keep"
        if judgement.prune and self._is_audited(trial):
            verdict = "audit"
        decision = Decision(
            group=self._group.name,
            number=trial.number,
            verdict=verdict,
            **place._asdict(),
            trials=numbers,
            value=judgement.value,
            threshold=judgement.threshold,
            against=judgement.against if judgement.prune else (),
            folds=self._pruned(trial, trials) if verdict == "prune" else (),
            time=time.time(),
        )
        append_decision(self._store, decision)
        _mark(self._store, decision, self._sweep.key)
        self._apply(decision)
        return decision

    def _is_audited(self, trial: TrialRecord) -> bool:
        return is_audited(self._sweep.audit_share, self._sweep.search_seed, self._group.name, trial.number)

    def _pruned(self, trial: TrialRecord, trials: Sequence[TrialRecord]) -> tuple[str, ...]:
        """The trial's folds that are not done; those of the paper's own point run on."""
        protected = {planned.key for planned in trials[0].folds}
        keys = (planned.key for planned in trial.folds)
        return tuple(key for key in keys if key not in protected and not self._states.settled(key))

    def _apply(self, decision: Decision) -> None:
        between = decision.rule == "overtake"
        self._looked.add((decision.number, "" if between else decision.key, decision.step))
        if decision.verdict == "prune":
            self.pruned.add(decision.number)
            self._states.prune(decision.folds)
            for key in decision.folds:
                self._cuts[key] = decision.step if key == decision.key and not between else -1
        elif decision.verdict == "audit":
            self.audited.add(decision.number)


def read_decisions(store: SweepFolder, group: str) -> list[Decision]:
    """What was decided in a group, in order."""
    return [decision_from_mapping(line) for line in store.records.decisions(group)]


def decision_from_mapping(content: Mapping[str, Any]) -> Decision:
    """Read a decision back, from a group's list or from a fold's `pruned.json`, which holds the sweeps besides."""
    names = {field.name for field in fields(Decision)}
    return from_mapping(Decision, {name: value for name, value in content.items() if name in names})


def append_decision(store: SweepFolder, decision: Decision) -> None:
    store.records.append_decision(decision.group, asdict(decision))


def _mark(store: SweepFolder, decision: Decision, sweep_key: str) -> None:
    """Leave `pruned.json` in the folders of the folds that are not run on; what is there already stays."""
    for key in decision.folds:
        store.folds.mark_pruned(key, asdict(decision), sweep_key)
