"""What a model selection chooses in each fold group, read from the store alone, and which folds that still lacks.

Nothing here opens `test.json`; the oracle, which does, is in `orchestrator.report.measurements`.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from orchestrator.plan.fold_groups import chooses, domain_pairs
from orchestrator.search.pair_folds import held_out_validation, on_seeds, pair_folds
from orchestrator.search.selection import SourceValidation, select
from orchestrator.store.records import ConfirmationRecord, GroupRecord, PlannedFold, TrialRecord
from orchestrator.store.sweep_folder import SweepFolder
from search_spaces.folds import Fold
from search_spaces.sweeps import SweepSelection

NAMED = 3
"""Missing folds of one kind that a line names; the others are counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Missing:
    """Folds that a selection needs and the store lacks."""

    group: str
    trials: int = 0
    """Configurations that are not tried yet, or not to the end."""
    pairs: tuple[tuple[int, Fold], ...] = ()
    """Pair folds, with the number of the trial that they judge."""
    seeds: tuple[tuple[int, Fold], ...] = ()
    """Folds of the chosen trial, with its number."""

    def __bool__(self) -> bool:
        return bool(self.trials or self.pairs or self.seeds)


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What a selection makes of one fold group."""

    number: int | None = None
    """The chosen trial; None while folds are missing, or where none could be judged."""
    folds: tuple[PlannedFold, ...] = ()
    """That trial's folds on every seed, done or not."""
    trials: int = 0
    """Of how many trials it was chosen, where a budget ended the search; 0 for all."""
    missing: Missing


def choice(store: SweepFolder, group: GroupRecord, domains: Sequence[str], selection: SweepSelection) -> Choice:
    """Choose as a sweep with this selection does; what a sweep wrote down before stands.

    Args:
        store: What is read.
        group: The fold group.
        domains: All domains of its benchmark.
        selection: What the choice goes by.
    """
    if not chooses(group.method, group.trials):
        selection = "source_validation"
    written = standing(store, group.name, selection)
    if written is not None:
        return replace(_chosen(store, group, written.number, written.folds), trials=written.trials)
    trials = store.records.trials(group.name)
    untried = group.trials - sum(_is_over(store, trial) for trial in trials)
    if untried:
        return Choice(missing=Missing(group=group.name, trials=untried))
    complete = {trial.number: trial for trial in trials if _source_validation(store, trial) is not None}
    judged = [score for trial in complete.values() if (score := _source_validation(store, trial)) is not None]
    if selection == "source_validation" or len(complete) < 2:
        number = select(judged).number if judged else None
    else:
        number, missing = _by_left_out_domains(store, group, domains, list(complete.values()))
        if missing:
            return Choice(missing=Missing(group=group.name, pairs=missing))
    if number is None:
        return Choice(missing=Missing(group=group.name))
    return _chosen(store, group, number, tuple(_on_all_seeds(store, group, complete[number])))


def standing(store: SweepFolder, group: str, selection: SweepSelection) -> ConfirmationRecord | None:
    """What a sweep chose, while that stands."""

    def has_failed(number: int) -> bool:
        (trial,) = (trial for trial in store.records.trials(group) if trial.number == number)
        return any(store.folds.attempts(planned.key).failed for planned in trial.folds)

    written = store.records.confirmation(group, selection)
    return written if written is not None and written.stands(has_failed) else None


def still_planned(store: SweepFolder, group: GroupRecord, selection: SweepSelection) -> Iterator[PlannedFold]:
    """Every fold of a group that a sweep with this selection still runs, of all that was ever written for it.

    The further seeds of a choice that is made anew, and the pair folds of another selection, are left as they are.
    """
    for trial in store.records.trials(group.name):
        yield from trial.folds
    if not chooses(group.method, group.trials):
        selection = "source_validation"
    if selection == "leave_one_domain_out":
        for record in store.records.pairs(group.name):
            yield from record.folds
    chosen = standing(store, group.name, selection)
    yield from () if chosen is None else chosen.folds


def is_hopeless(store: SweepFolder, group: GroupRecord, selection: SweepSelection) -> bool:
    """Whether everything has ended and there is nothing to choose: none of several configurations is whole."""
    trials = store.records.trials(group.name)
    if group.trials == 1 or len(trials) < group.trials or not all(_is_over(store, trial) for trial in trials):
        return False
    whole = [trial for trial in trials if _source_validation(store, trial) is not None]
    if len(whole) < 2 or selection == "source_validation" or not chooses(group.method, group.trials):
        return not whole
    pairs = store.records.pairs(group.name)
    if any(_waits(store, planned) for record in pairs for planned in record.folds):
        return False
    return bool(pairs) and all(any(store.folds.attempts(fold.key).failed for fold in record.folds) for record in pairs)


def _by_left_out_domains(
    store: SweepFolder, group: GroupRecord, domains: Sequence[str], trials: Sequence[TrialRecord]
) -> tuple[int | None, tuple[tuple[int, Fold], ...]]:
    """The trial that leave-one-domain-out selection chooses, or the pair folds that it lacks."""
    scores, missing = [], []
    for trial in trials:
        folds = trial_pairs(store, group, domains, trial)
        missing += [(trial.number, planned.fold) for planned in folds if _waits(store, planned)]
        score = held_out_validation(store, trial.number, folds, group.test_domains)
        if score is not None:
            scores.append(score)
    return (select(scores).number if scores and not missing else None), tuple(missing)


def trial_pairs(
    store: SweepFolder, group: GroupRecord, domains: Sequence[str], trial: TrialRecord
) -> tuple[PlannedFold, ...]:
    """The pair folds that judge a trial, whether anybody planned them or not."""
    spec = store.folds.spec(trial.folds[0].key)
    return () if spec is None else pair_folds(spec, domain_pairs(group.test_domains, domains))


def _on_all_seeds(store: SweepFolder, group: GroupRecord, trial: TrialRecord) -> Iterator[PlannedFold]:
    for planned in trial.folds:
        yield planned
        spec = store.folds.spec(planned.key)
        if spec is not None:
            yield from on_seeds(spec, group.all_seeds[1:])


def chosen_on_all_seeds(store: SweepFolder, group: GroupRecord, number: int) -> Choice:
    """A trial's folds on every seed, as a selection that chose it would have them run, and those that were not."""
    for selection in get_args(SweepSelection):
        written = store.records.confirmation(group.name, selection)
        if written is not None and written.number == number:
            return _chosen(store, group, number, written.folds)
    (trial,) = (trial for trial in store.records.trials(group.name) if trial.number == number)
    return _chosen(store, group, number, tuple(_on_all_seeds(store, group, trial)))


def _chosen(store: SweepFolder, group: GroupRecord, number: int, folds: tuple[PlannedFold, ...]) -> Choice:
    waiting = tuple((number, planned.fold) for planned in folds if _waits(store, planned))
    return Choice(number=number, folds=folds, missing=Missing(group=group.name, seeds=waiting))


def _source_validation(store: SweepFolder, trial: TrialRecord) -> SourceValidation | None:
    """What the trial is judged by; None where a fold failed or is not done."""
    accuracies = []
    for planned in trial.folds:
        result = None if store.folds.attempts(planned.key).failed else store.folds.fold(planned.key).read_result()
        value = None if result is None else result["source_validation"]["accuracy"]
        if value is None or not math.isfinite(value):
            return None
        accuracies.append(float(value))
    return SourceValidation(number=trial.number, accuracy=math.fsum(accuracies) / len(accuracies))


def _is_over(store: SweepFolder, trial: TrialRecord) -> bool:
    return not any(_waits(store, planned) for planned in trial.folds)


def _waits(store: SweepFolder, planned: PlannedFold) -> bool:
    """Whether the fold may still be done: neither done, failed nor stopped for good."""
    return store.folds.fold_state(planned.key, None) in ("waiting", "running")


def missing_line(store: SweepFolder, missing: Sequence[Missing], selection: str) -> str:
    """One line: how many folds a selection lacks, the first of each kind, and the command that runs them.

    None runs the further seeds of what the oracle chose.
    """
    lacking = [item for item in missing if item]
    parts = []
    trials = [(item.group, item.trials) for item in lacking if item.trials]
    if trials:
        named = ", ".join(f"{count} of {group}" for group, count in trials[:NAMED])
        parts.append(f"{sum(count for _, count in trials):,} trials ({named}{_more(trials)})")
    for kind, title in (("pairs", "pair folds"), ("seeds", "folds of the chosen configurations")):
        folds = [(item.group, number, fold) for item in lacking for number, fold in getattr(item, kind)]
        distinct = list(dict.fromkeys(folds))
        if folds:
            named = ", ".join(f"{group} trial {number}: {_where(fold)}" for group, number, fold in distinct[:NAMED])
            parts.append(f"{len(distinct):,} {title} ({named}{_more(distinct)})")
    if not parts:
        return ""
    lacks = f"selection {selection} lacks {', '.join(parts)}"
    if selection == "oracle" and not trials:
        return f"{lacks}; no sweep runs them, for none chooses by test-domain numbers"
    return f"{lacks}; to run them: {sweep_command(store, selection)}"


def sweep_command(store: SweepFolder, selection: str) -> str:
    """The command that runs what a selection lacks."""
    sweep = store.sweep()
    own_data = [] if sweep is not None and set(sweep.benchmarks) == {"icons"} else ["--data-root", "DIR"]
    choosing = [] if selection == "oracle" else ["--selection", selection]
    words = ["sweep", "--config", str(store.sweep_file), "--out", store.where, *own_data, *choosing]
    return f"vl2v-orchestrate {shlex.join(words)} -y"


def _where(fold: Fold) -> str:
    return f"{'+'.join(fold.test_domains)} seed {fold.seed}"


def _more(items: Sequence[object]) -> str:
    return f" and {len(items) - NAMED:,} more" if len(items) > NAMED else ""
