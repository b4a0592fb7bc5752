"""What an interrupted or finished fold left, damaged: it is noticed where it is used, told, and made again alike."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.small_folds import Interrupted, MakeJob, assert_same_weights, losses, run_small_fold
from trainables.fitting.checkpoint import checkpoint_flaw
from trainables.jobs import NOTE, FoldJob
from trainables.storage.fold_folder import FoldFolder
from trainables.worker import run_job


def flipped(path: Path) -> None:
    """One bit in the middle of the numbers, as a disk might flip it."""
    content = bytearray(path.read_bytes())
    content[_inside(content)] ^= 1
    path.write_bytes(content)


def _inside(content: bytearray) -> int:
    if content[:2] != b"PK":
        return len(content) // 2
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        record = max(archive.infolist(), key=lambda one: one.file_size)
        return content.index(archive.read(record)) + record.file_size // 2


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a bit": flipped,
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "a folder": to_folder,
}


def run(job: FoldJob, *, reports: int = 10**9) -> list[str]:
    """Run a fold, to its end or for so many evaluations; returns its notes."""
    notes, seen = list[str](), list[int]()

    def report(metrics: dict[str, Any]) -> None:
        if NOTE in metrics:
            notes.append(metrics[NOTE])
            return
        seen.append(1)
        if len(seen) == reports:
            raise Interrupted

    if reports == 10**9:
        run_job(job.to_mapping(), report)
    else:
        with pytest.raises(Interrupted):
            run_job(job.to_mapping(), report)
    return notes


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_costs_the_stage_and_changes_no_number(make_job: MakeJob, damage: str) -> None:
    whole, broken = make_job("erm", out="whole"), make_job("erm", out="broken")
    run_small_fold(whole)
    run(broken, reports=3)
    checkpoint = FoldFolder(broken.folder).checkpoint
    assert checkpoint_flaw(checkpoint) == ""
    DAMAGES[damage](checkpoint)
    (note,) = run(broken)
    assert str(checkpoint) in note
    assert "\n" not in note
    assert_same_weights(whole, broken)
    assert losses(whole) == losses(broken)


@pytest.mark.parametrize(
    ("damage", "name"), [*((one, "student.safetensors") for one in DAMAGES), ("cut", "result.json")]
)
def test_a_damaged_align_stage_is_fitted_again(make_job: MakeJob, damage: str, name: str) -> None:
    whole, broken = make_job(out="whole"), make_job(out="broken")
    run_small_fold(whole)
    run(broken, reports=5)
    align = FoldFolder(broken.align_folder)
    assert align.is_done
    before = align.student.read_bytes()
    DAMAGES[damage](align.path / name)
    (note,) = run(broken)
    assert str(align.path) in note
    assert align.student.read_bytes() == before
    assert_same_weights(whole, broken)
    assert losses(whole) == losses(broken)


@pytest.mark.parametrize("damage", ["a bit", "cut", "a folder"])
def test_a_damaged_answer_is_asked_again(make_job: MakeJob, damage: str) -> None:
    whole, broken = (make_job("vl2v_sd", out=out, teacher_mode="views:1") for out in ("whole", "broken"))
    run_small_fold(whole)
    run(broken, reports=2)
    shards = sorted(Path(broken.embeddings_folder).glob("*/d*.arrow"))
    DAMAGES[damage](shards[0])
    (note,) = run(broken)
    assert str(shards[0]) in note
    assert_same_weights(whole, broken)


def test_shards_that_were_swapped_are_asked_again(make_job: MakeJob) -> None:
    whole, broken = (make_job("vl2v_sd", out=out, teacher_mode="views:1") for out in ("whole", "broken"))
    run_small_fold(whole)
    run(broken, reports=2)
    one, other, *_ = sorted(Path(broken.embeddings_folder).glob("*/d*.arrow"))
    one.rename(one.with_suffix(".aside"))
    other.rename(one)
    one.with_suffix(".aside").rename(other)
    assert len(run(broken)) == 2
    assert_same_weights(whole, broken)


def test_damaged_text_embeddings_are_asked_again(make_job: MakeJob) -> None:
    whole, broken = (make_job("vl2v_sd", out=out, teacher_mode="views:1") for out in ("whole", "broken"))
    run_small_fold(whole)
    run(broken, reports=2)
    (texts,) = Path(broken.embeddings_folder).glob("*/texts-*.arrow")
    texts.write_bytes(texts.read_bytes()[:100])
    (note,) = run(broken)
    assert str(texts) in note
    assert_same_weights(whole, broken)
