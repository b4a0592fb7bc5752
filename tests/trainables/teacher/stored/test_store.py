"""The embedding store: rows asked once, shared by concurrent fillers, true after kill -9, bit for bit the live ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.embedding_rows import COUNTS, KEY, SOURCE_ROWS, Drawn
from trainables.data.loading.batches import stored_view_seed
from trainables.data.loading.views import EvalView, TrainView
from trainables.teacher.ledger import BudgetReached, QueryLedger, query_counts, reserved_queries
from trainables.teacher.meter import MeteredTeacher
from trainables.teacher.open import open_teacher
from trainables.teacher.stored import store as store_module
from trainables.teacher.stored.checking import verify_stored
from trainables.teacher.stored.filling import fill, status
from trainables.teacher.stored.shards import ASKED_AGAIN, write_shard
from trainables.teacher.stored.spool import Spool
from trainables.teacher.stored.store import EmbeddingStore, MissingEmbeddingsError, Shard, StoreKey, store_key


def metered(folder: Path, *, budget: int | None = None) -> MeteredTeacher:
    teacher = open_teacher("open_clip:vl2v-tiny:random:0", image_size=32)
    return MeteredTeacher(teacher, QueryLedger(folder / "ledger", "store", budget=budget))


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "SHARD_ROWS", 32)


@pytest.fixture
def large_shards(monkeypatch: pytest.MonkeyPatch, small_shards: None) -> None:
    """A shard holds all images of a domain in a view."""
    monkeypatch.setattr(store_module, "SHARD_ROWS", 1024)


def test_every_row_is_asked_once_and_a_second_filling_asks_nothing(tmp_path: Path) -> None:
    store, teacher = EmbeddingStore(tmp_path, KEY, Drawn()), metered(tmp_path)
    assert not status(store, num_views=2).is_complete
    told: list[int] = []
    assert fill(store, teacher, num_views=2, progress=told.append) == sum(told) == 2 * SOURCE_ROWS
    counts = query_counts(tmp_path / "ledger")
    assert counts.unique_views == 2 * SOURCE_ROWS
    assert counts.unique_images == SOURCE_ROWS
    # 194 rows fill up to the next multiple of 16.
    assert counts.images == 208
    assert fill(EmbeddingStore(tmp_path, KEY, Drawn()), teacher, num_views=2) == 0
    assert query_counts(tmp_path / "ledger") == counts
    found = status(store, num_views=2)
    assert (found.rows, found.rows_wanted, found.shards, found.shards_wanted) == (194, 194, 8, 8)
    assert found.is_complete
    assert found.bytes > 194 * 32 * 4
    assert verify_stored(store, num_views=2, teacher=teacher, sample=20) == []
    assert json.loads((Path(store.folder) / "store.json").read_text())["manifest"] == Drawn.manifest


def test_more_views_go_on_where_fewer_ended_and_domains_fill_by_themselves(tmp_path: Path) -> None:
    store, teacher = EmbeddingStore(tmp_path, KEY, Drawn()), metered(tmp_path)
    assert fill(store, teacher, num_views=1, domains=["photo"]) == 57
    assert status(store, num_views=1, domains=["photo"]).is_complete
    assert fill(store, teacher, num_views=1) == 40
    assert fill(store, teacher, num_views=3) == 2 * SOURCE_ROWS


@pytest.mark.parametrize("batch_size", [16, 48, 96])
def test_stored_answers_are_the_live_ones_bit_for_bit(tmp_path: Path, batch_size: int) -> None:
    store, teacher, source, view = EmbeddingStore(tmp_path, KEY, Drawn()), metered(tmp_path), Drawn(), TrainView(32)
    fill(store, teacher, num_views=2)
    every = [(domain, index, number) for domain in COUNTS for index in range(1, COUNTS[domain]) for number in (0, 1)]
    order = np.random.default_rng(0).permutation(len(every)).tolist()
    order += order[: -len(order) % batch_size]
    for start in range(0, len(order), batch_size):
        rows = [every[place] for place in order[start : start + batch_size]]
        seeds = [stored_view_seed(source.paths(domain)[index], number) for domain, index, number in rows]
        images = [view(source.read(row[0], row[1]), seed) for row, seed in zip(rows, seeds, strict=True)]
        ids = torch.tensor([index + (0 if domain == "art" else COUNTS["art"]) for domain, index, _ in rows])
        stored_ND = store.lookup(ids, torch.tensor([number for _, _, number in rows]))
        assert torch.equal(stored_ND, teacher.embed_images(torch.stack(images)))
        assert stored_ND.dtype == torch.float32


def test_clean_has_the_evaluation_view_alone(tmp_path: Path) -> None:
    key, num_views = store_key("clean", manifest=Drawn.manifest, teacher_fingerprint="t", image_size=32)
    store, teacher, source = EmbeddingStore(tmp_path, key, Drawn()), metered(tmp_path), Drawn()
    assert fill(store, teacher, num_views=num_views) == SOURCE_ROWS
    images = torch.stack([EvalView(32)(source.read("art", index)) for index in range(1, 17)])
    stored_ND = store.lookup(torch.arange(1, 17), torch.full((16,), 123_456))
    assert torch.equal(stored_ND, teacher.embed_images(images))


def test_the_key_is_all_that_changes_an_answer() -> None:
    changes: list[dict[str, Any]] = [
        {"manifest": "other"}, {"teacher_fingerprint": "u"}, {"view": "clean"}, {"image_size": 64}, {"seed": 1}
    ]  # fmt: skip
    keys = {KEY.key} | {replace(KEY, **change).key for change in changes}
    assert len(keys) == 6
    assert store_key("views:9", manifest=Drawn.manifest, teacher_fingerprint="t", image_size=32)[0] == KEY
    with pytest.raises(ValueError, match="live"):
        store_key("live", manifest="m", teacher_fingerprint="t", image_size=32)
    with pytest.raises(ValueError, match="other data"):
        EmbeddingStore("/nowhere", StoreKey(manifest="x", teacher_fingerprint="t", view="views", image_size=8), Drawn())


def test_rows_that_are_not_there_say_so(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path, KEY, Drawn())
    with pytest.raises(MissingEmbeddingsError, match="view 0 of art is not stored yet"):
        store.lookup(torch.tensor([1]), torch.tensor([0]))
    fill(store, metered(tmp_path), num_views=1)
    assert store.lookup(torch.tensor([1, 1]), torch.tensor([0, 0])).shape == (2, 32)
    with pytest.raises(MissingEmbeddingsError, match="image 0 may not serve as source"):
        store.lookup(torch.tensor([1, 0]), torch.tensor([0, 0]))
    with pytest.raises(MissingEmbeddingsError, match="no image 99"):
        store.lookup(torch.tensor([99]), torch.tensor([0]))
    with pytest.raises(MissingEmbeddingsError, match="view 1"):
        store.lookup(torch.tensor([1]), torch.tensor([1]))


def test_an_address_is_read_through_pyarrow(tmp_path: Path) -> None:
    fill(EmbeddingStore(tmp_path, KEY, Drawn()), metered(tmp_path), num_views=1)
    ids, views = torch.arange(1, 40), torch.zeros(39, dtype=torch.int64)
    remote = EmbeddingStore(f"file://{tmp_path}", KEY, Drawn())
    assert torch.equal(remote.lookup(ids, views), EmbeddingStore(tmp_path, KEY, Drawn()).lookup(ids, views))


def test_texts_are_asked_once(tmp_path: Path) -> None:
    store, teacher = EmbeddingStore(tmp_path, KEY, Drawn()), metered(tmp_path)
    prompts = ["a photo of a dog", "a photo of a cat"]
    first = store.texts(teacher, prompts)
    assert torch.equal(first, teacher.teacher.embed_texts(prompts))
    assert torch.equal(EmbeddingStore(tmp_path, KEY, Drawn()).texts(teacher, prompts), first)
    assert query_counts(tmp_path / "ledger").texts == 2
    store.texts(teacher, prompts[::-1])
    assert query_counts(tmp_path / "ledger").texts == 4


def test_a_budget_ends_the_filling_and_a_larger_one_goes_on(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path, KEY, Drawn())
    with pytest.raises(BudgetReached):
        fill(store, metered(tmp_path, budget=100), num_views=1, batch_size=16)
    assert query_counts(tmp_path / "ledger").images == 96
    done = status(store, num_views=1)
    assert 0 < done.shards < done.shards_wanted
    assert done.rows >= 64
    asked = fill(store, metered(tmp_path, budget=1000), num_views=1, batch_size=16)
    assert asked == SOURCE_ROWS - done.rows
    assert verify_stored(store, num_views=1) == []


def test_verify_finds_what_is_wrong(tmp_path: Path) -> None:
    store, teacher = EmbeddingStore(tmp_path, KEY, Drawn()), metered(tmp_path)
    fill(store, teacher, num_views=2)
    flipped, torn, lost, swapped = (Path(store.path(Shard(1, 0, 0))), Path(store.path(Shard(1, 0, 1))),
                                    Path(store.path(Shard(0, 0, 0))), Path(store.path(Shard(0, 0, 1))))  # fmt: skip
    data = bytearray(flipped.read_bytes())
    data[len(data) // 2] ^= 1
    flipped.write_bytes(data)
    swapped.write_bytes(torn.read_bytes())
    torn.write_bytes(torn.read_bytes()[:300])
    lost.unlink()
    problems = verify_stored(EmbeddingStore(tmp_path, KEY, Drawn()), num_views=2)
    assert {problem.partition("; ")[2] for problem in problems} == {ASKED_AGAIN}
    assert [problem.partition(";")[0] for problem in problems] == [
        f"{swapped} holds other images than its place says",
        f"{flipped} is damaged (its checksum does not agree)",
        f"{torn} is damaged (ArrowInvalid)",
    ]
    other: Any = MeteredTeacher(
        open_teacher("open_clip:vl2v-tiny:random:1", image_size=32), QueryLedger(tmp_path / "ledger", "check")
    )
    assert "the teacher answers something else" in "\n".join(verify_stored(store, num_views=2, teacher=other, sample=4))


def test_texts_with_a_flipped_bit_are_found_and_not_used(tmp_path: Path) -> None:
    store, teacher = EmbeddingStore(tmp_path, KEY, Drawn()), metered(tmp_path)
    prompts = ["a photo of a cat"]
    second = store.texts(teacher, prompts)
    file = Path(store.texts_path(prompts))
    data = bytearray(file.read_bytes())
    place = data.index(store.texts(teacher, prompts).numpy().tobytes())
    data[place + 3] ^= 1
    file.write_bytes(data)
    line = (
        f"{file} is damaged (its checksum does not agree); remove the file: `teacher embed`, or the next fold, asks for"
    )
    assert verify_stored(store, num_views=1) == [f"{line} it again"]
    asked = query_counts(tmp_path / "ledger").texts
    assert torch.equal(store.texts(teacher, prompts), second)
    assert query_counts(tmp_path / "ledger").texts == asked + 1, "asked again, and kept"
    assert verify_stored(store, num_views=1) == []
    numbers = np.ones((1, 4), dtype=np.float32)
    for wrong, embeddings, key in (("NaN or infinite", numbers * np.nan, KEY.key), ("another store", numbers, "k")):
        write_shard(str(file), embeddings=embeddings, image_ids=np.arange(1), view=0, key=key)
        assert wrong in verify_stored(store, num_views=1)[0]


FILLER = """
import sys, time
from pathlib import Path
import torch
from tests.trainables.teacher.stored import test_store as tests
from trainables.teacher.stored import store as store_module
from trainables.teacher.stored.filling import fill
store_module.SHARD_ROWS = int(sys.argv[4])
torch.set_num_threads(1)
folder, pause = Path(sys.argv[1]), float(sys.argv[2])
teacher = tests.metered(folder)
inside = teacher.teacher
class Slow:
    name, embedding_dim = inside.name, inside.embedding_dim
    def embed_images(self, images):
        time.sleep(pause)
        return inside.embed_images(images)
teacher.teacher = Slow()
(folder / f"ready-{sys.argv[3]}").touch()
while not (folder / "go").exists():
    time.sleep(0.01)
print(fill(store_module.EmbeddingStore(folder, tests.KEY, tests.Drawn()), teacher, num_views=4, batch_size=16))
"""


def _fillers(folder: Path, pause_s: float, *, count: int = 1, shard_rows: int = 32) -> list[subprocess.Popen[str]]:
    """Processes that fill the store, let go together once all are ready."""
    command = [sys.executable, "-W", "ignore", "-c", FILLER, str(folder), str(pause_s)]
    processes = [
        subprocess.Popen([*command, str(number), str(shard_rows)], stdout=subprocess.PIPE, text=True)
        for number in range(count)
    ]
    deadline = time.monotonic() + 120
    while not all((folder / f"ready-{number}").exists() for number in range(count)) and time.monotonic() < deadline:
        time.sleep(0.02)
    (folder / "go").touch()
    return processes


def _bits(store: EmbeddingStore, num_views: int) -> dict[Shard, bytes]:
    return {shard: store.rows(shard).tobytes() for shard in store.shards(num_views)}


def test_a_budget_raised_in_steps_smaller_than_a_shard_gets_there_and_pays_no_answer_twice(
    tmp_path: Path, large_shards: None
) -> None:
    undisturbed, store = (EmbeddingStore(tmp_path / name, KEY, Drawn()) for name in ("undisturbed", "raised"))
    fill(undisturbed, metered(tmp_path / "undisturbed"), num_views=1)
    budget, rows = 0, [0]
    while not status(store, num_views=1).is_complete:
        budget += 32
        assert budget < 2 * SOURCE_ROWS, rows
        with suppress(BudgetReached):
            fill(store, metered(tmp_path / "raised", budget=budget), num_views=1, batch_size=16)
        rows.append(status(store, num_views=1).rows)
    assert rows == [0, 32, 64, 96, 97], "every answer counts"
    assert reserved_queries(tmp_path / "raised" / "ledger") == 112, "97 rows, filled up to a multiple of 16"
    assert _bits(EmbeddingStore(tmp_path / "raised", KEY, Drawn()), 1) == _bits(undisturbed, 1)
    assert verify_stored(store, num_views=1) == []
    assert not list(Path(store.folder).glob("*.part"))


def test_what_was_answered_before_kill_9_is_not_asked_again_and_its_leavings_are_removed(
    tmp_path: Path, large_shards: None
) -> None:
    undisturbed, store = (EmbeddingStore(tmp_path / name, KEY, Drawn()) for name in ("undisturbed", "killed"))
    fill(undisturbed, metered(tmp_path / "undisturbed"), num_views=4)
    (tmp_path / "killed").mkdir()
    (process,) = _fillers(tmp_path / "killed", 0.1, shard_rows=1024)
    deadline = time.monotonic() + 60
    while reserved_queries(tmp_path / "killed" / "ledger") < 112 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    for spool in Path(store.folder).glob("*.rows.part"):
        with spool.open("ab") as file:
            file.write(b"a record that was torn" * 5)
    half = Path(f"{store.path(store.missing(4)[0])}.99-abc.part")
    half.touch()
    (again,) = _fillers(tmp_path / "killed", 0.0, shard_rows=1024)
    again.communicate(timeout=120)
    one_batch, padding = 16, 15
    assert reserved_queries(tmp_path / "killed" / "ledger") <= 4 * SOURCE_ROWS + one_batch + padding
    assert _bits(EmbeddingStore(tmp_path / "killed", KEY, Drawn()), 4) == _bits(undisturbed, 4)
    assert not list(Path(store.folder).glob("*.part"))


def test_a_spool_that_outlived_its_shard_is_removed(tmp_path: Path) -> None:
    store, teacher = EmbeddingStore(tmp_path, KEY, Drawn()), metered(tmp_path)
    fill(store, teacher, num_views=1)
    Spool(store.path(Shard(0, 0, 0))).append(np.arange(2), np.ones((2, 4), dtype=np.float32))
    assert status(store, num_views=1).rows == SOURCE_ROWS
    fill(store, teacher, num_views=1)
    assert not list(Path(store.folder).glob("*.part"))


def test_a_spool_ends_where_a_record_is_damaged(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path / "shard"))
    assert spool.resume() == {}
    for first in (0, 2, 4):
        spool.append(np.array([first, first + 1]), np.full((2, 3), first, dtype=np.float32))
    assert {image_id: row.tolist() for image_id, row in spool.rows().items()} == {
        image_id: [float(image_id // 2 * 2)] * 3 for image_id in range(6)
    }
    data = bytearray(spool.path.read_bytes())
    data[-30] ^= 1
    spool.path.write_bytes(data)
    assert sorted(spool.resume()) == [0, 1, 2, 3]
    spool.append(np.array([9]), np.ones((1, 3), dtype=np.float32))
    assert sorted(spool.rows()) == [0, 1, 2, 3, 9]


def test_two_fillers_share_the_work(tmp_path: Path) -> None:
    processes = _fillers(tmp_path, 0.05, count=2)
    asked = [int(process.communicate(timeout=120)[0]) for process in processes]
    assert sum(asked) == 4 * SOURCE_ROWS
    assert min(asked) > 0
    assert verify_stored(EmbeddingStore(tmp_path, KEY, Drawn()), num_views=4) == []
    counts = query_counts(tmp_path / "ledger")
    assert counts.unique_views == 4 * SOURCE_ROWS
    assert counts.images <= 4 * SOURCE_ROWS + 2 * 15


def test_a_filling_survives_kill_9_and_repeats_no_finished_shard(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path, KEY, Drawn())
    (process,) = _fillers(tmp_path, 0.1)
    deadline = time.monotonic() + 60
    while status(store, num_views=4).shards < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    kept = status(store, num_views=4)
    assert 4 <= kept.shards < kept.shards_wanted
    (again,) = _fillers(tmp_path, 0.0)
    assert int(again.communicate(timeout=120)[0]) == kept.rows_wanted - kept.rows
    assert verify_stored(store, num_views=4, teacher=metered(tmp_path), sample=30) == []
    assert not list(Path(store.folder).glob("*.part"))
    assert not list((Path(store.folder) / ".leases").iterdir())
