"""SWAD's memory: how many copies are held, where, and that neither changes a number."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from itertools import product

import pytest
import torch
from torch import Tensor

from search_spaces.hyperparameters import Swad
from trainables.fitting.swad import DenseAverager, WeightAverage

SIZE = 64
EVERY = 2

# Falling, then rising slowly, then steeply: converges, goes on in the valley, and dies.
LOSSES = [3.0, 2.0, 1.5, 1.0, 1.01, 1.02, 1.03, 1.05, 1.04, 1.06, 1.1, 1.2, 1.3, 1.5, 1.8, 2.2, 2.6, 3.0, 3.5, 4.0]


def _weights(step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {"a": torch.randn(SIZE, generator=generator), "b": torch.randn(3, 5, generator=generator)}


def _copies(averager: DenseAverager) -> int:
    """Distinct tensors of the weight `a` that the averager keeps alive."""
    held = {id(thing.untyped_storage()): thing for thing in _tensors(averager.state()) if thing.shape == (SIZE,)}
    return len({tensor.data_ptr() for tensor in held.values()})


def _tensors(state: object) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict | list):
        for item in state.values() if isinstance(state, dict) else state:
            yield from _tensors(item)


def _steps(averager: DenseAverager) -> Iterator[int]:
    """Train on made-up weights; yields the step after each update and after each evaluation."""
    for step in range(EVERY * len(LOSSES)):
        averager.after_step(_weights(step), step)
        yield step
        if step % EVERY == 0:
            ended = averager.after_evaluation(step, LOSSES[step // EVERY])
            yield step
            if ended:
                return


@pytest.mark.parametrize(("num_converge", "num_tolerate"), list(product([1, 2, 3, 5], [1, 2, 3, 6])))
def test_copies_stay_within_the_two_windows(num_converge: int, num_tolerate: int) -> None:
    averager = DenseAverager(Swad(num_converge=num_converge, num_tolerate=num_tolerate, tolerance_ratio=0.3))
    counts: dict[bool, list[int]] = {False: [], True: []}
    for _ in _steps(averager):
        counts[averager.valley.converge_step is not None].append(_copies(averager))
    assert max(counts[False]) <= num_converge + num_tolerate
    assert 1 < max(counts[True]) <= num_tolerate + 1, "in the valley the window of convergence is of no use any more"


def test_nothing_but_averages_is_kept_alive() -> None:
    """Counted by the collector, not by the averager's own account: all its tensors together fit the bound."""
    marked = 4_321
    averager = DenseAverager(Swad())
    gc.collect()
    most = 0
    for step in range(EVERY * len(LOSSES)):
        averager.after_step({"w": torch.full((marked,), float(step))}, step)
        if step % EVERY == 0 and averager.after_evaluation(step, LOSSES[step // EVERY]):
            break
        most = max(most, sum(type(o) is Tensor and o.shape == (marked,) for o in gc.get_objects()))
    assert 1 < most <= 3 + 6


@pytest.mark.parametrize("segments", ["every_evaluation", "authors"])
def test_the_device_changes_no_number(segments: str) -> None:
    devices = [None, torch.device("cpu")]
    if torch.cuda.is_available():
        devices.append(torch.device("cuda"))
    results = []
    for device in devices:
        averager = DenseAverager(Swad(segments=segments), device=device)  # type: ignore[arg-type]
        for _ in _steps(averager):
            pass
        results.append(averager.result())
    assert results[0].count > 1
    for other in results[1:]:
        assert (other.count, other.end_step) == (results[0].count, results[0].end_step)
        for name, weight in results[0].weights.items():
            assert torch.equal(weight, other.weights[name].cpu())


def test_the_average_is_no_view_of_the_weights() -> None:
    averager = DenseAverager(Swad(), device=torch.device("cpu"))
    weights = {"w": torch.ones(3)}
    averager.after_step(weights, 0)
    weights["w"].add_(1.0)
    assert averager.segment.weights["w"].tolist() == [1.0, 1.0, 1.0]


def test_a_resumed_average_lies_where_the_user_said() -> None:
    averager = DenseAverager(Swad(), device=torch.device("cpu"))
    for step in _steps(averager):
        if step == 8:
            break
    resumed = DenseAverager(Swad(), device=torch.device("meta"))
    resumed.load_state(averager.state())
    assert {tensor.device.type for tensor in _tensors(resumed.state())} == {"meta"}


def test_averages_lie_on_the_device_that_is_asked_for() -> None:
    """Torch's `meta` device has shapes and no numbers: it stands for a GPU here."""
    elsewhere, beside = WeightAverage(torch.device("meta")), WeightAverage()
    for step in range(3):
        for average in (elsewhere, beside):
            average.add(_weights(step), step, step)
    again = WeightAverage.from_state(beside.state(), torch.device("meta"))
    frozen = elsewhere.frozen(0.5)
    for average in (elsewhere, again, frozen):
        assert {weight.device.type for weight in average.weights.values()} == {"meta"}
    frozen.count = 0
    frozen.add(_weights(4), 4, 4)
    assert frozen.weights["a"].device.type == "meta"
    assert beside.weights["a"].device.type == "cpu"
