"""Model selection against DomainBed's own answers, and the kind that cannot see a test accuracy."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import pytest

from orchestrator.report.cells import format_mean
from orchestrator.report.domainbed.selection import SELECTION_METHODS, group_records
from orchestrator.report.domainbed.tables import domainbed_cells, domainbed_tables
from orchestrator.search.selection import SourceValidation, select
from search_spaces.errors import UserError
from tests.support.golden import golden_json, golden_lines

GOLDEN_KEYS = {"iid": "source_validation", "loo": "leave_one_domain_out", "oracle": "oracle"}
SWEEPS = {"A_pairs": "records_A_pairs.jsonl.gz"}


@pytest.mark.parametrize("key", GOLDEN_KEYS)
def test_golden_micro_cases(key: str) -> None:
    method = SELECTION_METHODS[GOLDEN_KEYS[key]]
    for case in golden_json("selection.json")["micro"]:
        expected = case[key]
        assert method.sweep_accuracy(case["records"]) == expected["sweep_acc"], case["name"]
        if expected["run_acc"] is None:
            assert method.run_accuracies(case["records"]) is None, case["name"]
        elif isinstance(expected["run_acc"], dict):
            found = method.run_accuracies(case["records"])
            assert found is not None
            validation = expected["run_acc"]["val_acc"]
            assert math.isnan(found.validation) if validation is None else found.validation == validation
            assert found.test == expected["run_acc"]["test_acc"], case["name"]


@pytest.mark.parametrize("sweep", SWEEPS)
def test_golden_choices_are_exact(sweep: str) -> None:
    expected = golden_json("selection.json")["sweeps"][sweep]
    records = golden_lines(SWEEPS[sweep])
    assert len(records) == expected["n_records"]
    groups = {
        (group.trial_seed, group.dataset, group.algorithm, group.test_env): group for group in group_records(records)
    }
    assert len(groups) == len(expected["selection"])
    for case in expected["selection"]:
        group = groups[case["trial_seed"], case["dataset"], case["algorithm"], case["test_env"]]
        assert len(group.records) == case["n_records"]
        for key, name in GOLDEN_KEYS.items():
            ranking = [[seed, *pair] for seed, pair in SELECTION_METHODS[name].ranking(group.records)]
            assert ranking == case[key]["hparams_accs"]
            assert SELECTION_METHODS[name].sweep_accuracy(group.records) == case[key]["sweep_acc"]


@pytest.mark.parametrize("sweep", SWEEPS)
@pytest.mark.parametrize("key", GOLDEN_KEYS)
def test_golden_cells(sweep: str, key: str) -> None:
    expected = [cell for cell in golden_json("selection.json")["sweeps"][sweep]["cells"] if cell[0] == key]
    found = {
        cell[1:4]: cell[4:]
        for cell in domainbed_cells(golden_lines(SWEEPS[sweep]), SELECTION_METHODS[GOLDEN_KEYS[key]])
    }
    assert len(found) == len(expected) > 0
    for _, dataset, algorithm, domain, mean, error, text in expected:
        values = found[dataset, algorithm, domain]
        assert values[:2] == pytest.approx((mean, error), abs=1e-9)
        assert values[2] == text


@pytest.mark.parametrize("sweep", SWEEPS)
@pytest.mark.parametrize("form", ["text", "latex"])
def test_golden_printed_tables(sweep: str, form: str) -> None:
    expected = golden_json("selection.json")["sweeps"][sweep]["tables"][form]
    assert domainbed_tables(golden_lines(SWEEPS[sweep]), latex=form == "latex") == expected


def test_golden_format_mean() -> None:
    for data, latex, mean, error, text in golden_json("selection.json")["format_mean"]:
        found = format_mean(data, latex=latex)
        assert found[:2] == ((None, None) if mean is None else pytest.approx((mean, error), abs=1e-12))
        assert found[2] == text
    assert format_mean([0.5, 0.6], latex=True)[2] == r"55.0 $\pm$ 3.5"


def record(
    step: int, test: list[int], accuracies: list[float], *, hparams_seed: int = 0, **other: Any
) -> dict[str, Any]:
    """A DomainBed record whose in- and out-accuracies are equal, domain by domain."""
    settings = {"trial_seed": 0, "dataset": "Toy", "algorithm": "ERM", "test_envs": test, "hparams_seed": hparams_seed}
    content: dict[str, Any] = {"step": step, "args": {**settings, **other}}
    for domain, accuracy in enumerate(accuracies):
        content |= {f"env{domain}_in_acc": accuracy, f"env{domain}_out_acc": accuracy}
    return content


def test_nan_first_stays_in_a_run_but_loses_between_runs() -> None:
    method = SELECTION_METHODS["source_validation"]
    first_nan = [record(0, [0], [0.1, math.nan]), record(1, [0], [0.2, 0.9])]
    assert method.sweep_accuracy(first_nan) == 0.1
    other = record(0, [0], [0.3, 0.01], hparams_seed=-1)
    assert method.sweep_accuracy([*first_nan, other]) == 0.3


def test_unsorted_records_give_the_last_step_and_the_first_maximum_in_load_order() -> None:
    records = [record(20, [0], [0.2, 0.7]), record(0, [0], [0.1, 0.7]), record(10, [0], [0.3, 0.6])]
    assert SELECTION_METHODS["oracle"].sweep_accuracy(records) == 0.2
    assert SELECTION_METHODS["source_validation"].sweep_accuracy(records) == 0.2


def test_leave_one_domain_out_skips_steps_without_all_pairs() -> None:
    method = SELECTION_METHODS["leave_one_domain_out"]
    step_0 = [record(0, [0], [0.1, 0, 0]), record(0, [0, 1], [0, 0.4, 0]), record(0, [0, 2], [0, 0, 0.2])]
    step_1 = [record(1, [0], [0.9, 0, 0]), record(1, [0, 1], [0, 1.0, 0])]
    assert method.run_accuracies([*step_1, *step_0]) == pytest.approx((0.3, 0.1))
    doubled = [*step_0, record(0, [0], [0.8, 0, 0])]
    assert method.run_accuracies(doubled) is None
    repeated_pair = [*step_0, record(0, [2, 0], [0, 0, 0.6])]
    assert method.run_accuracies(repeated_pair) == pytest.approx((0.5, 0.1))


def test_a_dataset_without_a_name_prints_its_domain_numbers_and_missing_cells() -> None:
    records = [record(0, [0], [0.5, 0.25, 0.1])]
    text = domainbed_tables(records)
    assert "Algorithm             0                     1                     2                     Avg" in text
    assert "ERM                   50.0 +/- 0.0          X                     X                     X " in text


def test_select_takes_the_later_of_equals_and_never_nan() -> None:
    trials = [SourceValidation(number=number, accuracy=value) for number, value in enumerate([0.5, 0.7, 0.7, math.nan])]
    assert select(trials).number == 2
    assert select(trials[::-1]).number == 2
    assert select(trials[3:]).number == 3
    with pytest.raises(UserError, match="no finished trial"):
        select([])


def test_what_select_may_see_has_no_test_accuracy() -> None:
    assert {field.name for field in fields(SourceValidation)} == {"number", "accuracy"}
