"""One fold by itself: through a `TorchTrainer` (as on a cluster), or inside one Tune actor, with equal results."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from orchestrator.budgets.remaining_queries import fold_need
from orchestrator.events import Counts, FoldEvent, Progress, ProgressEvent, no_progress
from orchestrator.execution.cluster import call_on_cluster, check_resources, connect
from orchestrator.execution.executors import Executor, WorkerFunctions, chosen_executor, imported
from orchestrator.execution.failure_kinds import describe
from orchestrator.execution.fold_jobs import FoldJobs
from orchestrator.execution.preflight import CHECKING, check_budget_can_be_kept, check_data, check_shared
from orchestrator.execution.tune_run import run_one, scratch_folder
from orchestrator.execution.worker_deaths import blamed_on_nodes, living_nodes, orphans_given_back
from orchestrator.plan.query_bounds import preflight_need
from orchestrator.run_options import absolute_data_root
from orchestrator.search.specs import fold_spec
from orchestrator.store.failures import (
    MAX_FAILURES,
    Attempt,
    allow_again,
    check_max_failures,
    read_attempts,
    record_and_decide,
)
from orchestrator.store.leases import FoldLeases
from orchestrator.store.remote.mirrors import StoreMirrors
from orchestrator.store.sweep_folder import SweepFolder
from search_spaces.benchmarks import Benchmark
from search_spaces.errors import UserError
from search_spaces.folds import Fold
from search_spaces.hyperparameters import Hyperparameters, Resources
from search_spaces.methods import method_facts
from trainables.data.formats.open import open_benchmark, resolve_benchmark
from trainables.jobs import FoldJob
from trainables.storage.background_threads import beside
from trainables.storage.fold_folder import FoldFolder
from trainables.storage.leases import Lease, LeaseHeldError, this_process
from trainables.teacher.ledger import BudgetReached, reserved_queries

FOLLOW_S = 0.5
FETCH_S = 2.0


class FoldFailedError(RuntimeError):
    """The fold ended without a result; its folder says why."""


def prepare_fold(
    fold: Fold,
    *,
    method: str,
    hyperparameters: Hyperparameters,
    store: SweepFolder,
    data_root: str | None = None,
    resources: Resources | None = None,
    benchmark: Benchmark | None = None,
    query_budget: int | None = None,
) -> FoldJob:
    """Check a fold's images and weights, and give it its key and its folder.

    Raises:
        UserError: the benchmark, the domain, the images or the weights are not there.
    """
    root = absolute_data_root(data_root)
    benchmark = benchmark or resolve_benchmark(fold.benchmark, root)
    for name in fold.test_domains:
        benchmark.check_domain(name)
    store.check_writable()
    manifests = check_data({benchmark.name: benchmark}, store=store, data_root=root)
    spec = fold_spec(fold, method=method, hyperparameters=hyperparameters, data_manifest=manifests[benchmark.name])
    jobs = FoldJobs(
        store=store,
        benchmarks={fold.benchmark: benchmark},
        data_root=root,
        resources=resources or Resources(),
        query_budget=query_budget,
    )
    if query_budget is not None:
        store.mirrors.fetch(store.folds.embeddings_folder)
    return jobs.job(spec)


def train_one(
    job: FoldJob,
    *,
    executor: Executor = "auto",
    address: str | None = None,
    functions: WorkerFunctions | None = None,
    progress: Progress = no_progress,
    max_failures: int = MAX_FAILURES,
    mirrors: StoreMirrors | None = None,
) -> dict[str, Any]:
    """Train and evaluate one fold; a finished one is only read. Returns the content of `result.json`.

    `auto` is `train`: a `TorchTrainer`, whatever the number of workers. A fold that crashed, or whose process died, is
    tried `max_failures` times more. `mirrors` fetch what it left on another node.

    Raises:
        UserError: the fold cannot be run as asked.
        BudgetReached: the query budget is not enough for it.
        FoldFailedError: the training itself failed.
    """
    folder, mirrors = FoldFolder(job.folder), mirrors or StoreMirrors()
    way: Literal["tune", "train"] = "train" if executor == "auto" else chosen_executor(executor, job.resources)
    done = folder.read_result()
    if done is not None:
        return done
    functions = functions or WorkerFunctions()
    check_max_failures(max_failures)
    check_budget(job)
    with _alone_with(folder), _aligning(job), connect(address=address) as cluster:
        check_resources(cluster, job.resources)
        if not cluster.is_local:
            check_shared(folder.path, mirrored=mirrors.addresses)
        check_budget_can_be_kept(job.query_budget, mirrors, cluster)
        call_on_cluster(functions.preflight, [job.to_mapping()], job.resources, doing=CHECKING)
        allow_again(folder)
        with scratch_folder(folder.path / "ray") as scratch, _followed(job, progress, mirrors):
            failure, again, before = None, True, read_attempts(folder).doublings
            while again:
                doublings = read_attempts(folder).doublings - before
                failure = _attempt(_in_pieces(job, doublings), way, functions, scratch)
                mirrors.fetch_folds([Path(job.align_folder), folder.path])
                again = failure is not None and _follows(job, failure, max_failures)
                if failure is not None and again:
                    progress(ProgressEvent(kind="fold_retried", counts=Counts(), fold=_event(job, failure.error)))
    if failure is not None and failure.kind in ("user", "overtaken"):
        raise UserError(failure.error)
    if failure is not None and failure.kind == "budget":
        raise _budget_reached(job, wanted=1)
    if failure is not None:
        raise FoldFailedError(f"{job.spec.fold} failed: {failure.error} (see {folder.path / 'error.json'})")
    result = folder.read_result()
    if result is None:
        raise FoldFailedError(f"{job.spec.fold} ended without a result (see {folder.path})")
    return result


def _attempt(job: FoldJob, way: Literal["tune", "train"], functions: WorkerFunctions, scratch: Path) -> Attempt | None:
    """Run the fold once; returns what went wrong, if anything did."""
    # Ray Train would go on in the folder of an earlier run.
    mapping, place, nodes = job.to_mapping(), scratch / str(time.time_ns()), living_nodes()
    if way == "train":
        failure = _through_trainer(mapping, functions, place)
    else:
        settings = {"functions": functions.to_mapping(), "storage_path": str(place)}
        config = {**settings, "key": job.spec.key, "job": json.dumps(mapping)}
        failure = run_one(config, resources=job.resources, scratch=place)
    return failure if failure is None else blamed_on_nodes(failure, nodes)


def _in_pieces(job: FoldJob, doublings: int) -> FoldJob:
    """The job with its batches in smaller pieces, as often as memory ran out."""
    pieces = job.resources.batch_pieces * 2**doublings
    return replace(job, resources=replace(job.resources, batch_pieces=pieces))


def _follows(job: FoldJob, failure: Attempt, max_failures: int) -> bool:
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


def _through_trainer(job: dict[str, Any], functions: WorkerFunctions, scratch: Path) -> Attempt | None:
    try:
        with orphans_given_back():
            imported(functions.torch_trainer)(job, name="fold", storage_path=str(scratch)).fit()
    except Exception as error:
        return describe(error)
    return None


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
