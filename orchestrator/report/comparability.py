"""Whether folds may be averaged: their fingerprints must agree on everything a search does not vary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.report.measurements import Measurement
from search_spaces.benchmarks import BENCHMARKS
from search_spaces.errors import UserError
from search_spaces.methods import method_facts

TABLE = ("selection", "data manifest", "trainer version", "view", "precision", "speed", "teacher", "teacher mode")
"""What the rows of one table agree on; the teacher among the methods that ask it."""

ROW = (*TABLE, "student", "checkpoint rule")
"""What the folds of one row agree on."""

SUMMARY = ("selection", "trainer version", "precision", "speed", "teacher", "teacher mode", "student")
"""What a row agrees on across benchmarks before the grand average is taken."""


def fingerprint(measurement: Measurement) -> dict[str, str]:
    """Names of what a fold was computed with. What a method does not use is left out."""
    spec, hyperparameters = measurement.spec, measurement.spec.hyperparameters
    registered = BENCHMARKS.get(measurement.benchmark)
    image_size = hyperparameters.image_size or (registered.image_size if registered else "the benchmark's own")
    facts = method_facts(measurement.method)
    content = {
        "data manifest": spec.data_manifest,
        "trainer version": spec.trainer_version,
        "view": f"{image_size} px",
        "precision": hyperparameters.precision,
    }
    if facts.asks:
        content["teacher"] = f"{hyperparameters.teacher} ({spec.teacher_fingerprint or 'by name'})"
        content["teacher mode"] = hyperparameters.teacher_mode
    if facts.trains:
        student = "the teacher's image encoder" if facts.student_is_teacher else hyperparameters.student
        content["selection"] = measurement.selection
        content["student"] = f"{student} ({spec.student_fingerprint or hyperparameters.student_weights})"
        content["checkpoint rule"] = measurement.rule
        content["speed"] = str(hyperparameters.speed)
    return content


def differing(measurements: Sequence[Measurement], names: Sequence[str]) -> dict[str, dict[str, list[Measurement]]]:
    """The fingerprints that take more than one value: for each its values, with the folds that have it."""
    found: dict[str, dict[str, list[Measurement]]] = {}
    for name in names:
        folds: dict[str, list[Measurement]] = {}
        for measurement in measurements:
            content = fingerprint(measurement)
            if name in content:
                folds.setdefault(content[name], []).append(measurement)
        if len(folds) > 1:
            found[name] = folds
    return found


def differences(measurements: Sequence[Measurement], names: Sequence[str]) -> list[str]:
    """One line for each fingerprint that takes more than one value, with the folds that have it."""
    return [
        f"{name} is " + ", but ".join(f"{value} in {_where(own)}" for value, own in folds.items())
        for name, folds in differing(measurements, names).items()
    ]


def check_comparable(measurements: Sequence[Measurement], names: Sequence[str], *, what: str) -> None:
    """Raises `UserError` that names what differs."""
    found = differences(measurements, names)
    if found:
        raise UserError(
            f"the folds of {what} cannot be averaged: {'; '.join(found)}; "
            "report --allow-mixed averages them and says so"
        )


def shared(measurements: Sequence[Measurement]) -> Mapping[str, str]:
    """Every fingerprint that all folds which have it agree on."""
    values: dict[str, set[str]] = {}
    for measurement in measurements:
        for name, value in fingerprint(measurement).items():
            values.setdefault(name, set()).add(value)
    return {name: next(iter(own)) for name, own in values.items() if len(own) == 1}


def _where(measurements: Sequence[Measurement]) -> str:
    first = measurements[0].spec
    more = f" and {len(measurements) - 1} more" if len(measurements) > 1 else ""
    return f"{first.method} {first.fold}{more}"
