"""One fold by itself, in any back end: through a `TorchTrainer` (as on a cluster), in a Tune actor, in this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.budgets.remaining_queries import fold_need
from orchestrator.events import Counts, FoldEvent, Progress, ProgressEvent, no_progress
from orchestrator.execution.back_ends import open_back_end
from orchestrator.execution.executors import chosen_executor
from orchestrator.execution.tune_run import scratch_folder
from orchestrator.plan.query_bounds import preflight_need
from orchestrator.run_options import RunOptions
from orchestrator.store.failures import (
    Failure,
    allow_again,
    read_failures,
    record_and_decide,
)
from orchestrator.store.leases import FoldLeases
from orchestrator.store.remote.mirrors import StoreMirrors
from orchestrator.store.results import FoldResult, whole_result
from search_spaces.errors import UserError
from search_spaces.methods import method_facts
from trainables.data.formats.open import open_benchmark
from trainables.jobs import FoldJob
from trainables.storage.background_threads import beside
from trainables.storage.fold_folder import FoldFolder
from trainables.storage.leases import Lease, LeaseHeldError, this_process
from trainables.teacher.ledger import BudgetReached, reserved_queries

FOLLOW_S = 0.5
FETCH_S = 2.0


class FoldFailedError(RuntimeError):
    """The fold ended without a result; its folder says why."""


def train_one(
    job: FoldJob,
    options: RunOptions | None = None,
    progress: Progress = no_progress,
    mirrors: StoreMirrors | None = None,
) -> FoldResult:
    """Train and evaluate one fold; a finished one is only read.

    Of the options, this takes the executor, the address, the further attempts and the functions. The executor `auto` is
    `train`: a `TorchTrainer`, whatever the number of workers. `mirrors` fetch what the fold left on another node.

    Raises:
        UserError: the fold cannot be run as asked.
        BudgetReached: the query budget is not enough for it.
        FoldFailedError: the training itself failed.
    """
    folder, mirrors, options = FoldFolder(job.folder), mirrors or StoreMirrors(), options or RunOptions()
    wanted, address = options.executor, options.address
    chosen = chosen_executor("train" if wanted == "auto" else wanted, job.resources, address)
    done = whole_result(folder, job.spec.key, by_content=True, weights_elsewhere=bool(job.mirrors))
    if done is not None:
        return done
    check_budget(job)
    back_end = open_back_end(chosen, resources=job.resources, functions=options.functions, address=address)
    with _alone_with(folder), _aligning(job), back_end as runner:
        runner.check(folder.path, mirrors=mirrors, query_budget=job.query_budget)
        runner.preflight([job.to_mapping()])
        allow_again(folder)
        with scratch_folder(folder.path / "ray") as scratch, _followed(job, progress, mirrors):
            again, before = True, read_failures(folder).doublings
            while again:
                doublings = read_failures(folder).doublings - before
                failure = runner.attempt(_in_pieces(job, doublings), scratch)
                mirrors.fetch_folds([Path(job.align_folder), folder.path])
                again = failure is not None and _follows(job, failure, options.max_failures)
                if failure is not None and again:
                    progress(ProgressEvent(kind="fold_retried", counts=Counts(), fold=_event(job, failure.error)))
    if failure is not None:
        raise _failed(job, failure)
    result = whole_result(folder, job.spec.key, weights_elsewhere=bool(job.mirrors))
    if result is None:
        raise FoldFailedError(f"{job.spec.fold} ended without a result (see {folder.path})")
    return result


def _failed(job: FoldJob, failure: Failure) -> Exception:
    """What the last failure of a fold is to who asked for it."""
    if failure.kind in ("user", "overtaken"):
        return UserError(failure.error)
    if failure.kind == "budget":
        return _budget_reached(job, wanted=1)
    return FoldFailedError(f"{job.spec.fold} failed: {failure.error} (see {Path(job.folder) / 'error.json'})")


def _in_pieces(job: FoldJob, doublings: int) -> FoldJob:
    """The job with its batches in smaller pieces, as often as memory ran out."""
    pieces = job.resources.batch_pieces * 2**doublings
    return replace(job, resources=replace(job.resources, batch_pieces=pieces))


def _follows(job: FoldJob, failure: Failure, max_failures: int) -> bool:
    if failure.kind in ("user", "budget", "overtaken"):
        return False
    folder, align = FoldFolder(job.folder), FoldFolder(job.align_folder)
    return record_and_decide(folder, failure, align=align, max_failures=max_failures)


def check_budget(job: FoldJob) -> None:
    """Raises `BudgetReached`, before anything is asked, where all that the fold may ask does not fit the budget."""
    if job.query_budget is None:
        return
    source = open_benchmark(job.benchmark, job.data_root, cache=Path(job.cache_folder) if job.cache_folder else None)
    need = fold_need(
        job.spec,
        job.benchmark,
        source,
        embeddings=job.embeddings_folder,
        folder=FoldFolder(job.folder),
        align=FoldFolder(job.align_folder),
    )
    need += preflight_need(
        job.spec.method, teacher_mode=job.spec.hyperparameters.teacher_mode, classes=len(source.class_names)
    )
    if reserved_queries(Path(job.queries_folder)) + need.queries > job.query_budget:
        raise _budget_reached(job, wanted=need.queries)


def _budget_reached(job: FoldJob, *, wanted: int) -> BudgetReached:
    asked = reserved_queries(Path(job.queries_folder))
    return BudgetReached(budget=job.query_budget or 0, asked=asked, wanted=wanted)


@contextmanager
def _alone_with(folder: FoldFolder) -> Iterator[None]:
    """Keep other processes off a fold's folder."""
    lease = Lease(folder.lease, this_process())
    try:
        lease.take()
    except LeaseHeldError as held:
        raise UserError(
            f"process {held.owner.process} on {held.owner.host} trains this fold already ({folder.path})"
        ) from None
    try:
        yield
    finally:
        lease.release()


@contextmanager
def _aligning(job: FoldJob) -> Iterator[None]:
    """Let no sweep on the store hand out a fold that would wait for this one's Align stage."""
    align = FoldFolder(job.align_folder)
    with closing(FoldLeases(this_process())) as leases:
        if method_facts(job.spec.method).aligns and not align.is_done:
            # Where a sweep runs it already, the worker waits for it.
            leases.take(align)
        yield


@contextmanager
def _followed(job: FoldJob, progress: Progress, mirrors: StoreMirrors) -> Iterator[None]:
    """Tell every evaluation that the fold's journals (its own and its shared Align stage's) get."""

    def follow(ended: threading.Event) -> None:
        told: set[tuple[str, int]] = set()
        while True:
            last = ended.wait(FOLLOW_S if not mirrors else FETCH_S)
            with suppress(OSError):
                mirrors.fetch_files(FoldFolder(path).journal for path in (job.align_folder, job.folder))
            for folder in (FoldFolder(job.align_folder), FoldFolder(job.folder)):
                for entry in folder.read_journal():
                    place = (str(entry.get("stage")), int(entry.get("step", -1)))
                    if entry.get("kind") == "evaluation" and place not in told:
                        told.add(place)
                        progress(_evaluation(job, entry))
            if last:
                return

    progress(ProgressEvent(kind="fold_started", counts=Counts(running=1), fold=_event(job)))
    with beside("journal", follow):
        yield


def _evaluation(job: FoldJob, entry: dict[str, Any]) -> ProgressEvent:
    metrics = {
        "stage": entry["stage"],
        "step": entry["step"],
        "source_validation_accuracy": entry["accuracy"],
        "source_validation_cross_entropy": entry["cross_entropy"],
        "final": False,
    }
    return ProgressEvent(kind="fold_reported", counts=Counts(running=1), fold=_event(job), metrics=metrics)


def _event(job: FoldJob, error: str = "") -> FoldEvent:
    return FoldEvent(key=job.spec.key, group="", number=None, fold=job.spec.fold, method=job.spec.method, error=error)
