"""The meter is true: with two processes, after kill -9, and never one query beyond the budget."""

from __future__ import annotations

import fcntl
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from search_spaces.errors import UserError
from trainables.teacher.ledger import (
    BudgetReached,
    QueryCounts,
    QueryLedger,
    Reservation,
    query_counts,
    query_counts_by_scope,
)
from trainables.teacher.meter import MeteredTeacher
from trainables.teacher.open import open_teacher


def tiny(folder: Path, scope: str = "fold", *, budget: int | None = None) -> MeteredTeacher:
    teacher = open_teacher("open_clip:vl2v-tiny:random:0", image_size=32)
    return MeteredTeacher(teacher, QueryLedger(folder, scope, budget=budget))


def test_counts_equal_an_independent_counter_on_the_forward_hook(tmp_path: Path) -> None:
    metered = tiny(tmp_path)
    seen: list[int] = []
    inside: Any = metered.teacher
    inside._model.visual.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    metered.embed_images(torch.zeros(5, 3, 32, 32), image_ids=[1, 2, 2, 3, 1], views=[0, 0, 0, 0, 1])
    metered.embed_images(torch.zeros(2, 3, 32, 32), image_ids=[3, 4], views=[0, 0])
    metered.embed_images(torch.zeros(4, 3, 32, 32))
    metered.embed_texts(["a photo of a dog", "é"])
    expected = QueryCounts(
        images=11, texts=2, unique_images=4, unique_views=5, bytes_sent=11 * 3 * 32 * 32 * 4 + 16 + 2, calls=4
    )
    assert metered.ledger.counts() == query_counts(tmp_path) == expected
    assert sum(seen) == expected.images
    assert expected.price(2.0) == pytest.approx(0.026)


def test_answers_and_facts_are_those_of_the_teacher_inside(tmp_path: Path) -> None:
    metered, images = tiny(tmp_path), torch.randn(3, 3, 32, 32)
    assert torch.equal(metered.embed_images(images), metered.teacher.embed_images(images))
    assert (metered.name, metered.embedding_dim) == ("open_clip:vl2v-tiny:random:0", 32)
    assert metered.logit_scale == metered.teacher.logit_scale
    assert metered.image_encoder()[1] == 32
    with pytest.raises(ValueError, match="image_ids"):
        metered.embed_images(images, image_ids=[1])
    assert query_counts(tmp_path).images == 3


def test_scopes_add_up(tmp_path: Path) -> None:
    for scope, images in (("a", 3), ("b", 4), ("a", 5)):
        ledger = QueryLedger(tmp_path, scope)
        ledger.settle(ledger.reserve(Reservation(images=images, image_ids=tuple(range(images)))))
        ledger.close()
    assert query_counts(tmp_path, ["a"]).images == 8
    assert query_counts(tmp_path, ["a"]).unique_images == 5
    assert {scope: counts.images for scope, counts in query_counts_by_scope(tmp_path).items()} == {"a": 8, "b": 4}
    assert query_counts(tmp_path).images == 12
    assert query_counts(tmp_path / "nothing").images == 0


def test_a_budget_is_never_crossed_and_may_be_raised(tmp_path: Path) -> None:
    metered = tiny(tmp_path, budget=10)
    metered.embed_images(torch.zeros(6, 3, 32, 32))
    metered.embed_texts(["a", "b"])
    with pytest.raises(BudgetReached, match=r"budget of 10 is reached: 8 asked, 3 more wanted; .*--query-budget"):
        metered.embed_images(torch.zeros(3, 3, 32, 32))
    metered.embed_images(torch.zeros(2, 3, 32, 32))
    with pytest.raises(BudgetReached) as caught:
        metered.embed_texts(["c"])
    assert query_counts(tmp_path).queries == 10
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301
    assert (again.budget, again.asked, again.wanted) == (10, 10, 1)
    tiny(tmp_path, budget=11).embed_texts(["c"])
    assert query_counts(tmp_path).queries == 11
    with pytest.raises(UserError, match="0 or more"):
        QueryLedger(tmp_path, "x", budget=-1)


def test_an_unanswered_query_is_unconfirmed_and_keeps_its_place_in_the_budget(tmp_path: Path) -> None:
    class Broken:
        def embed_images(self, images: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no answer")

    metered = MeteredTeacher(Broken(), QueryLedger(tmp_path, "fold", budget=5))  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="no answer"):
        metered.embed_images(torch.zeros(4, 3, 8, 8))
    assert query_counts(tmp_path) == QueryCounts(unconfirmed=4)
    with pytest.raises(BudgetReached):
        QueryLedger(tmp_path, "other", budget=5).reserve(Reservation(images=2))
    ledger = QueryLedger(tmp_path, "other", budget=5)
    ledger.release(ledger.reserve(Reservation(images=1)))
    assert query_counts(tmp_path).unconfirmed == 4


def test_a_torn_line_is_left_out(tmp_path: Path) -> None:
    ledger = QueryLedger(tmp_path, "fold")
    ledger.settle(ledger.reserve(Reservation(images=7)))
    with ledger.path.open("ab") as file:
        file.write(b'{"reserved":99,"set')
        file.write(b"x" * 10_000)
    assert query_counts(tmp_path).images == 7
    with pytest.raises(BudgetReached, match="7 asked"):
        QueryLedger(tmp_path, "other", budget=7).reserve(Reservation(images=1))
    QueryLedger(tmp_path, "other", budget=8).reserve(Reservation(images=1))


ASKER = """
import sys, time
from pathlib import Path
from trainables.teacher.ledger import BudgetReached, QueryLedger, Reservation
folder, hook, budget, pause = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
ledger = QueryLedger(folder, "fold", budget=budget)
try:
    for number in range(100_000):
        reservation = ledger.reserve(Reservation(images=3, image_ids=(number,)))
        with hook.open("a") as file:
            file.write("3\\n")
        ledger.settle(reservation)
        time.sleep(pause)
except BudgetReached:
    sys.exit(4)
"""


def _ask(*arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", ASKER, *map(str, arguments)])


def test_two_processes_share_one_budget_and_none_crosses_it(tmp_path: Path) -> None:
    hooks = [tmp_path / "hook0", tmp_path / "hook1"]
    processes = [_ask(tmp_path / "ledger", hook, 500, 0.02) for hook in hooks]
    assert [process.wait(60) for process in processes] == [4, 4]
    asked = [3 * len(hook.read_text().splitlines()) for hook in hooks]
    assert sum(asked) == query_counts(tmp_path / "ledger").images == 498
    assert min(asked) > 0


def test_the_count_stays_true_after_kill_9(tmp_path: Path) -> None:
    ledger, hook = tmp_path / "ledger", tmp_path / "hook"
    for _ in range(4):
        process = _ask(ledger, hook, 10**9, 0.0)
        before = query_counts(ledger).images
        deadline = time.monotonic() + 30
        while query_counts(ledger).images < before + 30 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    counts, hooked = query_counts(ledger), 3 * len(hook.read_text().splitlines())
    assert counts.images >= 120
    assert counts.images <= hooked <= counts.images + counts.unconfirmed
    assert counts.unconfirmed <= 4 * 3


def test_a_budget_is_looked_up_and_reserved_under_one_lock(tmp_path: Path) -> None:
    ledger = QueryLedger(tmp_path, "fold", budget=5)
    with (tmp_path / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        asker = threading.Thread(target=ledger.reserve, args=(Reservation(images=1),))
        asker.start()
        asker.join(0.3)
        assert asker.is_alive()
        assert query_counts(tmp_path).unconfirmed == 0
    asker.join(10)
    assert query_counts(tmp_path).unconfirmed == 1
