"""The chaos script made small, and its checks shown what they must see."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.__main__ import deal
from tests.chaos.checks import fold_differences, metric_differences
from tests.chaos.sweeps import SCENARIOS, VICTIMS
from trainables.storage.fold_folder import FoldFolder
from trainables.storage.json_files import write_json

KILLS = 4


@pytest.mark.slow
def test_a_few_kills_change_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "tests.chaos", "--kills", str(KILLS), "--seed", "0", "--victims", "command,actor",
            "--scratch", tmp_path,
        ],
        capture_output=True, text=True, timeout=1200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{KILLS} kills over" in done.stdout


def test_kills_are_shared_out_evenly() -> None:
    hands = deal(SCENARIOS, list(VICTIMS), 50, random.Random(0))
    assert [len(hand) for hand in hands] == [13, 13, 12, 12]
    assert set(Counter(victim for hand in hands for victim in hand)) == set(VICTIMS)
    only = deal(SCENARIOS[:1], ["actor"], 3, random.Random(0))
    assert only == [["actor"] * 3]


def fold(folder: Path, *, steps: list[int], loss: float = 1.0, **result: Any) -> FoldFolder:
    """A fold's folder with a journal of so many steps."""
    made = FoldFolder(folder)
    made.append_journal([{"kind": "step", "stage": "distill", "step": step, "loss": loss} for step in steps])
    write_json(made.result, {"source_validation": {"accuracy": 0.5}, "student_sha256": "", "seconds": 1.0, **result})
    write_json(made.test, {"accuracy": {"line": 0.5}})
    return made


def test_the_checks_see_what_differs(tmp_path: Path) -> None:
    whole = fold(tmp_path / "whole", steps=[0, 1, 2])
    same = fold(tmp_path / "same", steps=[0, 1, 1, 2], seconds=9.0)
    assert list(fold_differences(same, whole)) == [], "a repeated step with equal numbers and other times are fine"
    gap = fold(tmp_path / "gap", steps=[0, 2])
    assert list(fold_differences(gap, whole)) == ["another journal", "steps of distill with a gap"]
    other = fold(tmp_path / "other", steps=[0, 1, 2], source_validation={"accuracy": 0.6})
    assert list(fold_differences(other, whole)) == ["another result"]
    repeated = fold(tmp_path / "repeated", steps=[0, 1, 2])
    repeated.append_journal([{"kind": "step", "stage": "distill", "step": 1, "loss": 7.0}])
    assert list(fold_differences(repeated, whole)) == ["('step', 'distill', 1) was repeated with another result"]
    repeated.result.unlink()
    assert list(fold_differences(repeated, whole)) == ["not done"]
    seen = fold(tmp_path / "seen", steps=[0, 1, 2])
    write_json(seen.test, {"accuracy": {"line": 0.6}})
    assert list(fold_differences(seen, whole)) == ["other test numbers"]


def test_the_checks_see_metrics_with_gaps_and_twice() -> None:
    whole: Mapping[str, Any] = {"loss": [(0, 1.0), (1, 0.5)], "seconds": [(1, 9.0)]}
    assert list(metric_differences({"loss": [(1, 0.5), (0, 1.0)], "seconds": [(1, 3.0)]}, whole)) == []
    assert list(metric_differences({**whole, "loss": [(0, 1.0)]}, whole)) == [
        "loss has steps [0], not [0, 1]",
        "loss has other values",
    ]
    twice = {**whole, "loss": [(0, 1.0), (1, 0.5), (1, 0.5)]}
    assert next(iter(metric_differences(twice, whole))) == "loss has a step twice"
    assert list(metric_differences({"seconds": [(1, 9.0)]}, whole)) == ["metrics ['loss'] on one side only"]
