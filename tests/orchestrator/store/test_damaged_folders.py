"""A sample of damaged folders (`make fuzz` tries more), and small files that can be done without."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.store.failures import read_failures
from orchestrator.store.sweep_folder import open_store
from orchestrator.store.usage import Usage, read_usage
from tests.fuzz.folders import tried
from trainables.storage.leases import UNREADABLE, read_owner


def test_a_sample_of_damaged_folders_is_mended_or_refused() -> None:
    counts = tried(40, seed=1)
    assert (counts.tracebacks, counts.wrong_answers) == (0, 0), counts.problems
    assert counts.inputs == 40


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"identity": []}', b"\xff" * 40])
def test_small_files_that_are_made_again_stop_nothing(tmp_path: Path, content: bytes) -> None:
    store = open_store(tmp_path)
    folder = store.folds.fold("0" * 64)
    usage = store.usage_folder / "a.json"
    for file in (store.lease_file, store.promises_file, usage, folder.path / "error.json", folder.path / "pruned.json"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    owner = read_owner(store.lease_file)
    assert owner is not None
    assert owner.identity == UNREADABLE
    assert store.promises() == {}
    assert read_usage(store.usage_folder) == Usage()
    assert not read_failures(folder).failed
    assert store.folds.fold_state("0" * 64, "somebody") == "waiting"
