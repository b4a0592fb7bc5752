"""How many folds fit on a GPU, from what finished folds measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.plan.gpu_share import GIB, GpuShare, ShareTeller, gpu_share
from tests.support.stub_sweep import run_stub, stub_sweep
from trainables.fitting.gpu_memory import begin_measuring, gpu_memory
from trainables.storage.json_files import write_json


def held(peak: float, total: float = 80) -> dict[str, Any]:
    return {"peak_bytes": int(peak * GIB), "total_bytes": int(total * GIB)}


def test_folds_on_a_cpu_say_nothing_of_a_gpu() -> None:
    assert gpu_memory(torch.device("cpu")) is None
    assert gpu_share([None, None]) is None


def test_the_largest_fold_and_the_smallest_gpu_decide() -> None:
    share = gpu_share([held(7.5), held(11, 40), None])
    assert share == GpuShare(peak_bytes=11 * GIB, total_bytes=40 * GIB)
    assert share.folds == 3
    assert share.line == "a fold held up to 11.0 of 40.0 GiB of its GPU: 3 fit on one (--gpus-per-worker 0.333)"


@pytest.mark.parametrize(("peak", "folds"), [(71.1, 1), (35, 2), (34.9, 2), (9.2, 7), (0.1, 65)])
def test_a_tenth_of_the_gpu_is_left_and_each_process_has_its_context(peak: float, folds: int) -> None:
    share = gpu_share([held(peak)])
    assert share is not None
    assert share.folds == folds
    assert folds * (share.peak_bytes + GIB) <= 0.9 * share.total_bytes or folds == 1
    if folds == 1:
        assert share.line.endswith("GPU: a second one does not fit")


def test_a_share_is_told_once_and_again_only_where_fewer_fit() -> None:
    told: list[str] = []
    teller = ShareTeller(told.append)
    for memory in (None, held(7.5), held(7.4), held(7.6), held(35), held(7.5), held(35)):
        teller.look(memory)
    assert [line.rpartition(": ")[2] for line in told] == [
        "8 fit on one (--gpus-per-worker 0.125)",
        "2 fit on one (--gpus-per-worker 0.5)",
    ]


@pytest.mark.slow
def test_a_sweep_says_how_many_folds_fit_once_it_was_measured(tmp_path: Path) -> None:
    write_json(tmp_path / "BEHAVIOUR", {"gpu_memory": held(35)})
    _, events = run_stub(tmp_path, stub_sweep(trials=1, seeds=1, space="paper"))
    kinds = [event.kind if event.kind != "message" else event.text for event in events]
    line = "a fold held up to 35.0 of 80.0 GiB of its GPU: 2 fit on one (--gpus-per-worker 0.5)"
    assert kinds.count(line) == 1
    assert kinds[kinds.index(line) - 1] == "fold_done"


def test_what_torch_held_of_a_gpu_is_read_from_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for CUDA, which this machine may not have."""
    told: list[str] = []

    class Properties:
        total_memory = 80 * GIB

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: told.append("emptied"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: told.append(f"forgot {device}"))
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 3 * GIB)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    begin_measuring(torch.device("cuda:0"))
    assert told == ["emptied", "forgot cuda:0"]
    assert gpu_memory(torch.device("cuda:0")) == {"peak_bytes": 3 * GIB, "total_bytes": 80 * GIB}
