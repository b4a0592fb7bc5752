"""`logs` and `watch`: what a sweep's files say while it runs."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from orchestrator.cli import run
from orchestrator.inspection.fold_names import known_folds
from orchestrator.inspection.logs import LAST_LOSSES, fold_log, follow
from orchestrator.store.failures import Failure
from tests.support.bench import Bench
from tests.support.stub_sweep import stub_sweep
from tests.support.stub_worker import run_job
from trainables.storage.leases import Lease, this_process

CRASH = Failure(time=0.0, kind="crash", error="RuntimeError: no", details="Traceback\n  line\nRuntimeError: no\n")


def step(stage: str, number: int) -> dict[str, object]:
    return {"kind": "step", "stage": stage, "step": number, "loss": 1.0 / (number + 1), "images": "00"}


def test_a_log_holds_evaluations_losses_failures_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench(tmp_path, stub_sweep(methods=["vl2v_adip"], space="demo"))
    attempt = bench.queue.next()
    assert attempt is not None
    key = attempt.planned.key
    run_job(bench.jobs.job(attempt.spec).to_mapping())
    bench.store.folds.align(attempt.spec.align_key).append_journal([step("align", number) for number in range(9)])
    bench.store.folds.fold(key).append_journal([step("align", 0), step("distill", 0)])
    bench.queue.failed(attempt, CRASH)
    log = fold_log(bench.store, known_folds(bench.store).fold(key))
    evaluations = [(entry["stage"], entry["step"]) for entry in log.evaluations]
    assert evaluations == [("distill", 0), ("distill", 1), ("distill", 2)]
    losses = [(entry["stage"], entry["step"]) for entry in log.last_losses]
    assert losses == [*(("align", number) for number in range(9 - LAST_LOSSES, 9)), ("distill", 0)]
    assert [failure.details for failure in log.attempts] == [CRASH.details]
    assert str(bench.store.folds.fold(key).journal) in log.files
    assert str(bench.store.folds.align(attempt.spec.align_key).journal) in log.files
    assert run(["logs", key[:7], "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "RuntimeError: no" in said
    assert "  line" in said
    assert run(["logs", key[:7], "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["attempts"][0]["kind"] == "crash"


def test_following_tells_every_evaluation_once_and_ends_with_the_fold(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    attempt = bench.queue.next()
    assert attempt is not None
    key = attempt.planned.key
    lease = Lease(bench.store.lease_file, this_process())
    lease.take()
    bench.store.folds.mark_running(key, lease.owner.identity)
    known = known_folds(bench.store).fold(key)

    def work() -> None:
        for number in range(3):
            entry = {"kind": "evaluation", "stage": "distill", "step": number, "accuracy": 0.25, "cross_entropy": 1.0}
            bench.store.folds.fold(key).append_journal([step("distill", number), entry])
            time.sleep(0.6)
        bench.run(attempt)

    worker = threading.Thread(target=work)
    said: list[str] = []
    worker.start()
    assert follow(bench.store, known, said.append) == "done"
    worker.join()
    lease.release()
    evaluations = [line for line in said if "source validation" in line]
    assert evaluations == [f"distill step {number}: source validation 25.00%" for number in range(3)]
    assert any("loss" in line for line in said)


def test_following_ends_where_nobody_is_at_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench(tmp_path)
    attempt = bench.queue.next()
    assert attempt is not None
    bench.die()
    assert run(["logs", attempt.planned.key, "--out", str(tmp_path), "--follow"]) == 0
    assert "waiting: no command runs it" in capsys.readouterr().out


def test_watch_in_a_pipe_tells_every_change_and_ends_with_the_sweep(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    lease = Lease(bench.store.lease_file, this_process())
    lease.take()
    program = f"from orchestrator.cli import main; main(['watch', '--interval', '0.2', '--out', {str(tmp_path)!r}])"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("16 folds: 0 done, 0 running, 16 waiting")
        for number in range(1, 3):
            bench.run_all(most=1)
            assert process.stdout.readline().startswith(f"16 folds: {number} done")
        time.sleep(1.0)
        lease.release()
        last = process.stdout.readline()
        assert last.startswith("16 folds: 2 done")
        assert "no command runs it" in last
        assert process.stdout.read() == "", "lines without a change"
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()


def test_watch_without_a_sweep_at_work_shows_it_and_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["watch", "--out", str(tmp_path)]) == 2
    Bench(tmp_path)
    assert run(["watch", "--out", str(tmp_path), "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["counts"]["waiting"] == 16
