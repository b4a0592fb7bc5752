"""The projection reads what changed: one fold of many costs a handful of files, and misses nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.store.records import PlannedFold, SelectedTrial, TrialRecord
from orchestrator.store.sweep_folder import SweepFolder, open_store
from orchestrator.tracking.projection import SweepProjection
from orchestrator.tracking.run_records import RunRecord
from search_spaces.sweeps import Sweep
from tests.support.tracked_store import GROUP, START, group, small_sweep, spec, write_fold

_opened: list[list[str]] = []


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _opened:
        _opened[-1].append(str(arguments[0]))


sys.addaudithook(_hear)


@contextmanager
def opened_files() -> Iterator[list[str]]:
    """Paths that are opened, or tried to, while it is entered."""
    heard: list[str] = []
    _opened.append(heard)
    try:
        yield heard
    finally:
        _opened.remove(heard)


def store_of(out: Path, num_folds: int) -> tuple[SweepFolder, Sweep, list[PlannedFold]]:
    """A group of many finished trials, and one that is written and has not run."""
    sweep, store = small_sweep(), open_store(out)
    store.claim(sweep, [replace(group(), trials=num_folds + 1)], {"icons": "manifest-of-icons"})
    folds = []
    for number in range(num_folds):
        wanted = spec(sweep, seed=0, trainer=str(number))
        fold = write_fold(store, wanted, accuracy=0.5 + number / 1000, finished=START + number)
        store.records.write_trial(_trial(number, fold))
        folds.append(fold)
    wanted = spec(sweep, seed=0, trainer="last")
    fold = PlannedFold(fold=wanted.fold, key=wanted.key)
    store.records.write_trial(_trial(num_folds, fold))
    return store, sweep, [*folds, fold]


def _trial(number: int, fold: PlannedFold) -> TrialRecord:
    return TrialRecord(group=GROUP, number=number, point={}, folds=(fold,), source="sampler", created=START)


def by_key(records: Iterator[RunRecord]) -> dict[tuple[str, str], tuple[str, list[Any]]]:
    return {(record.kind, record.key): (record.version, list(record.metrics())) for record in records}


@pytest.mark.parametrize("num_folds", [20, 60])
def test_one_changed_fold_opens_at_most_five_of_the_stores_files(tmp_path: Path, num_folds: int) -> None:
    store, sweep, folds = store_of(tmp_path, num_folds)
    projection = SweepProjection(store, sweep, {})
    with opened_files() as heard:
        whole = by_key(projection.records())
    assert len([path for path in heard if "/folds/" in path]) > num_folds, "the first look reads everything"
    write_fold(store, spec(sweep, seed=0, trainer="last"), accuracy=0.9, finished=START + num_folds)
    with opened_files() as heard:
        later = by_key(projection.records([(GROUP, folds[-1].key)]))
    assert 0 < len([path for path in heard if "/folds/" in path]) <= 5
    assert set(later) == {("sweep", sweep.key), ("group", GROUP), ("trial", folds[-1].key)}
    assert whole | later == by_key(SweepProjection(store, sweep, {}).records()), "as if it had all been read again"


def test_what_was_selected_since_is_written_again(tmp_path: Path) -> None:
    store, sweep, folds = store_of(tmp_path, 4)
    projection = SweepProjection(store, sweep, {})
    list(projection.records())
    write_fold(store, spec(sweep, seed=0, trainer="last"), accuracy=0.1, finished=START + 4)
    store.records.write_selected(SelectedTrial(group=GROUP, number=3, folds=(folds[3],)))
    later = by_key(projection.records([(GROUP, folds[-1].key)]))
    assert {key for kind, key in later if kind == "trial"} == {folds[3].key, folds[-1].key}
