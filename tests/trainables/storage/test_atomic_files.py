"""What a killed writer left is told from what a living one writes, on this machine and from others."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trainables.storage import atomic_files as half_files
from trainables.storage.atomic_files import ELSEWHERE_S, aside_of, remove_abandoned
from trainables.storage.fold_folder import FoldFolder
from trainables.storage.json_files import write_json

WRITER = """
import sys, time
from pathlib import Path
from trainables.storage.atomic_files import aside_of
aside_of(Path(sys.argv[1]) / "result.json").write_text("half")
print("written", flush=True)
time.sleep(60)
"""


def test_processes_of_two_containers_with_one_number_write_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = aside_of(tmp_path / "result.json")
    monkeypatch.setattr(half_files, "this_machine", lambda: "another container")
    assert aside_of(tmp_path / "result.json") != here
    assert here.name.startswith(".result.json.")
    assert here.name.endswith(".part")


def test_the_half_files_of_a_killed_process_go_and_those_of_a_living_one_stay(tmp_path: Path) -> None:
    folder = tmp_path / "folds" / "key"
    folder.mkdir(parents=True)
    mine = aside_of(folder / "result.json")
    mine.touch()
    with subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        remove_abandoned(tmp_path)
        assert len(list(folder.iterdir())) == 2
        process.kill()
    remove_abandoned(tmp_path)
    assert list(folder.iterdir()) == [mine]


def test_of_another_machine_only_the_old_ones_go(tmp_path: Path) -> None:
    fresh, old = tmp_path / ".a.json.00000000-1-1-1.part", tmp_path / ".b.json.00000000-1-1-1.part"
    for file in (fresh, old):
        file.touch()
    os.utime(old, (time.time() - ELSEWHERE_S - 1,) * 2)
    (tmp_path / "shard.arrow.7-0.part").touch()
    remove_abandoned(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {fresh.name, "shard.arrow.7-0.part"}


def test_a_journal_is_on_the_disk_before_the_checkpoint_that_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda file: flushed.append(os.fstat(file).st_size))
    folder = FoldFolder(tmp_path)
    folder.append_journal([{"kind": "step", "step": step} for step in range(3)])
    assert flushed == [folder.journal.stat().st_size]
    write_json(folder.result, {})
    assert len(flushed) == 2
