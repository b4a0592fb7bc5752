"""What the store's finished folds measured, on the source side and on the test domain: the report's raw material.

Only the report reads this, for only the report opens `test.json`. Selection `oracle` looks at test-domain numbers; it
is computed only when asked for and labelled wherever it is printed. The other two are
in `orchestrator.search.selection_outcome`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

from orchestrator.plan.fold_groups import has_selection, is_shared_choice
from orchestrator.report.columns import measured
from orchestrator.search.group_view import States, read_group_view
from orchestrator.search.selection_outcome import MissingFolds, SelectionOutcome, outcome_of_trial, selection_outcome
from orchestrator.store.fold_states import StoredStates
from orchestrator.store.records import PlannedFold
from orchestrator.store.results import FoldResult, TestResult, check_fraction, parse_test
from orchestrator.store.sweep_folder import SweepFolder
from search_spaces.errors import UserError
from search_spaces.fold_groups import FoldGroup
from search_spaces.hyperparameters import FoldSpec
from search_spaces.sweeps import SweepSelection
from trainables.storage.finished_folds import stated_sha256
from trainables.storage.fold_folder import RUN_AGAIN, FoldFolder
from trainables.storage.json_files import damaged

Selection = Literal["source_validation", "leave_one_domain_out", "oracle"]

SELECTION_TITLES: dict[Selection, str] = {
    "source_validation": "training-domain validation",
    "leave_one_domain_out": "leave-one-domain-out cross-validation",
    "oracle": "oracle (test-domain selection; not a fair comparison)",
}

SHARED_CHOICE: dict[Selection, str] = {
    "source_validation": "folds that trained on a test domain's reported images have a say",
    "leave_one_domain_out": "accuracies on the reported images themselves have a say; not a fair comparison",
}
"""What one choice for all test domains reads, by selection. The oracle is labelled as it is."""


def selection_title(selection: Selection, *, shared: bool) -> str:
    """How a table names a selection in every format.

    Args:
        selection: how the configuration was selected.
        shared: one choice served all test domains of a benchmark.
    """
    title = SELECTION_TITLES[selection]
    if not shared or selection not in SHARED_CHOICE:
        return title
    return f"{title}, one choice for all test domains ({SHARED_CHOICE[selection]})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """One finished fold that a table counts."""

    group: str
    benchmark: str
    method: str
    test_domain: str
    seed: int
    trial: int
    """Number of the configuration in its fold group."""
    key: str
    spec: FoldSpec
    selection: Selection
    """How the configuration was selected."""
    shared_choice: bool
    """One choice served several test domains, this one among them."""
    rule: str
    """How the evaluated weights were selected: `swad`, `best_source_validation`, `last`, `zero_shot`."""
    values: Mapping[str, float | None]
    """Fractions by measure (`orchestrator.report.columns`); None where the fold has none."""
    test_images: int | None
    """Images in the test domain's 80% part; None where the fold does not say."""
    teacher_images: int
    """Images the teacher was asked for."""
    teacher_texts: int
    """Texts the teacher was asked for."""
    teacher_unconfirmed: int = 0
    """Queries of killed processes whose answers nobody saw: they may have been asked."""


class Measured(NamedTuple):
    """What a selection could measure, and what it lacks."""

    measurements: list[Measurement]
    """By benchmark, method, test domain and seed."""
    missing: list[MissingFolds]
    """By fold group, where folds are missing."""
    shortened: list[tuple[FoldGroup, int]]
    """Fold groups whose search a budget ended, with the number of the trials that were tried."""


def measure(store: SweepFolder, selection: Selection) -> Measured:
    """Every finished fold of the selected trials, and the folds that it needs and that are not there."""
    measurements: list[Measurement] = []
    missing: list[MissingFolds] = []
    shortened: list[tuple[FoldGroup, int]] = []
    states = StoredStates(store.folds)
    for group in store.groups():
        if selection == "oracle":
            known = _oracle(store, group, states)
        else:
            known = selection_outcome(read_group_view(store, group, selection=selection, states=states))
        if known.number is not None:
            found = [_measurement(store, group, known.number, planned, selection) for planned in known.folds]
            measurements += [item for item in found if item is not None]
        missing += [known.missing] if known.missing else []
        shortened += [(group, known.trials)] if 0 < known.trials < group.trials else []
    in_order = sorted(measurements, key=lambda item: (item.benchmark, item.method, item.test_domain, item.seed))
    return Measured(measurements=in_order, missing=missing, shortened=shortened)


def run_for(store: SweepFolder, group: FoldGroup) -> SweepSelection:
    """The selection whose folds a sweep ran: the oracle looks back at those."""
    run = (name for name in get_args(SweepSelection) if store.records.selected(group.name, name) is not None)
    return next(run, "source_validation")


def _oracle(store: SweepFolder, group: FoldGroup, states: States) -> SelectionOutcome:
    """The configuration that is best on the test domains' own 20% parts, on every seed.

    It is selected on the seed that was searched, where all of them ran: an error bar over seeds is about one
    configuration, unless each seed had a search of its own.
    """
    known = selection_outcome(read_group_view(store, group, selection=run_for(store, group), states=states))
    if known.number is None or not has_selection(group.method, group.trials):
        return known
    scores = {trial.number: _oracle_score(store, trial.folds) for trial in store.records.trials(group.name)}
    whole = [number for number, score in scores.items() if not math.isnan(score)]
    if not whole:
        return SelectionOutcome(missing=MissingFolds(group=group.name))
    best = max(whole, key=lambda number: (scores[number], number))
    return replace(outcome_of_trial(store, group, best), trials=known.trials)


def _oracle_score(store: SweepFolder, folds: Iterable[PlannedFold]) -> float:
    """Mean accuracy of the last step on the test domains' 20% parts; NaN where a fold is not done."""
    scores = []
    for planned in folds:
        folder, domain = store.folds.fold(planned.key), planned.fold.test_domain
        result = store.folds.result(planned.key)
        test = None if result is None else _test_result(folder, result, domain, last_step=True)
        score = None if test is None else test.out_accuracy
        scores.append(math.nan if score is None else score)
    return sum(scores) / len(scores)


def _measurement(
    store: SweepFolder, group: FoldGroup, trial: int, planned: PlannedFold, selection: Selection
) -> Measurement | None:
    folder = store.folds.fold(planned.key)
    domain, by_oracle = planned.fold.test_domain, selection == "oracle"
    result, spec = store.folds.result(planned.key), store.folds.spec(planned.key)
    test = None if result is None else _test_result(folder, result, domain, last_step=by_oracle)
    if result is None or test is None or spec is None:
        return None
    check_fraction(result.accuracy, folder.result, folder.advice)
    return Measurement(
        group=group.name,
        benchmark=group.benchmark,
        method=group.method,
        test_domain=domain,
        seed=planned.fold.seed,
        trial=trial,
        key=planned.key,
        spec=spec,
        selection=selection,
        shared_choice=is_shared_choice(group),
        rule="last" if by_oracle and result.rule != "zero_shot" else result.rule,
        values=measured(result, test, by_oracle=by_oracle),
        test_images=test.num_images,
        teacher_images=result.queries.images,
        teacher_texts=result.queries.texts,
        teacher_unconfirmed=result.queries.unconfirmed,
    )


def _test_result(folder: FoldFolder, result: FoldResult, domain: str, *, last_step: bool) -> TestResult | None:
    """What a finished fold's `test.json` says of a domain; None where there is none.

    Raises:
        DamagedFileError: the file is not the one that the result states, or says nothing of that domain.
        OtherFoldError: an accuracy is no fraction.
    """
    content = folder.read_test(sha256=stated_sha256(result.content, folder.test.name))
    if content is None:
        return None
    try:
        test = parse_test(content, domain, last_step=last_step)
    except (UserError, TypeError, ValueError, AttributeError, KeyError, OverflowError) as error:
        raise damaged(folder.test, str(error), RUN_AGAIN) from None
    for accuracy in (test.accuracy, test.balanced_accuracy, test.out_accuracy):
        if accuracy is not None:
            check_fraction(accuracy, folder.test, folder.advice)
    return test
