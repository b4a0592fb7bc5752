"""A checkpoint comes back as it was, belongs to its stage, and says how many steps are left."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from trainables.fitting.checkpoint import STATE, load_checkpoint, save_checkpoint, steps_left


def state(**changes: Any) -> dict[str, Any]:
    weights = {"w": torch.tensor([1.0, 2.0])}
    known = {"stage": "align", "next_step": 7, "ended_early": False, "weights": weights}
    return dict.fromkeys(STATE) | known | changes


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "very" / "deep" / "checkpoint.pt"
    save_checkpoint(path, state())
    save_checkpoint(path, state(next_step=9))
    found = load_checkpoint(path, stage="align")
    assert found is not None
    assert found["next_step"] == 9
    assert torch.equal(found["weights"]["w"], torch.tensor([1.0, 2.0]))
    assert [file.name for file in path.parent.iterdir()] == ["checkpoint.pt"]


def test_another_stages_checkpoint_is_none(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    assert load_checkpoint(path, stage="align") is None
    save_checkpoint(path, state())
    assert load_checkpoint(path, stage="distill") is None


@pytest.mark.parametrize(
    ("changes", "stage", "left"),
    [
        ({}, "align", 13),
        ({"next_step": 20}, "align", 0),
        ({"next_step": 24}, "align", 0),
        ({"ended_early": True}, "align", 0),
        ({}, "distill", 20),
    ],
)
def test_steps_left_of_twenty(tmp_path: Path, changes: dict[str, Any], stage: str, left: int) -> None:
    path = tmp_path / "checkpoint.pt"
    assert steps_left(path, stage=stage, num_steps=20) == 20
    save_checkpoint(path, state(**changes))
    assert steps_left(path, stage=stage, num_steps=20) == left


class _Payload:
    def __reduce__(self) -> Any:
        return (print, ("a pickle ran",))


def test_a_checkpoint_cannot_run_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, state(extra=_Payload()))
    with pytest.raises(Exception, match="Weights only load failed"):
        load_checkpoint(path, stage="align")
    assert steps_left(path, stage="align", num_steps=20) == 20, "such a file is damaged, and the stage starts again"
    assert "a pickle ran" not in capsys.readouterr().out


def test_a_write_that_fails_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, state())
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(path, state(extra=lambda: None))
    found = load_checkpoint(path, stage="align")
    assert found is not None
    assert found["next_step"] == 7


def test_a_checkpoint_is_on_disk_before_it_takes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, written = tmp_path / "checkpoint.pt", []
    monkeypatch.setattr(os, "fsync", lambda descriptor: written.append((os.fstat(descriptor).st_size, path.exists())))
    save_checkpoint(path, state())
    assert written == [(path.stat().st_size, False)]


def test_a_checkpoint_of_a_gpu_is_read_on_the_cpu_and_its_weights_only_where_they_are_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, load, asked = tmp_path / "checkpoint.pt", torch.load, []

    def noted(file: Path, **settings: Any) -> Any:
        asked.append((settings["map_location"], settings["weights_only"], settings.get("mmap", False)))
        return load(file, **settings)

    save_checkpoint(path, state())
    monkeypatch.setattr(torch, "load", noted)
    load_checkpoint(path, stage="align")
    steps_left(path, stage="align", num_steps=20)
    assert asked == [("cpu", True, False), ("cpu", True, True)]
