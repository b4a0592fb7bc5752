"""What becomes of an attempt that ends: every way in which one can, with a queue and a store and nothing that runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from orchestrator.scheduler.fold_queue import Attempt
from orchestrator.store.failures import Failure, FailureKind
from tests.support.bench import CRASH, Bench
from tests.support.stub_sweep import stub_sweep
from tests.support.stub_worker import run_job


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, stub_sweep(trials=1, seeds=1, space="paper"))


def started(bench: Bench) -> Attempt:
    attempt = bench.dispatcher.start()
    assert attempt is not None
    return attempt


def failure(kind: Any, error: str = "RuntimeError: no") -> Failure:
    return Failure(time=0.0, kind=kind, error=error)


def kinds(bench: Bench) -> list[str]:
    return [event.kind for event in bench.events]


def no_death() -> Failure:
    raise AssertionError("something else explains the end")


def test_no_more_start_than_the_limit_says_and_each_is_marked_as_running(bench: Bench) -> None:
    bench.slots = 2
    first, second = started(bench), started(bench)
    assert bench.dispatcher.start() is None
    assert not bench.dispatcher.is_over
    owner = bench.leases.owner.identity
    assert [bench.store.folds.fold_state(one.planned.key, owner) for one in (first, second)] == ["running", "running"]
    bench.run(first)
    assert bench.store.folds.fold_state(first.planned.key, owner) == "done"
    assert bench.dispatcher.start() is not None


def test_a_result_counts_whatever_else_is_said_of_the_end(bench: Bench) -> None:
    attempt = started(bench)
    run_job(bench.jobs.job(attempt.spec).to_mapping())
    bench.dispatcher.ended(attempt, died=no_death)
    done = bench.events[-1]
    assert (done.kind, done.counts.done, done.counts.running) == ("fold_done", 1, 0)
    assert done.fold is not None
    assert (
        done.fold.accuracy
        == (bench.store.folds.fold(attempt.planned.key).read_result() or {})["source_validation"]["accuracy"]
    )


COUNTED = {"out_of_memory": 0, "lost_node": 0, "lost": 1, "crash": 1, "diverged": 1, "no_metric": 1}
"""Kinds that are written down, and how many attempts each spends."""
FOLLOWED = ("out_of_memory", "lost_node", "lost", "crash")
"""Kinds after which another attempt follows."""


@pytest.mark.parametrize("kind", get_args(FailureKind))
def test_a_failure_is_written_down_tried_again_or_ends_the_sweep_by_its_kind(bench: Bench, kind: str) -> None:
    attempt = started(bench)
    bench.dispatcher.ended(attempt, failure(kind), died=no_death)
    found = bench.store.folds.failures(attempt.planned.key)
    assert (len(found.attempts), found.spent) == (int(kind in COUNTED), COUNTED.get(kind, 0))
    assert found.failed == (kind in COUNTED and kind not in FOLLOWED)
    told = "fold_retried" if kind in FOLLOWED else "fold_failed" if kind in COUNTED else "fold_started"
    assert kinds(bench)[-1] == told
    assert bench.dispatcher.stop.user_error == ("RuntimeError: no" if kind == "user" else "")
    assert bench.dispatcher.is_over == (kind == "user")
    assert bench.store.folds.running_since(attempt.planned.key) is None
    assert not bench.store.folds.fold(attempt.planned.key).lease.exists()


def test_a_worker_that_died_is_asked_after_only_where_nothing_else_explains_it(bench: Bench) -> None:
    attempt = started(bench)
    bench.dispatcher.ended(attempt, died=lambda: failure("lost", "killed"))
    (ended,) = bench.store.folds.failures(attempt.planned.key).attempts
    assert (ended.kind, ended.error) == ("lost", "killed")
    bench.dispatcher.stop.wanted = True
    attempt = bench.queue.next()
    assert attempt is not None
    bench.dispatcher.ended(attempt, died=no_death)
    assert bench.queue.counts().waiting == 4


def test_a_worker_that_is_content_and_left_nothing_has_crashed(bench: Bench) -> None:
    attempt = started(bench)
    bench.dispatcher.ended(attempt)
    (failure,) = bench.store.folds.failures(attempt.planned.key).attempts
    assert failure.kind == "crash"
    assert failure.error.startswith("the worker ended, and this machine sees no result in ")


def test_reports_are_passed_on_until_everything_stops(bench: Bench) -> None:
    attempt = started(bench)
    report = {"stage": "distill", "step": 3, "source_validation_accuracy": 0.5, "secret": 1}
    assert not bench.dispatcher.reported(attempt, report)
    assert bench.events[-1].metrics == {"stage": "distill", "step": 3, "source_validation_accuracy": 0.5}
    assert not bench.dispatcher.reported(attempt, {"anything": "else"})
    bench.dispatcher.stop.wanted = True
    assert not bench.dispatcher.reported(attempt, {**report, "final": True}), "its result is there already"
    assert bench.dispatcher.reported(attempt, report)
    bench.dispatcher.ended(attempt)
    assert bench.queue.counts().waiting == 4
    assert not bench.store.folds.failures(attempt.planned.key).attempts


def test_what_still_runs_when_a_back_end_ends_waits_again(bench: Bench) -> None:
    bench.slots = 3
    attempts = [started(bench) for _ in range(3)]
    bench.dispatcher.drop_running()
    assert (bench.queue.counts().waiting, bench.queue.counts().running) == (4, 0)
    assert not any(bench.store.folds.running_since(attempt.planned.key) for attempt in attempts)


def test_a_row_of_equal_crashes_starts_no_more_and_says_why(tmp_path: Path) -> None:
    bench = Bench(tmp_path, stub_sweep(trials=3, seeds=1))
    while not bench.dispatcher.is_over:
        bench.dispatcher.ended(started(bench), CRASH)
    assert kinds(bench).count("fold_started") == 5
    assert "5 attempts at 3 folds crashed in a row" in bench.dispatcher.stop.user_error
    assert [event.text for event in bench.events if event.kind == "message"] == [bench.dispatcher.stop.user_error]


def test_who_holds_what_is_left_is_told_once(tmp_path: Path) -> None:
    sweep = stub_sweep(trials=1, seeds=1, space="paper")
    first, second = (Bench(tmp_path / name, sweep, shared=tmp_path / "store") for name in ("first", "second"))
    first.slots = 4
    held = [started(first) for _ in range(4)]
    for _ in range(3):
        assert second.dispatcher.start() is None
    owner = first.leases.owner
    assert [event.text for event in second.events] == [
        f"process {owner.process} on {owner.host} runs folds of this sweep; waiting for them"
    ]
    assert held
