"""Benchmarks as values, and the step arithmetic."""

from __future__ import annotations

import pytest

from search_spaces.benchmarks import (
    BENCHMARKS,
    HEADLINE,
    benchmark,
    parse_benchmarks,
    steps_and_interval,
)
from search_spaces.errors import UserError
from search_spaces.folds import leave_one_domain_out, leave_two_domains_out
from tests.support.golden import golden_json


def test_the_packaged_benchmark() -> None:
    value = BENCHMARKS["icons"]
    assert (value.num_images, value.num_classes, len(set(value.class_names))) == (2_039, 13, 13)
    assert " ".join(domain.letter for domain in value.domains) == "C F L R"


def test_the_five_have_22_folds_and_39_pair_folds() -> None:
    values = [BENCHMARKS[name] for name in HEADLINE]
    assert sum(len(list(leave_one_domain_out(value, [0]))) for value in values) == 22
    assert sum(len(list(leave_two_domains_out(value, [0]))) for value in values) == 39


def test_class_folders_are_spelt_as_on_disk() -> None:
    office_home, domain_net = benchmark("OfficeHome").class_names, benchmark("DomainNet").class_names
    assert office_home[:2] == ("Alarm_Clock", "Backpack")
    assert {"Flipflops", "Postit_Notes", "ToothBrush", "TV", "Table"} <= set(office_home)
    assert office_home.index("TV") < office_home.index("Table")
    assert domain_net[:4] == ("The_Eiffel_Tower", "The_Great_Wall_of_China", "The_Mona_Lisa", "aircraft_carrier")
    assert domain_net[-1] == "zigzag"
    assert {"t-shirt", "teddy-bear", "animal_migration"} <= set(domain_net)


def test_names_are_read_in_any_case_once_each() -> None:
    assert parse_benchmarks("vlcs, PACS,pacs") == ("VLCS", "PACS")
    assert parse_benchmarks("all") == HEADLINE


def test_an_unknown_benchmark_names_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown benchmark 'OficeHome'; nearest: OfficeHome"):
        parse_benchmarks("PACS,OficeHome")


def test_an_unknown_domain_names_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown PACS domain 'scetch'; nearest: sketch"):
        benchmark("PACS").check_domain("scetch")


def test_no_benchmark_is_refused() -> None:
    with pytest.raises(UserError, match="no benchmark named"):
        parse_benchmarks(" , ")


def test_golden_step_arithmetic() -> None:
    cases = golden_json("steps_records.json")["main"]
    assert cases
    for case in cases:
        own = benchmark(case["dataset"])
        options = dict(zip(case["argv"][::2], case["argv"][1::2], strict=False))
        steps = int(options.get("--steps", 0)) or own.num_steps
        every = int(options.get("--checkpoint_freq", 0)) or own.evaluate_every
        if "--debug" in case["argv"]:
            steps, every = 10, 5
        num_steps, interval = steps_and_interval(steps, every)
        assert (num_steps, interval) == (case["n_steps"], case["checkpoint_freq"]), case
        evaluations = [step for step in range(num_steps) if step % interval == 0]
        assert evaluations[0] == case["first_checkpoint"]
        assert evaluations[-1] == case["last_checkpoint"] == num_steps - 1
        assert len(evaluations) == case["n_checkpoints"]


def test_nonsense_steps_are_refused() -> None:
    with pytest.raises(UserError, match="1 or more"):
        steps_and_interval(0, 200)
