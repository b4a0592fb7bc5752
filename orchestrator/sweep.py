"""Run a sweep, or go on with one: check, look what is left, hand it to Ray Tune, keep everything."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from orchestrator.agenda import Agenda, build_agenda
from orchestrator.background import BackgroundSync, Tracking
from orchestrator.budget import Admission, remaining_need
from orchestrator.cluster import Cluster, call_on_cluster, check_resources, connect
from orchestrator.executors import Executor, WorkerFunctions, chosen_executor
from orchestrator.leases import Lease, LeaseHeldError, Owner, this_process
from orchestrator.plan import make_plan
from orchestrator.preflight import check_data, check_methods, resolve_benchmarks, unchecked
from orchestrator.progress import Counts, Progress, ProgressEvent, no_progress
from orchestrator.specs import FoldJobs, FoldSpecs, absolute_data_root
from orchestrator.store import GroupRecord, Store
from orchestrator.tuning import StopRequest, folds_at_once, run_tune, scratch_folder, signals_stop
from search_spaces.benchmarks import Benchmark
from search_spaces.errors import UserError
from search_spaces.folds import Fold
from search_spaces.hyperparameters import Resources
from search_spaces.sweeps import Sweep
from trainables.teacher.ledger import BudgetReached, reserved_queries

MAX_FAILURES = 1
"""A fold that crashed is tried once more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FailedFold:
    """A fold that gave up."""

    key: str
    group: str
    fold: Fold
    error: str
    """Last line of what went wrong; the whole of it is in the fold's `error.json`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepOutcome:
    """How a sweep stands when the command ends."""

    counts: Counts
    failures: tuple[FailedFold, ...]
    interrupted: bool
    """Stopped by a signal before everything had run."""
    out_of_budget: bool = False
    """The query budget does not let any fold start that is left."""
    seconds: float

    @property
    def exit_code(self) -> int:
        """0 done, 3 finished with failed folds, 4 a budget was reached, 130 interrupted."""
        return 130 if self.interrupted else 4 if self.out_of_budget else 3 if self.failures else 0


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepSettings:
    """Where and with what a sweep runs; nothing here may change a result."""

    resources: Resources = field(default_factory=Resources)
    executor: Literal["tune", "train"] = "tune"
    address: str | None = None
    max_concurrent: int | None = None
    functions: WorkerFunctions = field(default_factory=WorkerFunctions)
    tracking: Tracking | None = None
    progress: Progress = no_progress

    def __post_init__(self) -> None:
        if self.max_concurrent is not None and self.max_concurrent < 1:
            raise UserError(f"max_concurrent is 1 or more, got {self.max_concurrent}")

    def message(self, text: str, counts: Counts | None = None) -> None:
        self.progress(ProgressEvent(kind="message", counts=counts or Counts(), text=text))


def run_sweep(
    sweep: Sweep,
    *,
    store: Store,
    data_root: str | None = None,
    resources: Resources | None = None,
    benchmarks: Mapping[str, Benchmark] | None = None,
    executor: Executor = "auto",
    tracking: Tracking | None = None,
    progress: Progress = no_progress,
    address: str | None = None,
    max_concurrent: int | None = None,
    retry_failed: bool = False,
    functions: WorkerFunctions | None = None,
    query_budget: int | None = None,
    price_per_1000: float | None = None,
) -> SweepOutcome:
    """Run whatever of a sweep is not in the store yet; with nothing left, Ray is not even started.

    Args:
        sweep: What is asked for.
        store: The sweep's folder; the truth about what is done.
        data_root: Folder that holds the benchmarks' folders.
        resources: What a fold is computed with.
        benchmarks: The sweep's benchmarks by name; None looks them up.
        executor: Where folds run; `auto` is Tune actors for one worker, a `TorchTrainer` for several.
        tracking: Brought up to date while the sweep runs and at its end.
        progress: Told what happens.
        address: Of a Ray cluster; None is RAY_ADDRESS, or a local Ray.
        max_concurrent: Most folds at a time; None is what fits. With 1, suggestions depend on nothing but the sweep.
        retry_failed: Give folds that failed before their attempts back.
        functions: What runs in the workers.
        query_budget: Most teacher queries, images and texts together, that the store's folds may ever ask.
        price_per_1000: Price of a thousand teacher queries, for status, report and tracking.

    Raises:
        UserError: a mistake that was found before anything ran, or by a worker.
    """
    started = time.monotonic()
    resources = resources or Resources()
    settings = SweepSettings(
        resources=resources,
        executor=chosen_executor(executor, resources),
        address=address,
        max_concurrent=max_concurrent,
        functions=functions or WorkerFunctions(),
        tracking=tracking,
        progress=progress,
    )
    root = absolute_data_root(data_root)
    benchmarks = benchmarks or resolve_benchmarks(sweep.benchmarks, root)
    store.check_writable()
    store.check_sweep(sweep)
    groups = _group_records(sweep, benchmarks)
    manifests = check_data(benchmarks, store=store, data_root=root, tell=settings.message)
    with alone_in(store) as owner:
        store.claim(sweep, groups, manifests)
        store.remember_price(price_per_1000)
        specs = FoldSpecs(sweep=sweep, benchmarks=benchmarks, manifests=manifests)
        need = remaining_need(specs, store=store, data_root=root) if query_budget is not None else None
        agenda = build_agenda(
            groups,
            specs=specs,
            store=store,
            max_failures=MAX_FAILURES,
            retry_failed=retry_failed,
            admission=Admission(query_budget, need=need, asked=lambda: reserved_queries(store.queries_folder)),
        )
        jobs = FoldJobs(
            store=store, benchmarks=benchmarks, data_root=root, resources=resources, query_budget=query_budget
        )
        if need is not None:
            need.unchecked = unchecked(agenda.groups)
        interrupted = _work(agenda, jobs, owner, settings)
    settings.progress(ProgressEvent(kind="sweep_finished", counts=agenda.counts()))
    return SweepOutcome(
        counts=agenda.counts(),
        failures=tuple(_failures(agenda, store)),
        interrupted=interrupted,
        out_of_budget=agenda.is_out_of_budget,
        seconds=time.monotonic() - started,
    )


@contextmanager
def alone_in(store: Store) -> Iterator[Owner]:
    """Be the only process at work in a sweep's folder.

    Raises:
        UserError: another one is, and lives.
    """
    lease = Lease(store.lease_file, this_process())
    try:
        lease.take()
    except LeaseHeldError as held:
        raise UserError(
            f"another sweep is at work in {store.out} (process {held.owner.process} on {held.owner.host}); wait for "
            "it, stop it, or give another --out"
        ) from None
    try:
        yield lease.owner
    finally:
        lease.release()


def _work(agenda: Agenda, jobs: FoldJobs, owner: Owner, settings: SweepSettings) -> bool:
    """Run what is left; True where a signal ended it early."""
    settings.progress(ProgressEvent(kind="sweep_started", counts=agenda.counts()))
    sync = BackgroundSync(settings.tracking, settings.message)
    if agenda.is_finished or agenda.is_out_of_budget:
        sync.finish()
        return False
    if settings.tracking is not None:
        settings.tracking.preflight()
    stop = StopRequest()
    # Twice: Ray sets handlers of its own when it connects.
    with signals_stop(stop), connect(address=settings.address) as cluster, signals_stop(stop):
        check_resources(cluster, settings.resources)
        try:
            if not stop.wanted:
                check_methods(agenda, jobs, _preflight_caller(settings))
        except BudgetReached:
            agenda.close_budget()
        if not stop.wanted and not agenda.is_out_of_budget:
            sync.start()
            _tune(agenda, jobs, owner, settings, cluster, stop, sync)
    sync.finish()
    if stop.user_error:
        raise UserError(stop.user_error)
    return stop.wanted and not agenda.is_finished


def _tune(
    agenda: Agenda,
    jobs: FoldJobs,
    owner: Owner,
    settings: SweepSettings,
    cluster: Cluster,
    stop: StopRequest,
    sync: BackgroundSync,
) -> None:
    from orchestrator.search import FoldSearch

    def watched(event: ProgressEvent) -> None:
        if event.kind in ("fold_done", "fold_failed"):
            sync.ask()
        settings.progress(event)

    with scratch_folder(jobs.store.ray_folder) as scratch:
        search = FoldSearch(
            agenda,
            jobs=jobs,
            owner=owner.identity,
            limit=folds_at_once(cluster, settings.resources, settings.max_concurrent),
            stop=stop,
            progress=watched,
            settings={"functions": settings.functions.to_mapping(), "storage_path": str(scratch)},
        )
        run_tune(
            search, stop, cluster=cluster, executor=settings.executor, resources=settings.resources, scratch=scratch
        )


def _preflight_caller(settings: SweepSettings) -> Callable[[list[dict[str, object]]], object]:
    def call(jobs: list[dict[str, object]]) -> object:
        return call_on_cluster(settings.functions.preflight, jobs, settings.resources)

    return call


def _group_records(sweep: Sweep, benchmarks: Mapping[str, Benchmark]) -> tuple[GroupRecord, ...]:
    return tuple(
        GroupRecord(
            name=group.name,
            benchmark=group.benchmark,
            method=group.method,
            test_domains=group.test_domains,
            trials=group.trials,
            seeds=group.seeds,
        )
        for group in make_plan(sweep, benchmarks).groups
    )


def _failures(agenda: Agenda, store: Store) -> Iterator[FailedFold]:
    for group, planned in agenda.failures():
        error = store.attempts(planned.key).error
        yield FailedFold(key=planned.key, group=group, fold=planned.fold, error=error)
