"""The least that a finished fold's folder holds, for tests that write one by hand."""

from __future__ import annotations

from typing import Any

from search_spaces.folds import Fold
from trainables.storage.finished_folds import sealed
from trainables.storage.fold_folder import FoldFolder
from trainables.storage.json_files import write_json

NO_SPEC = {"written": "by hand"}
"""Stands in for a specification that nothing reads."""


def write_whole(folder: FoldFolder, fold: Fold, *, accuracy: float = 0.5, method: str = "erm", **entries: Any) -> None:
    """Write a result as older code did, without the files that belong to it; those that are missing are added."""
    write_json(
        folder.result,
        {
            "key": folder.path.name,
            "status": "done",
            "method": method,
            "fold": {"benchmark": fold.benchmark, "test_domains": list(fold.test_domains), "seed": fold.seed},
            "source_validation": {"accuracy": accuracy, "cross_entropy": 1.0, "domains": {}},
            "seconds": 1.0,
            "started": 0.0,
            "finished": 1.0,
            **entries,
        },
    )
    tests = [folder.test] if len(fold.test_domains) == 1 else [folder.held_out(name) for name in fold.test_domains]
    for file in (folder.spec, *tests):
        if not file.exists():
            write_json(file, NO_SPEC)
    if not folder.journal.exists():
        folder.journal.write_text("{}\n")


def restate(folder: FoldFolder, **entries: Any) -> None:
    """Let a finished fold's result state its files as they are now, and other entries where they are given."""
    result, spec = folder.read_result(), folder.read_spec()
    assert result is not None
    assert spec is not None
    write_json(folder.result, sealed({**result, **entries}, folder, spec))
