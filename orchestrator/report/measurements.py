"""What the store's finished folds measured, on the source side and on the test domain: the report's raw material.

Only the report reads this, for only the report opens `test.json`. Selection `oracle` looks at test-domain numbers; it
is computed only when asked for and labelled wherever it is printed. The other two choose
in `orchestrator.search.choices`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

from orchestrator.plan.fold_groups import chooses
from orchestrator.search.choices import Choice, Missing, choice, chosen_on_all_seeds
from orchestrator.search.pair_folds import planned_domains
from orchestrator.store.records import GroupRecord, PlannedFold
from orchestrator.store.sweep_folder import SweepFolder
from search_spaces.hyperparameters import FoldSpec
from search_spaces.sweeps import SweepSelection

Selection = Literal["source_validation", "leave_one_domain_out", "oracle"]

SELECTION_TITLES: dict[Selection, str] = {
    "source_validation": "training-domain validation",
    "leave_one_domain_out": "leave-one-domain-out cross-validation",
    "oracle": "oracle (test-domain selection; not a fair comparison)",
}


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
    """How the configuration was chosen."""
    rule: str
    """How the evaluated weights were chosen: `swad`, `best_source_validation`, `last`, `zero_shot`."""
    ood: float
    """Accuracy on the 80% part of the test domain; a fraction."""
    balanced: float | None
    """The same, every class counting alike."""
    in_domain: float | None
    """Mean accuracy over the source domains' 20% parts; None under oracle selection, which takes other weights."""
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
    missing: list[Missing]
    """By fold group, where folds are missing."""
    shortened: list[tuple[GroupRecord, int]]
    """Fold groups whose search a budget ended, with the number of the trials that were tried."""


def measure(store: SweepFolder, selection: Selection) -> Measured:
    """Every finished fold that the selection chose, and the folds that it needs and that are not there."""
    measurements: list[Measurement] = []
    missing: list[Missing] = []
    shortened: list[tuple[GroupRecord, int]] = []
    groups = store.groups()
    for group in groups:
        domains = planned_domains(groups, group.benchmark)
        known = _oracle(store, group, domains) if selection == "oracle" else choice(store, group, domains, selection)
        if known.number is not None:
            found = [_measurement(store, group, known.number, planned, selection) for planned in known.folds]
            measurements += [item for item in found if item is not None]
        missing += [known.missing] if known.missing else []
        shortened += [(group, known.trials)] if 0 < known.trials < group.trials else []
    in_order = sorted(measurements, key=lambda item: (item.benchmark, item.method, item.test_domain, item.seed))
    return Measured(measurements=in_order, missing=missing, shortened=shortened)


def run_for(store: SweepFolder, group: GroupRecord) -> SweepSelection:
    """The selection whose folds a sweep ran: the oracle looks back at those."""
    run = (name for name in get_args(SweepSelection) if store.records.confirmation(group.name, name) is not None)
    return next(run, "source_validation")


def _oracle(store: SweepFolder, group: GroupRecord, domains: Sequence[str]) -> Choice:
    """The configuration that is best on the test domains' own 20% parts, on every seed.

    It is chosen on the seed that was searched, where all of them ran: an error bar over seeds is about one
    configuration, unless every seed was searched anew.
    """
    known = choice(store, group, domains, run_for(store, group))
    if known.number is None or not chooses(group.method, group.trials):
        return known
    scores = {trial.number: _oracle_score(store, trial.folds) for trial in store.records.trials(group.name)}
    whole = [number for number, score in scores.items() if not math.isnan(score)]
    if not whole:
        return Choice(missing=Missing(group=group.name))
    best = max(whole, key=lambda number: (scores[number], number))
    return replace(chosen_on_all_seeds(store, group, best), trials=known.trials)


def _oracle_score(store: SweepFolder, folds: Iterable[PlannedFold]) -> float:
    """Mean accuracy of the last step on the test domains' 20% parts; NaN where a fold is not done."""
    scores = []
    for planned in folds:
        test = store.folds.fold(planned.key).read_test() if store.folds.fold(planned.key).is_done else None
        scores.append(float(test["last_step"]["out_accuracy"][planned.fold.test_domain]) if test else math.nan)
    return sum(scores) / len(scores)


def _measurement(
    store: SweepFolder, group: GroupRecord, trial: int, planned: PlannedFold, selection: Selection
) -> Measurement | None:
    folder = store.folds.fold(planned.key)
    result, test, spec = folder.read_result(), folder.read_test(), store.folds.spec(planned.key)
    if result is None or test is None or spec is None:
        return None
    part = test["last_step"] if selection == "oracle" else test
    domain = planned.fold.test_domain
    balanced = part.get("balanced_accuracy", {}).get(domain)
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
        rule="last" if selection == "oracle" and result["chosen"]["rule"] != "zero_shot" else result["chosen"]["rule"],
        ood=float(part["accuracy"][domain]),
        balanced=None if balanced is None else float(balanced),
        in_domain=None if selection == "oracle" else float(result["source_validation"]["accuracy"]),
        test_images=test.get("num_images", {}).get(domain),
        teacher_images=int(result.get("teacher_queries", {}).get("images", 0)),
        teacher_texts=int(result.get("teacher_queries", {}).get("texts", 0)),
        teacher_unconfirmed=int(result.get("teacher_queries", {}).get("unconfirmed", 0)),
    )
