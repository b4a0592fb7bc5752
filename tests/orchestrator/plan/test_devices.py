"""The plan says on what folds compute; a GPU that is there and not used is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cli import run
from orchestrator.plan.devices import device_line

CPU, GPU = 0.0, 0.5


@pytest.fixture(autouse=True)
def local(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


def nvidia_smi(folder: Path, *gpus: str, code: int = 0) -> None:
    lines = "".join(f"echo '{gpu}'\n" for gpu in gpus)
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{lines}exit {code}\n")
    (folder / "nvidia-smi").chmod(0o755)


def test_a_gpu_that_is_there_is_named_and_one_that_is_not(tmp_path: Path) -> None:
    nvidia_smi(tmp_path, code=9)
    assert device_line(CPU) == "device: the CPU"
    assert "nvidia-smi lists none here, and without one the sweep does not start" in device_line(GPU)
    nvidia_smi(tmp_path, "NVIDIA X, 80 GiB", "NVIDIA Y, 8 GiB")
    there = "NVIDIA X, 80 GiB; NVIDIA Y, 8 GiB"
    assert device_line(CPU) == f"device: the CPU, although there is {there}: add --gpus-per-worker 1 to use it"
    assert device_line(GPU) == f"device: 0.5 GPUs for each worker, of {there}"


def test_a_clusters_device_is_decided_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "0.5 GPUs for each worker; which one the cluster at 10.0.0.1:6379 decides at the start"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert device_line(GPU) == f"device: {said}"
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:1")
    assert said in device_line(GPU, address="10.0.0.1:6379")


def test_the_plan_says_device_and_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nvidia_smi(tmp_path, "NVIDIA X, 80 GiB")
    assert run(["plan", "--benchmark", "icons", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "add --gpus-per-worker 1 to use it" in printed
    assert f"results: {tmp_path / 'out'}" in printed
    assert run(["plan", "--benchmark", "icons", "--json"]) == 0
    assert '"device": "device: the CPU, although there is NVIDIA X' in capsys.readouterr().out
