"""Whether folds were made by the published protocol, so that a number may be compared with the paper's.

Data, teacher, student, arithmetic, steps and SWAD are the paper's; every other hyperparameter is the default of the
authors' code or lies in the ranges that it searches (space `official`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from orchestrator.report.measurements import Measurement, Selection
from search_spaces.benchmarks import BENCHMARKS, Benchmark, steps_and_interval
from search_spaces.claims import PAPER_TEACHER, PublishedRow
from search_spaces.hyperparameters import Hyperparameters, Speed, Swad
from search_spaces.methods import MethodFacts, method_facts
from search_spaces.schedule import stage_schedule
from search_spaces.spaces import apply_point, coordinate, search_space
from trainables.data.loading.splits import VALIDATION_FRACTION

JUDGED_APART = ("teacher", "teacher_mode", "student", "student_weights", "precision", "speed", "image_size")
"""Hyperparameters for which there is a rule of their own, as there is for steps and intervals."""


def departures(row: PublishedRow, folds: Sequence[Measurement], selection: Selection) -> list[str]:
    """Why a row's folds are no reproduction of a published row, once each; empty where they are.

    Args:
        row: The published row.
        folds: The folds of one benchmark and method.
        selection: How their configurations were selected.
    """
    reasons = [f"selection {selection}"] if selection != "source_validation" else []
    reasons += ["one choice for all test domains"] if any(fold.shared_choice for fold in folds) else []
    reasons += [reason for fold in folds for reason in _departures(row, fold)]
    return [*dict.fromkeys(reasons), *_other_images(folds)]


def _departures(row: PublishedRow, fold: Measurement) -> Iterator[str]:
    facts, benchmark = method_facts(fold.method), BENCHMARKS[fold.benchmark]
    ours = fold.spec.hyperparameters
    if facts.uses_teacher_images and ours.teacher != PAPER_TEACHER:
        yield f"teacher {ours.teacher}"
    if facts.uses_teacher_images and ours.teacher_mode != "live":
        yield f"teacher mode {ours.teacher_mode}"
    if row.student and ours.student != row.student:
        yield f"student {ours.student}"
    if facts.trains and not facts.student_is_teacher and ours.student_weights != "pretrained":
        yield "student not from the paper's weights"
    if ours.precision != "fp32":
        yield f"precision {ours.precision}"
    if facts.trains and ours.speed != Speed():
        yield f"speed {ours.speed}"
    if ours.image_size not in (None, benchmark.image_size):
        yield f"{ours.image_size} px views"
    if facts.trains:
        yield from _other_steps(ours, facts, benchmark)
        yield from _other_settings(row, ours, facts, benchmark)


def _other_steps(ours: Hyperparameters, facts: MethodFacts, benchmark: Benchmark) -> Iterator[str]:
    expected = steps_and_interval(benchmark.num_steps, benchmark.evaluate_every)
    for stage in facts.stages:
        steps, interval = stage_schedule(benchmark, ours, stage)
        if (steps, interval) != expected:
            yield f"{stage} of {steps:,} steps, evaluated every {interval:,}"


def _other_settings(
    row: PublishedRow, ours: Hyperparameters, facts: MethodFacts, benchmark: Benchmark
) -> Iterator[str]:
    """Settings that are neither the default nor what the authors search, as `distill.lr=0.01`."""
    default = Hyperparameters(student=ours.student)
    official = search_space("official").dimensions(benchmark, facts.name, default)
    searched = [key for key, dimension in official.items() if coordinate(ours, key) in dimension]
    rest = apply_point(ours, {key: coordinate(default, key) for key in searched})
    if row.swad is False and ours.swad.segments == "off":
        rest = replace(rest, swad=Swad())
    if ours.eval_batch_size == benchmark.eval_batch_size:
        rest = replace(rest, eval_batch_size=None)
    unused = {*JUDGED_APART, "evaluate_every", *(stage for stage in ("align", "distill") if stage not in facts.stages)}
    unused |= set() if facts.uses_image_weight else {"image_weight"}
    unused |= set() if facts.uses_temperature else {"kd_temperature"}
    expected = dict(_flat(asdict(default)))
    for name, value in _flat(asdict(rest)):
        if value != expected[name] and name.split(".")[0] not in unused and not name.endswith(".num_steps"):
            yield f"{name}={value}"


def _other_images(folds: Sequence[Measurement]) -> Iterator[str]:
    """One line where the test domains have other numbers of images than the paper's copy of the benchmark.

    Only the 80% parts are counted in a fold's folder: of two counts that differ by one image, it may not tell.
    """
    found = dict.fromkeys((fold.benchmark, fold.test_domain, fold.test_images) for fold in folds)
    lines = []
    for name, test_domain, test_images in found:
        known = next(domain for domain in BENCHMARKS[name].domains if domain.name == test_domain).num_images or 0
        expected = known - int(known * VALIDATION_FRACTION)
        if test_images != expected:
            lines.append(f"{test_domain} {'unknown' if test_images is None else f'{test_images:,}'} not {expected:,}")
    if lines:
        yield f"other test images: {', '.join(lines)}"


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
