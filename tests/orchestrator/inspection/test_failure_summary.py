"""What went wrong is said in `status` and below the tables: the kind, the step, the last checkpoint, the pieces."""

from __future__ import annotations

from pathlib import Path

from orchestrator.inspection.failure_summary import failure_notes, failure_summaries
from orchestrator.inspection.status import sweep_status
from orchestrator.store.failures import Failure
from tests.support.bench import CRASH, Bench
from tests.support.stub_sweep import stub_sweep

DIVERGED = (
    "TrainingDivergedError: the loss of stage distill is nan at step 60; the last good checkpoint is that of step 50"
)


def test_failures_are_named_with_what_became_of_them(tmp_path: Path) -> None:
    bench = Bench(tmp_path, stub_sweep(trials=1, seeds=1, space="paper"))
    by_domain = {}
    while (attempt := bench.queue.next()) is not None:
        by_domain[attempt.planned.fold.test_domain] = attempt
    memory = Failure(time=0.0, kind="out_of_memory", error="OutOfMemoryError: CUDA out of memory")
    for domain, failure in (("line", Failure(time=0.0, kind="diverged", error=DIVERGED)), ("flat", memory)):
        bench.queue.failed(by_domain[domain], failure)
    bench.queue.failed(by_domain["clipart"], CRASH)
    again = bench.queue.next()
    assert again is not None
    pieces = {bench.jobs.job(attempt.spec).resources.batch_pieces for attempt in by_domain.values()}
    assert pieces == {1, 2}
    assert bench.jobs.job(by_domain["flat"].spec).resources.batch_pieces == 2
    bench.run(by_domain["flat"])
    bench.run(by_domain["render3d"])
    assert [failure.line for failure in failure_summaries(bench.store)] == [
        "tried again: icons/erm/clipart icons/clipart/seed0 (1 x crash)",
        "tried again: icons/erm/flat icons/flat/seed0 (1 x out of memory, in 2 pieces)",
        f"failed: icons/erm/line icons/line/seed0 (1 x diverged): {DIVERGED}",
    ]
    assert list(failure_notes(failure_summaries(bench.store), "icons")) == [
        f"failed: icons/erm/line icons/line/seed0 (1 x diverged): {DIVERGED}",
        "computed with smaller pieces of the same batches after memory ran out, equal to rounding: erm "
        "icons/flat/seed0",
    ]
    assert list(failure_notes(failure_summaries(bench.store), "PACS")) == []
    content = sweep_status(bench.store).to_mapping()
    assert [failure["kind"] for failure in content["failures"]] == ["crash", "out_of_memory", "diverged"]
