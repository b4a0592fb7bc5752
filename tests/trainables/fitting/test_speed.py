"""Options outside exact mode: named in the key, refused where they cannot work, never called a reproduction."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from search_spaces.errors import UserError
from search_spaces.hyperparameters import Hyperparameters, Resources, Speed, StageHyperparameters
from tests.support.small_folds import Interrupted, assert_same_weights, losses, run_small_fold
from tests.support.stage_updates import stage_updates
from trainables.fitting import speed as speed_module
from trainables.fitting.speed import adam, arranged, check_compiler, compiled
from trainables.jobs import FoldJob
from trainables.worker import preflight, run_job

MakeJob = Callable[..., FoldJob]


def test_two_steps_of_adam_by_hand() -> None:
    """The penalty turns the first gradient round (0.1 - 0.3 * 2 < 0); decoupled decay, as AdamW's, would not."""
    weight = nn.Parameter(torch.tensor([-2.0], dtype=torch.float64))
    optimizer = adam([weight], StageHyperparameters(lr=0.01, weight_decay=0.3), Speed())
    assert type(optimizer) is torch.optim.Adam
    value, mean, square = -2.0, 0.0, 0.0
    for step, own in ((1, 0.1), (2, 0.4)):
        weight.grad = torch.tensor([own], dtype=torch.float64)
        optimizer.step()
        gradient = own + 0.3 * value
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        value -= 0.01 * (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)) ** 0.5 + 1e-8)
        assert weight.item() == pytest.approx(value, rel=1e-12)
    assert optimizer.defaults["fused"] is None, "which form is left to torch in exact mode"
    assert adam([weight], StageHyperparameters(), Speed(fused_adam=True)).defaults["fused"] is True


def test_images_and_convolutions_are_arranged_and_nothing_else() -> None:
    images, features = torch.rand(2, 3, 4, 5), torch.rand(2, 3)
    assert arranged(images).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(arranged(images), images)
    assert arranged(features) is features
    convolution = arranged(nn.Conv2d(3, 2, 3))
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_module_is_compiled_after_everything_before_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[Any] = []
    monkeypatch.setattr(torch._dynamo, "reset", lambda: done.append("forgotten"))
    monkeypatch.setattr(speed_module.torch, "compile", lambda module, **settings: done.append((module, settings)))
    module = nn.Linear(1, 1)
    compiled(module)
    assert done == ["forgotten", (module, {"dynamic": False})]


def test_the_check_compiles_for_the_device_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[str] = []
    monkeypatch.setattr(
        speed_module.torch, "compile", lambda function, **settings: lambda numbers: devices.append(numbers.device.type)
    )
    check_compiler.cache_clear()
    check_compiler(torch.device("meta"))
    check_compiler.cache_clear()
    assert devices == ["meta"]


@pytest.mark.parametrize("option", ["compile", "channels_last", "fused_adam"])
def test_every_option_is_in_both_keys_and_has_a_name(make_job: MakeJob, option: str) -> None:
    speed = Speed(**{option: True})
    exact, fast = make_job().spec, make_job(speed=speed).spec
    assert exact.key != fast.key
    assert exact.align_key != fast.align_key
    assert (str(exact.hyperparameters.speed), str(speed)) == ("exact", option)


def test_pieces_and_the_place_of_averages_are_in_no_key_and_change_nothing_that_counts(make_job: MakeJob) -> None:
    whole = make_job(out="whole")
    pieces = make_job(out="pieces")
    pieces = replace(pieces, resources=Resources(batch_pieces=3, swad_device="cpu"))
    assert whole.spec.key == pieces.spec.key
    run_small_fold(whole)
    result = run_small_fold(pieces)
    for one, other in zip(losses(whole), losses(pieces), strict=True):
        assert (one[0], one[1], one[3]) == (other[0], other[1], other[3])
        assert other[2] == pytest.approx(one[2], abs=1e-5)
    assert result["teacher_queries"]["images"] == (5 + 9) * 12


def test_the_place_of_averages_changes_no_bit(make_job: MakeJob) -> None:
    here, there = make_job("erm", out="here"), make_job("erm", out="there")
    there = replace(there, resources=Resources(swad_device="cpu"))
    run_small_fold(here)
    assert run_small_fold(there)["chosen"]["rule"] == "swad"
    assert_same_weights(here, there)


def test_a_fold_outside_exact_mode_goes_on_where_it_was(make_job: MakeJob) -> None:
    speed = Speed(channels_last=True, fused_adam=True)
    whole, broken = (make_job("erm", out=out, speed=speed) for out in ("whole", "broken"))
    exact = make_job("erm", out="exact")
    reports = iter(range(100))

    def report(metrics: dict[str, Any]) -> None:
        if next(reports) == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        run_job(broken.to_mapping(), report)
    for job in (whole, broken, exact):
        run_small_fold(job)
    assert_same_weights(whole, broken)
    assert losses(whole) != losses(exact)
    assert [loss for *_, loss, _ in losses(whole)] == pytest.approx([loss for *_, loss, _ in losses(exact)], abs=1e-3)


def test_without_a_compiler_the_check_ends_in_one_line(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake stands for a machine whose compiler fails; the real thing is the slow test below."""

    def broken(numbers: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no C++ compiler\nand a long story")

    monkeypatch.setattr(speed_module.torch, "compile", lambda function, **settings: broken)
    check_compiler.cache_clear()
    with pytest.raises(UserError, match=r"^speed\.compile finds no compiler .* for cpu: no C\+\+ compiler; [^\n]*$"):
        preflight(make_job("erm", speed=Speed(compile=True)).to_mapping())
    check_compiler.cache_clear()


@pytest.mark.slow
def test_a_machine_without_a_compiler(tmp_path: Path) -> None:
    script = "import torch; from trainables.fitting.speed import check_compiler; check_compiler(torch.device('cpu'))"
    environment = os.environ | {"CXX": str(tmp_path / "no-compiler"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert "speed.compile finds no compiler that works for cpu" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_compiled_steps_agree_to_rounding() -> None:
    try:
        check_compiler(torch.device("cpu"))
    except UserError as error:
        pytest.skip(str(error))
    exact, *_ = stage_updates("erm", 1, dropout=0.0)
    settings = StageHyperparameters(lr=1e-2)
    fast = stage_updates("erm", 1, hyperparameters=Hyperparameters(distill=settings, speed=Speed(compile=True)))
    assert fast[0] == pytest.approx(exact, rel=1e-9)
