"""Status is read from the folder alone."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from orchestrator.events import Counts
from orchestrator.inspection.status import SweepStatus, sweep_status
from orchestrator.run_options import RunOptions
from orchestrator.search.group_view import read_group_view
from orchestrator.search.selection_outcome import selection_outcome
from orchestrator.store.failures import Failure
from orchestrator.store.sweep_folder import open_store
from search_spaces.errors import UserError
from search_spaces.hyperparameters import Resources
from tests.support.bench import Bench
from tests.support.stub_sweep import stub_sweep
from trainables.storage.leases import Lease, this_process


def test_a_folder_without_a_sweep_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no sweep in"):
        sweep_status(open_store(tmp_path))


def test_counts_follow_the_folder(tmp_path: Path) -> None:
    bench = Bench(tmp_path, stub_sweep(methods=["vl2v_adip"], space="demo"))
    assert sweep_status(bench.store).counts == Counts(waiting=16)
    bench.run_all(most=5)
    failing = bench.queue.next()
    assert failing is not None
    bench.queue.failed(failing, Failure(time=0.0, kind="diverged", error="loss nan"))
    running = bench.queue.next()
    assert running is not None
    lease = Lease(bench.store.lease_file, this_process())
    lease.take()
    bench.store.folds.mark_running(running.planned.key, lease.owner.identity)
    status = sweep_status(bench.store)
    assert status.counts == Counts(done=5, running=1, failed=1, waiting=9)
    assert status.at_work
    line, _, rest = status.line.partition(" - ETA ")
    assert line == (
        "16 folds: 5 done, 1 running, 1 failed (retryable), 9 waiting - 0.0 fold-min - 150 teacher queries - "
        "1 Align stage saved by sharing"
    )
    assert re.fullmatch(r"\d+ s", rest)
    lease.release()
    assert sweep_status(bench.store).counts.running == 1, "whoever holds the fold may be another sweep"
    bench.die()
    later = sweep_status(bench.store)
    assert later.counts == Counts(done=5, failed=1, waiting=10)
    assert "no command runs it: run the sweep again to resume" in later.line


def test_rows_name_the_best_trial_and_what_was_chosen(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run_all()
    status = sweep_status(bench.store)
    assert status.counts == Counts(done=16)
    for row in status.groups:
        chosen = bench.store.records.selected(row.name)
        assert chosen is not None
        result = bench.store.folds.fold(chosen.folds[0].key).read_result()
        assert result is not None
        assert (row.best, row.accuracy) == (chosen.number, result["source_validation"]["accuracy"])


def test_status_and_agenda_agree_where_a_whole_group_failed(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    while (attempt := bench.queue.next()) is not None:
        bench.queue.failed(attempt, Failure(time=0.0, kind="diverged", error="loss nan"))
    assert bench.queue.is_finished
    assert sweep_status(bench.store).counts == bench.queue.counts() == Counts(failed=12)


def test_status_and_agenda_agree_where_no_trial_of_a_group_is_whole(tmp_path: Path) -> None:
    bench = Bench(tmp_path, stub_sweep(scope="benchmark", stop_level=0.0))
    while (attempt := bench.queue.next()) is not None:
        if attempt.planned.fold.test_domain == "line":
            bench.queue.failed(attempt, Failure(time=0.0, kind="diverged", error="loss nan"))
        else:
            bench.run(attempt)
    assert bench.queue.is_finished
    assert sweep_status(bench.store).counts == bench.queue.counts() == Counts(done=9, failed=3)


def test_a_group_whose_last_trial_runs_is_not_given_up(tmp_path: Path) -> None:
    bench = Bench(tmp_path, stub_sweep(trials=2, seeds=3))
    for number in range(2):
        for _ in bench.groups:
            attempt = bench.queue.next()
            assert attempt is not None
            assert attempt.number == number
            if number == 0:
                bench.queue.failed(attempt, Failure(time=0.0, kind="diverged", error="loss nan"))
    counts = bench.queue.counts()
    assert (counts.failed, counts.running, counts.waiting) == (4, 4, 8)
    found = sweep_status(bench.store).counts
    assert (found.failed, found.running, found.waiting) == (4, 4, 8)


def test_nothing_is_chosen_while_a_trial_runs(tmp_path: Path) -> None:
    bench = Bench(tmp_path, stub_sweep(trials=2))
    attempts = [bench.queue.next() for _ in range(2 * len(bench.groups))]
    for attempt in attempts:
        assert attempt is not None
        if attempt.number == 0:
            bench.run(attempt)
    found = selection_outcome(read_group_view(bench.store, bench.groups[0], selection="source_validation"))
    assert (found.number, found.missing.trials) == (None, 1)


def test_the_mapping_is_plain(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    content = json.loads(json.dumps(sweep_status(bench.store).to_mapping()))
    assert content["counts"]["planned"] == 16
    assert [group["counts"]["planned"] for group in content["groups"]] == [4, 4, 4, 4]
    assert content["line"].startswith("16 folds: 0 done")


def test_the_line_speaks_of_gpus_prunings_and_the_end() -> None:
    status = SweepStatus(
        name="all",
        counts=Counts(done=61, running=8, failed=2, pruned=5, waiting=12),
        groups=(),
        seconds=12780.0,
        gpu_seconds=51120.0,
        teacher_queries=1_100_000,
        aligns=12,
        folds_with_align=40,
        at_work=True,
        eta_seconds=11400.0,
    )
    assert status.line == (
        "88 folds: 61 done, 8 running, 2 failed (retryable), 5 pruned, 12 waiting - 14.2 GPU-h - 1.1 M teacher queries "
        "- 28 Align stages saved by sharing - ETA 3 h 10 m"
    )


def test_gpu_hours_follow_from_what_the_sweep_ran_with(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run_all(most=3)
    assert sweep_status(bench.store).gpu_seconds == 0.0
    bench.store.remember_run(RunOptions(resources=Resources(workers=2, gpus_per_worker=0.5)))
    status = sweep_status(bench.store)
    assert status.gpu_seconds == status.seconds > 0.0


def test_saved_align_stages_are_in_the_mapping(tmp_path: Path) -> None:
    bench = Bench(tmp_path, stub_sweep(methods=["vl2v_adip"], space="demo"))
    bench.run_all()
    content = sweep_status(bench.store).to_mapping()
    specs = [bench.store.folds.spec(path.name) for path in bench.store.folds.fold("").path.iterdir()]
    stages = {spec.align_key for spec in specs if spec is not None}
    assert content["aligns_saved"] == len(specs) - len(stages) > 0
