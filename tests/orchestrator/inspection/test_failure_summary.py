"""What went wrong is said in `status` and below the tables: the kind, the step, the last checkpoint, the pieces."""

from __future__ import annotations

from pathlib import Path

from orchestrator.inspection.failure_summary import trouble_notes, troubles
from orchestrator.inspection.status import sweep_status
from orchestrator.store.failures import Attempt
from tests.support.bench import CRASH, Bench
from tests.support.stub_sweep import stub_sweep

DIVERGED = (
    "TrainingDivergedError: the loss of stage distill is nan at step 60; the last good checkpoint is that of step 50"
)


def test_troubles_are_named_with_what_became_of_them(tmp_path: Path) -> None:
    bench = Bench(tmp_path, stub_sweep(trials=1, seeds=1, space="paper"))
    by_domain = {}
    while (ticket := bench.agenda.next()) is not None:
        by_domain[ticket.planned.fold.test_domain] = ticket
    memory = Attempt(time=0.0, kind="out_of_memory", error="OutOfMemoryError: CUDA out of memory")
    for domain, attempt in (("line", Attempt(time=0.0, kind="diverged", error=DIVERGED)), ("flat", memory)):
        bench.agenda.failed(by_domain[domain], attempt)
    bench.agenda.failed(by_domain["clipart"], CRASH)
    again = bench.agenda.next()
    assert again is not None
    pieces = {bench.jobs.job(ticket.spec).resources.batch_pieces for ticket in by_domain.values()}
    assert pieces == {1, 2}
    assert bench.jobs.job(by_domain["flat"].spec).resources.batch_pieces == 2
    bench.run(by_domain["flat"])
    bench.run(by_domain["render3d"])
    assert [trouble.line for trouble in troubles(bench.store)] == [
        "tried again: icons/erm/clipart icons/clipart/seed0 (1 x crash)",
        "tried again: icons/erm/flat icons/flat/seed0 (1 x out of memory, in 2 pieces)",
        f"failed: icons/erm/line icons/line/seed0 (1 x diverged): {DIVERGED}",
    ]
    assert list(trouble_notes(troubles(bench.store), "icons")) == [
        f"failed: icons/erm/line icons/line/seed0 (1 x diverged): {DIVERGED}",
        "computed with smaller pieces of the same batches after memory ran out, equal to rounding: erm "
        "icons/flat/seed0",
    ]
    assert list(trouble_notes(troubles(bench.store), "PACS")) == []
    content = sweep_status(bench.store).to_mapping()
    assert [trouble["kind"] for trouble in content["troubles"]] == ["crash", "out_of_memory", "diverged"]
