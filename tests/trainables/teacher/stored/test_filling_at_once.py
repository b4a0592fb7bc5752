"""Several batches in flight at a remote teacher: the same rows, sooner; what was paid is kept, whatever ends it."""

from __future__ import annotations

from pathlib import Path

import pytest

from search_spaces.benchmarks import BENCHMARKS
from search_spaces.errors import UserError
from search_spaces.hyperparameters import Resources
from tests.support.embedding_rows import KEY, SOURCE_ROWS, Drawn
from tests.support.slow_vendor import SlowVendor, slow_vendor
from trainables.teacher.fingerprint import teacher_fingerprint
from trainables.teacher.http.connection import Patience, patience_of
from trainables.teacher.http.remote import RemoteTeacher
from trainables.teacher.ledger import BudgetReached, QueryLedger, query_counts, reserved_queries
from trainables.teacher.meter import MeteredTeacher
from trainables.teacher.stored.checking import verify_stored
from trainables.teacher.stored.embedding import EmbeddingJob, embed
from trainables.teacher.stored.filling import fill, status
from trainables.teacher.stored.store import EmbeddingStore


def filled(
    vendor: SlowVendor, folder: Path, *, at_once: int, num_views: int = 2, budget: int | None = None
) -> EmbeddingStore:
    """A store filled in batches of 8."""
    remote = RemoteTeacher(vendor.url, patience=Patience(concurrency=at_once))
    teacher = MeteredTeacher(remote, QueryLedger(folder / "ledger", "store", budget=budget))
    store = EmbeddingStore(folder, KEY, Drawn())
    fill(store, teacher, num_views=num_views, batch_size=8, at_once=at_once)
    return store


def test_batches_go_side_by_side_and_make_the_same_store(tmp_path: Path) -> None:
    with slow_vendor(pause_s=0.02) as vendor:
        one = filled(vendor, tmp_path / "one", at_once=1)
        assert vendor.most_at_once == 1
        vendor.gather(4)
        four = filled(vendor, tmp_path / "four", at_once=4)
        assert vendor.most_at_once == 4
        assert vendor.paid == 2 * 2 * SOURCE_ROWS
    for shard in one.shards(2):
        assert one.rows(shard).tobytes() == four.rows(shard).tobytes()
    assert query_counts(tmp_path / "four" / "ledger") == query_counts(tmp_path / "one" / "ledger")


def test_a_budget_is_crossed_by_no_query_and_all_that_is_paid_is_kept(tmp_path: Path) -> None:
    with slow_vendor(pause_s=0.02) as vendor:
        with pytest.raises(BudgetReached):
            filled(vendor, tmp_path, at_once=4, budget=83)
        store, counts = EmbeddingStore(tmp_path, KEY, Drawn()), query_counts(tmp_path / "ledger")
        assert (vendor.paid, reserved_queries(tmp_path / "ledger"), counts.unconfirmed) == (80, 80, 0)
        assert status(store, num_views=2).rows == 80
        filled(vendor, tmp_path, at_once=4, budget=2 * SOURCE_ROWS)
        assert vendor.paid == 2 * SOURCE_ROWS
    assert verify_stored(store, num_views=2) == []


def test_what_was_answered_beside_a_failure_is_kept(tmp_path: Path) -> None:
    with slow_vendor(pause_s=0.05, last_request=7) as vendor:
        with pytest.raises(UserError, match="refuses the request: 400 out of order"):
            filled(vendor, tmp_path, at_once=4)
        assert vendor.paid == 56
        assert status(EmbeddingStore(tmp_path, KEY, Drawn()), num_views=2).rows == 56


def test_the_user_says_how_many_requests_and_how_long(tmp_path: Path) -> None:
    resources = Resources(teacher_requests=3, teacher_timeout_s=7.0, teacher_patience_s=9.0)
    assert patience_of(resources) == Patience(concurrency=3, timeout_s=7.0, total_s=9.0)
    assert patience_of(Resources()) == Patience()
    with pytest.raises(UserError, match="teacher_requests is 1 or more, got 0"):
        Resources(teacher_requests=0)
    with pytest.raises(UserError, match="teacher_patience_s is a number above 0, got nan"):
        Resources(teacher_patience_s=float("nan"))
    with slow_vendor(pause_s=0.0) as vendor:
        vendor.gather(3)
        name = f"remote:{vendor.url}"
        job = EmbeddingJob(
            benchmark=BENCHMARKS["icons"], teacher=name, teacher_fingerprint=teacher_fingerprint(name),
            teacher_mode="clean", image_size=16, store=str(tmp_path), resources=resources,
        )  # fmt: skip
        embed(job.to_mapping())
        assert vendor.most_at_once == 3
