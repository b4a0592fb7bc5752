"""The collectives of workers that share a fold: two processes over gloo, and one that needs none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed
from torch import nn

from tests.support.repository import REPOSITORY
from trainables.fitting.workers import Workers

PROGRAM = """
import json, sys
import torch, torch.distributed
from trainables.fitting.workers import Workers

torch.distributed.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=1, world_size=2)
workers = Workers(rank=1, size=2)
tensor = torch.tensor([3.0, 10.0])
total = workers.sum(tensor)
print(json.dumps({
    "sum": total.tolist(), "in_place": tensor.tolist(), "agreed": workers.agree({"rank": 1}),
    "is_first": workers.is_first,
}))
"""


def test_two_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They hold 1 and 3: the sum is 4, and the first one's word counts."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    meeting = tmp_path / "meeting"
    other = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(meeting)],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=0, world_size=2)
    try:
        first = Workers(rank=0, size=2)
        tensor = torch.tensor([1.0, 10.0])
        assert first.sum(tensor).tolist() == tensor.tolist() == [4.0, 20.0]
        assert first.agree({"rank": 0}) == {"rank": 0}
        told = json.loads(other.communicate(timeout=120)[0])
    finally:
        torch.distributed.destroy_process_group()
    assert told == {"sum": [4.0, 20.0], "in_place": [4.0, 20.0], "agreed": {"rank": 0}, "is_first": False}
    assert first.is_first


@pytest.mark.parametrize(("device", "device_ids"), [("cpu", None), ("cuda:1", [1])])
def test_gradients_are_averaged_by_torch_and_buffers_stay_a_workers_own(
    monkeypatch: pytest.MonkeyPatch, device: str, device_ids: list[int] | None
) -> None:
    monkeypatch.setattr(nn.parallel, "DistributedDataParallel", lambda *arguments, **settings: (arguments, settings))
    module = nn.Linear(1, 1)
    wrapped = Workers(rank=1, size=2, device=device).wrap(module)
    assert wrapped == ((module,), {"device_ids": device_ids, "broadcast_buffers": False})


def test_one_worker_needs_nobody() -> None:
    workers, module, tensor = Workers(), nn.Linear(1, 1), torch.tensor([3.0])
    assert (workers.rank, workers.size, workers.device) == (0, 1, torch.device("cpu"))
    assert workers.is_first
    assert workers.sum(tensor) is tensor
    assert tensor.item() == 3.0
    assert workers.agree("word") == "word"
    assert workers.wrap(module) is module
