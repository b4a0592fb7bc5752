"""SWAD against the reference implementation's scenarios, and by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from search_spaces.hyperparameters import Swad
from tests.support.golden import golden_json
from trainables.fitting.swad import DenseAverager, LossValley, WeightAverage, starts_new_segment

RULES = {"every_checkpoint": "every_evaluation", "every_1000_after_2500": "authors"}


def _weights(step: int) -> dict[str, torch.Tensor]:
    values = [step, ((step * 7919) % 1009) / 1009, (step / 100) ** 2]
    return {"vec": torch.tensor(values, dtype=torch.float64)}


def _losses(scenario: dict[str, Any]) -> list[float]:
    return [float(loss) for loss in scenario["val_loss"]]


def _settings(scenario: dict[str, Any]) -> Swad:
    return Swad(
        segments=RULES[scenario["segment_reset"]],  # type: ignore[arg-type]
        num_converge=scenario["n_converge"],
        num_tolerate=scenario["n_tolerance"],
        tolerance_ratio=scenario["tolerance_ratio"],
    )


def _run(
    scenario: dict[str, Any], *, interrupted: bool = False
) -> tuple[DenseAverager, int | None, list[dict[str, Any]]]:
    averager = DenseAverager(_settings(scenario))
    losses, trace = _losses(scenario), []
    for step in range(scenario["n_steps"]):
        averager.after_step(_weights(step), step)
        if step % scenario["checkpoint_freq"] == 0:
            before = averager.segment
            died = averager.after_evaluation(step, losses[step // scenario["checkpoint_freq"]])
            trace.append(_traced(before, averager.valley))
            if died:
                return averager, step, trace
            if interrupted:
                state = averager.state()
                averager = DenseAverager(_settings(scenario))
                averager.load_state(state)
    return averager, None, trace


def _traced(segment: WeightAverage, valley: LossValley) -> dict[str, Any]:
    """The state after an evaluation, under the golden data's names."""
    average = valley.valley
    final = None
    if average is not None:
        vector = average.weights["vec"].tolist()
        final = {"start": average.start_step, "end": average.end_step, "n": average.count, "vec": vector}
    return {
        "seg_start": segment.start_step, "seg_end": segment.end_step, "seg_n": segment.count,
        "converge_step": valley.converge_step, "threshold": valley.threshold, "dead": valley.is_dead, "final": final,
    }  # fmt: skip


def _check_trace(ours: dict[str, Any], theirs: dict[str, Any], name: str) -> None:
    assert ours.keys() == theirs.keys()
    for key in ("seg_start", "seg_end", "seg_n", "converge_step", "dead"):
        assert ours[key] == theirs[key], (name, key, ours, theirs)
    for key in ("threshold", "final"):
        assert (ours[key] is None) == (theirs[key] is None), (name, key, ours, theirs)
    if theirs["threshold"] is not None:
        assert math.isclose(ours["threshold"], theirs["threshold"], rel_tol=1e-12), (name, ours, theirs)
    if theirs["final"] is not None:
        counted, expected = dict(ours["final"]), dict(theirs["final"])
        assert counted.pop("vec") == pytest.approx(expected.pop("vec"), rel=1e-9, abs=0.0), (name, ours, theirs)
        assert counted == expected, (name, ours, theirs)


def _scenarios() -> list[dict[str, Any]]:
    scenarios: list[dict[str, Any]] = golden_json("swad.json")["scenarios"]
    return scenarios


@pytest.mark.parametrize("interrupted", [False, True])
def test_every_golden_scenario(interrupted: bool) -> None:
    for scenario in _scenarios():
        expected = scenario["expected"]
        averager, early_stop_step, trace = _run(scenario, interrupted=interrupted)
        name, valley = scenario["name"], averager.valley
        assert len(trace) == expected["n_checkpoints_run"], name
        assert (len(trace) - 1) * scenario["checkpoint_freq"] == expected["last_checkpoint_step"], name
        assert (valley.converge_step is not None) == expected["converged"], name
        assert valley.converge_step == expected["converge_step"], name
        assert (valley.threshold is not None) == (expected["threshold"] is not None), name
        if valley.threshold is not None:
            assert math.isclose(valley.threshold, expected["threshold"], rel_tol=1e-12), name
        assert valley.is_dead == expected["dead_valley"], name
        assert early_stop_step == expected["early_stop_step"], name
        if "trace" in expected:
            for ours, theirs in zip(trace, expected["trace"], strict=True):
                _check_trace(ours, theirs, name)
        final = averager.result()
        assert (final.start_step, final.end_step, final.count) == tuple(
            expected["final"][key] for key in ("start", "end", "n")
        ), name
        torch.testing.assert_close(
            final.weights["vec"], torch.tensor(expected["final"]["vec"], dtype=torch.float64), rtol=1e-9, atol=0.0
        )


def test_mean_of_three_weights_by_hand() -> None:
    average = WeightAverage()
    for step, value in enumerate([1.0, 2.0, 6.0]):
        average.add({"w": torch.tensor([value])}, step, step)
    assert average.weights["w"].item() == 3.0
    assert (average.start_step, average.end_step, average.count) == (0, 2, 3)


def test_a_frozen_segment_does_not_move() -> None:
    average = WeightAverage()
    weight = torch.tensor([1.0])
    average.add({"w": weight}, 0, 0)
    frozen = average.frozen(0.5)
    weight.add_(1.0)
    average.add({"w": weight}, 1, 1)
    assert frozen.weights["w"].item() == 1.0
    assert average.weights["w"].item() == 1.5


@pytest.mark.parametrize(("step", "restarts"), [(0, False), (1000, False), (2000, False), (3000, True), (3200, False)])
def test_the_authors_segment_rule(step: int, restarts: bool) -> None:
    assert starts_new_segment("authors", step) is restarts
    assert starts_new_segment("every_evaluation", step) is True
