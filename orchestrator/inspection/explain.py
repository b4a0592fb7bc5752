"""Why a trial was tried, what became of its folds, and why it was selected or not, told from the store's records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.inspection.fold_names import KnownFold, KnownFolds, Use, trial_name
from orchestrator.plan.remaining_time import duration
from orchestrator.search.group_view import read_group_view
from orchestrator.search.leave_one_domain_out import held_out_scores
from orchestrator.search.pruning import Decision, decision_from_mapping, read_decisions
from orchestrator.store.fold_states import StoredStates
from orchestrator.store.fold_store import FoldState
from orchestrator.store.records import TrialRecord
from orchestrator.store.sweep_folder import SweepFolder
from search_spaces.fold_groups import FoldGroup
from search_spaces.methods import method_facts
from search_spaces.samplers import learning

LISTED = 8
"""Folds that a line names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """One fold or trial explained."""

    subject: str
    lines: tuple[str, ...]
    """Sentences, in the order of what happened."""
    facts: Mapping[str, Any]
    """The same as plain values, for `--json`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialOutcome:
    """How one trial stands."""

    number: int
    states: tuple[FoldState, ...]
    """Of its folds on the seed that was searched."""
    accuracy: float | None
    """Mean source validation accuracy once every fold is done; what model selection goes by."""

    @property
    def text(self) -> str:
        """`2: 71.3%`, or what it lacks."""
        if self.accuracy is not None:
            return f"{self.number}: {self.accuracy:.2%}"
        return f"{self.number}: {'/'.join(dict.fromkeys(self.states))}"


def explain_fold(known: KnownFolds, fold: KnownFold) -> Explanation:
    """Why a fold was run, how it ended, and what it shared."""
    store = known.store
    trials = {(trial.group, trial.number): trial for trial in known.trials}
    lines, uses = [], []
    for use in fold.uses:
        trial = trials[use.group, use.number]
        lines.append(_purpose(known, use, trial))
        uses.append({"group": use.group, "trial": use.number, "purpose": use.purpose, **_origin_facts(trial)})
    if len(fold.uses) > 1:
        names = ", ".join(trial_name(use.group, use.number) for use in fold.uses)
        lines.append(f"equal hyperparameters make it one fold, run once, for {len(fold.uses)} trials: {names}")
    if fold.uses:
        first = trials[fold.uses[0].group, fold.uses[0].number]
        lines.append(_point_line(first))
    decisions = [
        decision
        for use in fold.uses
        for decision in _decisions(store, use.group, use.number)
        if _is_about(decision, fold.key)
    ]
    state_lines, state = _state(store, fold.key)
    state_lines += [_decision_line(decision, fold.key) for decision in decisions] or _elsewhere(state)
    selections = {use.group: _selection(known, use.group) for use in fold.uses}
    align_lines, align = _align(known, fold)
    facts = {
        "key": fold.key,
        "name": fold.name,
        "uses": uses,
        "state": state,
        "decisions": [asdict(decision) for decision in decisions],
        "choices": {name: content for name, (_, content) in selections.items()},
        "align": align,
    }
    lines += [*state_lines, *(line for line, _ in selections.values()), *align_lines]
    return Explanation(subject=fold.label, lines=tuple(lines), facts=facts)


def explain_trial(known: KnownFolds, trial: TrialRecord) -> Explanation:
    """Why a trial was tried, how its folds stand, and whether it was selected."""
    store = known.store
    lines, folds = [_origin(known, trial), _point_line(trial)], []
    for planned in trial.folds:
        state_lines, state = _state(store, planned.key)
        lines += [f"{planned.fold} ({planned.key[:12]}): {line}" for line in state_lines]
        others = [
            trial_name(use.group, use.number)
            for fold in known.folds
            if fold.key == planned.key
            for use in fold.uses
            if (use.group, use.number) != (trial.group, trial.number)
        ]
        if others:
            lines.append(f"{planned.fold} is shared with {', '.join(others)}")
        folds.append({"key": planned.key, "fold": str(planned.fold), "state": state, "shared_with": others})
    decisions = _decisions(store, trial.group, trial.number)
    lines += [_decision_line(decision) for decision in decisions]
    line, selection = _selection(known, trial.group)
    facts = {
        "trial": trial_name(trial.group, trial.number),
        **_origin_facts(trial),
        "folds": folds,
        "decisions": [asdict(decision) for decision in decisions],
        "choices": {trial.group: selection},
    }
    return Explanation(subject=trial_name(trial.group, trial.number), lines=(*lines, line), facts=facts)


def trial_outcomes(store: SweepFolder, group: FoldGroup) -> list[TrialOutcome]:
    """How a group's trials stand, by number."""
    states = StoredStates(store.folds, living_owner=store.living_owner())
    view = read_group_view(store, group, states=states)
    return [
        TrialOutcome(
            number=trial.number,
            states=tuple(states.state(planned.key) for planned in trial.folds),
            accuracy=view.objective(trial),
        )
        for trial in view.trials
    ]


def _purpose(known: KnownFolds, use: Use, trial: TrialRecord) -> str:
    if use.purpose == "repeat":
        return (
            f"run because trial {use.number} is selected in {use.group}: the selected trial is repeated on every seed"
        )
    if use.purpose == "selection":
        return f"run for leave-one-domain-out selection of trial {use.number} in {use.group}"
    return _origin(known, trial)


def _origin(known: KnownFolds, trial: TrialRecord) -> str:
    """Where a trial's point came from, and what its sampler went by."""
    where = f"tried as trial {trial.number} of {trial.group}"
    if trial.source == "paper":
        return f"{where}: the sweep's own hyperparameters (the paper's, where nothing overrides them) come first"
    sweep = known.store.sweep()
    assert sweep is not None, "only a sweep has trials"
    learns = learning(sweep.sampler, len(trial.point))
    if learns is None:
        return f"{where}: drawn by the sampler {sweep.sampler}, which looks at no other trial"
    told = sum(len(trial.history.get(state, ())) for state in learns.counted)
    if told < learns.fewest:
        over = " or ".join(learns.counted)
        return (
            f"{where}: drawn without a look at other trials, for the sampler {sweep.sampler} learns once "
            f"{learns.fewest} of them are {over}, and {told} were"
        )
    seen = [
        f"{state} {', '.join(map(str, trial.history[state]))}" for state in learns.states if trial.history.get(state)
    ]
    return f"{where}: suggested by the sampler {sweep.sampler}, which knew of the trials {'; '.join(seen)}"


def _decisions(store: SweepFolder, group: str, number: int) -> list[Decision]:
    """The comparison that ended a trial, or would have ended it."""
    return [
        decision
        for decision in read_decisions(store, group)
        if decision.number == number and decision.verdict != "keep"
    ]


def _is_about(decision: Decision, key: str) -> bool:
    """Whether a decision about a trial bears on one of its folds."""
    if decision.rule == "overtake":
        return decision.verdict == "audit" or key in decision.folds
    return key in (decision.key, *decision.folds)


def _decision_line(decision: Decision, key: str = "") -> str:
    """A decision in words; with a fold's key, as one about that fold."""
    if decision.verdict == "audit":
        return f"condemned and let run on, so that the regret is known ({decision.line})"
    if key and (key != decision.key or decision.rule == "overtake"):
        return f"pruned with its trial: {decision.line}"
    return f"pruned: {decision.line}"


def _elsewhere(state: Mapping[str, Any]) -> list[str]:
    """What another sweep on the store decided about a fold."""
    if state["pruned"] is None:
        return []
    return [f"pruned by another sweep on the store: {decision_from_mapping(state['pruned']).line}"]


def _origin_facts(trial: TrialRecord) -> dict[str, Any]:
    return {"source": trial.source, "history": dict(trial.history), "point": dict(trial.point)}


def _point_line(trial: TrialRecord) -> str:
    point = ", ".join(f"{name}={_short(value)}" for name, value in sorted(trial.point.items()))
    return f"hyperparameters searched: {point or 'none, the space has no dimension here'}"


def _state(store: SweepFolder, key: str) -> tuple[list[str], dict[str, Any]]:
    state, _ = store.folds.standing(key, store.living_owner())
    history, result = store.folds.failures(key), store.folds.result(key)
    facts: dict[str, Any] = {
        "state": state,
        "pruned": store.folds.pruned(key),
        "failed_attempts": len(history.attempts),
    }
    lines = []
    if result is not None:
        facts |= {"source_validation_accuracy": result.accuracy, "checkpoint": result.selected}
        rule = ", ".join(f"{name} {_short(value)}" for name, value in result.selected.items())
        lines.append(f"done in {duration(result.seconds)}: source validation {_percent(result.accuracy)} ({rule})")
    if history.attempts:
        last = history.attempts[-1]
        facts |= {"error": last.error, "kind": last.kind}
        word = "failed" if history.failed else "to be tried again"
        lines.append(f"{word} after {len(history.attempts)} ({last.kind}): {last.error}")
    if not lines or state == "running":
        lines.append({"running": "running now", "waiting": "waiting to be run"}.get(state, state))
    return lines, facts


def _selection(known: KnownFolds, group: str) -> tuple[str, dict[str, Any]]:
    """Which trial is selected in a group, among which."""
    outcomes = trial_outcomes(known.store, known.groups[group])
    selected = known.selected.get(group)
    facts: dict[str, Any] = {
        "chosen": None if selected is None else selected.number,
        "trials_planned": known.groups[group].trials,
        "source_validation": {str(outcome.number): outcome.accuracy for outcome in outcomes},
    }
    listed = "; ".join(outcome.text for outcome in outcomes)
    if selected is None:
        left = known.groups[group].trials - sum(outcome.accuracy is not None for outcome in outcomes)
        return f"{group} has no selected trial yet, {left} of its trials have no result ({listed})", facts
    if known.groups[group].trials == 1:
        return f"{group}: trial {selected.number} is the only one, nothing was searched", facts
    if selected == known.store.records.selected(group, "leave_one_domain_out"):
        scores = held_out_scores(known.store, known.groups[group])
        facts["left_out"] = {str(number): accuracy for number, accuracy in scores.items()}
        judged = "; ".join(f"trial {number} {accuracy:.1%}" for number, accuracy in scores.items())
        return (
            f"{group} selected trial {selected.number}: the best mean accuracy on the source domains that pair folds "
            f"left out ({judged}), the later of equals; source validation: {listed}",
            facts,
        )
    return (
        f"{group} selected trial {selected.number}: "
        f"the best source validation accuracy, the later of equals ({listed})",
        facts,
    )


def _align(known: KnownFolds, fold: KnownFold) -> tuple[list[str], dict[str, Any] | None]:
    """The Align stage a fold has, and who else has it."""
    store = known.store
    spec = store.folds.spec(fold.key)
    if not method_facts(fold.method).aligns or spec is None:
        return [], None
    sharing = [other.label for other in known.folds if other.key != fold.key and _same_align(store, other, spec)]
    result = store.folds.result(fold.key)
    reused = None if result is None else result.align_reused
    facts = {"key": spec.align_key, "reused": reused, "shared_with": sharing}
    did = {True: "took over", False: "ran", None: "uses"}[reused]
    more = f" and {len(sharing) - LISTED} more" if len(sharing) > LISTED else ""
    others = f"; shared with {', '.join(sharing[:LISTED])}{more}" if sharing else "; no other fold has started with it"
    return [f"{did} Align stage {spec.align_key[:12]}{others}"], facts


def _same_align(store: SweepFolder, other: KnownFold, spec: Any) -> bool:
    if not method_facts(other.method).aligns or other.fold.test_domains != spec.fold.test_domains:
        return False
    theirs = store.folds.spec(other.key)
    return theirs is not None and theirs.align_key == spec.align_key


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _percent(value: Any) -> str:
    return "nothing" if value is None else f"{float(value):.2%}"
