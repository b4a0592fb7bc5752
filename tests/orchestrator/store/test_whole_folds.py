"""A fold is done while everything that it keeps is whole; what is not is made again, and another fold's is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.inspection.status import sweep_status
from orchestrator.report.measurements import measure
from orchestrator.report.report import build_report
from orchestrator.search.leave_one_domain_out import held_out_accuracy
from orchestrator.store.records import PlannedFold
from orchestrator.store.sweep_folder import open_store
from search_spaces.errors import UserError
from search_spaces.sweeps import Sweep
from tests.support.bench import Bench
from tests.support.stub_sweep import stub_sweep
from tests.support.stub_worker import starts
from trainables.storage.finished_folds import FILES, SEAL, OtherFoldError
from trainables.storage.fold_folder import FoldFolder

Damage = Callable[[Path], object]


def sweep() -> Sweep:
    return stub_sweep(trials=1, space="paper", seeds=2)


def finished(out: Path, asked: Sweep | None = None) -> Bench:
    bench = Bench(out, asked or sweep())
    bench.run_all()
    bench.die()
    return bench


resumed = finished
"""The same command once more."""


def numbers(out: Path) -> list[tuple[str, dict[str, float | None]]]:
    found = measure(open_store(out), "source_validation").measurements
    return [(item.key, dict(item.values)) for item in found]


def first_fold(out: Path) -> FoldFolder:
    return FoldFolder(min((out / "folds").iterdir()))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def replaced(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Damage] = {
    "gone": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "a folder": replaced,
    "a bit": flip,
}
KEPT = ("result.json", "test.json", "spec.json", "student.safetensors", "journal.jsonl")
UNSEEN = {("a bit", "student.safetensors"), ("a bit", "journal.jsonl")}
"""What is not read at every look, or has no checksum; `test_weights_that_changed_are_not_used` is about the first."""


@pytest.mark.parametrize(
    ("damage", "name"), [(one, name) for one in DAMAGES for name in KEPT if (one, name) not in UNSEEN]
)
def test_whatever_a_finished_fold_lacks_is_made_again_with_equal_numbers(
    tmp_path: Path, damage: str, name: str
) -> None:
    out = finished(tmp_path).store.out
    before, runs, folder = numbers(out), len(starts(out)), first_fold(out)
    DAMAGES[damage](folder.path / name)
    bench = resumed(out)
    assert numbers(out) == before
    assert bench.queue.counts().done == bench.queue.counts().planned
    assert len(starts(out)) - runs == int(name != "spec.json"), "a specification is written again, and nothing runs"
    told = [event.text for event in bench.events if event.kind == "message"]
    assert [name in text and "\n" not in text for text in told] == [True] * (damage != "gone" or name != "result.json")
    assert resumed(out).events == [], "the next command finds nothing to do"


@pytest.mark.parametrize("name", ["test.json", "spec.json", "student.safetensors", "journal.jsonl"])
def test_who_only_looks_says_that_such_a_fold_waits(tmp_path: Path, name: str) -> None:
    out = finished(tmp_path).store.out
    (first_fold(out).path / name).unlink()
    counts = sweep_status(open_store(out)).counts
    assert (counts.waiting, counts.done) == (1, counts.planned - 1)
    assert build_report(open_store(out)).missing


@pytest.mark.parametrize("name", ["test.json", "spec.json", "student.safetensors", "journal.jsonl"])
def test_older_folders_are_whole_where_their_files_are_and_mended_where_not(tmp_path: Path, name: str) -> None:
    out = finished(tmp_path).store.out
    for file in out.glob("folds/*/result.json"):
        content = json.loads(file.read_text())
        del content[FILES], content[SEAL]
        file.write_text(json.dumps(content))
    before, runs = numbers(out), len(starts(out))
    assert resumed(out).events == []
    (first_fold(out).path / name).write_bytes(b"")
    resumed(out)
    assert numbers(out) == before
    assert len(starts(out)) - runs == int(name != "spec.json")


def test_a_pair_fold_keeps_a_file_about_each_domain(tmp_path: Path) -> None:
    asked = stub_sweep(trials=2, seeds=1, selection="leave_one_domain_out")
    bench = finished(tmp_path, asked)
    runs = len(starts(tmp_path))
    (pair, *_) = bench.store.records.pairs(bench.groups[0].name)
    planned, folder = pair.folds[0], bench.store.folds.fold(pair.folds[0].key)
    one, other = planned.fold.test_domains
    known = held_out_accuracy(bench.store, planned, selecting_for=one)
    assert known is not None
    folder.held_out(other).unlink()
    # A selection that stands needs no pair fold any more.
    shutil.rmtree(tmp_path / "left_out")
    assert held_out_accuracy(bench.store, planned, selecting_for=one) is None
    resumed(tmp_path, asked)
    assert held_out_accuracy(open_store(tmp_path), planned, selecting_for=one) == known
    assert len(starts(tmp_path)) - runs == 1


def both_refuse(out: Path, *, match: str) -> None:
    """Neither a table nor a run comes of it."""
    with pytest.raises(UserError, match=match) as said:
        build_report(open_store(out))
    assert "\n" not in str(said.value)
    with pytest.raises(OtherFoldError, match=match):
        resumed(out)


def test_two_folders_that_were_swapped_are_both_named(tmp_path: Path) -> None:
    out = finished(tmp_path).store.out
    one, other, *_ = sorted((out / "folds").iterdir())
    one.rename(out / "aside")
    other.rename(one)
    (out / "aside").rename(other)
    both_refuse(out, match=f"({one}.*{other}|{other}.*{one})")


@pytest.mark.parametrize("value", [7.5, -0.1, float("inf")])
def test_an_accuracy_that_is_no_fraction_is_refused(tmp_path: Path, value: float) -> None:
    out = finished(tmp_path).store.out
    _edit(first_fold(out).result, lambda content: content["source_validation"].update(accuracy=value))
    both_refuse(out, match=f"says that an accuracy is {value}")


def test_an_edited_key_is_refused(tmp_path: Path) -> None:
    out = finished(tmp_path).store.out
    _edit(first_fold(out).result, lambda content: content.update(key="0" * 64))
    both_refuse(out, match=f"{first_fold(out).path}.*{'0' * 64}")


def test_no_table_is_made_of_another_seeds_specification(tmp_path: Path) -> None:
    out = finished(tmp_path).store.out
    before, folder = numbers(out), first_fold(out)
    seed = json.loads(folder.spec.read_text())["fold"]["seed"]
    _edit(folder.spec, lambda content: content["fold"].update(seed=1 - seed))
    with pytest.raises(OtherFoldError, match=f"{folder.spec} asks for another fold"):
        build_report(open_store(out))
    resumed(out)
    assert numbers(out) == before, "the sweep writes it again"


def test_test_numbers_that_were_edited_are_not_reported(tmp_path: Path) -> None:
    out = finished(tmp_path).store.out
    before, folder = numbers(out), first_fold(out)
    folder.test.write_text(folder.test.read_text().replace("0.", "0.1", 1)[: folder.test.stat().st_size - 1] + "\n")
    with pytest.raises(UserError, match=r"test\.json is damaged"):
        build_report(open_store(out))
    resumed(out)
    assert numbers(out) == before


def test_nan_is_no_accuracy(tmp_path: Path) -> None:
    out = finished(tmp_path).store.out
    repeat = next(_repeats(out))
    _edit(
        FoldFolder(out / "folds" / repeat.key).result,
        # Of older code, whose results have no checksum of their own.
        lambda content: (content.pop(SEAL), content["source_validation"].update(accuracy=None)),
    )
    with pytest.raises(UserError, match="says that an accuracy is nan"):
        build_report(open_store(out))
    bench = resumed(out)
    assert bench.queue.counts().failed == 1


def test_a_copied_folder_is_not_another_fold(tmp_path: Path) -> None:
    out = finished(tmp_path).store.out
    one, other, *_ = sorted((out / "folds").iterdir())
    shutil.rmtree(one)
    shutil.copytree(other, one)
    both_refuse(out, match=f"{one}.*{other}")


def _repeats(out: Path) -> Iterator[PlannedFold]:
    """Folds of the further seed, which no search goes by."""
    store = open_store(out)
    for group in store.groups():
        selected = store.records.selected(group.name)
        assert selected is not None
        yield from (planned for planned in selected.folds if planned.fold.seed == 1)


def _edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
