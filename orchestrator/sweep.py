"""Run a sweep, or go on with one: check, look what is left, hand it to Ray Tune, keep everything."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Literal

from orchestrator.budgets.admission import Admission, Promises
from orchestrator.budgets.costs import CostForecast, accounts, sweep_costs
from orchestrator.budgets.remaining_queries import remaining_need
from orchestrator.events import Counts, Progress, ProgressEvent, no_progress
from orchestrator.execution.cluster import Cluster, call_on_cluster, check_answers, check_resources, connect
from orchestrator.execution.executors import Executor, WorkerFunctions, chosen_executor
from orchestrator.execution.fold_jobs import FoldJobs
from orchestrator.execution.local_ray import remove_abandoned_ray_folders
from orchestrator.execution.preflight import (
    CHECKING,
    check_budget_can_be_kept,
    check_data,
    check_methods,
    check_shared,
    resolve_benchmarks,
    unchecked,
)
from orchestrator.execution.tune_run import folds_at_once, run_tune, scratch_folder, signals_stop
from orchestrator.plan.gpu_share import ShareTeller
from orchestrator.plan.plan import make_plan
from orchestrator.run_options import LastRun, Limits, absolute_data_root, gpus_per_fold
from orchestrator.scheduler.control import listening
from orchestrator.scheduler.fold_queue import Agenda, build_agenda
from orchestrator.scheduler.stopping import StopRequest
from orchestrator.search.group_view import read_group_view
from orchestrator.search.specs import FoldSpecs
from orchestrator.store.failures import MAX_FAILURES, check_max_failures
from orchestrator.store.leases import FoldLeases, alone_in
from orchestrator.store.records import GroupRecord, PlannedFold
from orchestrator.store.remembered import remember_run
from orchestrator.store.sweep_folder import SweepFolder
from orchestrator.store.usage import UsageMeter
from orchestrator.tracking.background import BackgroundSync, Tracking, TrackingAwayError
from search_spaces.benchmarks import Benchmark
from search_spaces.errors import UserError
from search_spaces.folds import Fold
from search_spaces.hyperparameters import Resources
from search_spaces.methods import method_facts
from search_spaces.sweeps import Sweep
from trainables.storage.leases import Owner
from trainables.teacher.ledger import BudgetReached


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
    """No budget lets any fold start that is left."""
    refusals: tuple[str, ...] = ()
    """Which budgets do not, and what was used; one line each."""
    tracking_behind: str = ""
    """Why MLflow lacks some of what the store holds, in one line; empty where it has everything."""
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
    store: SweepFolder,
    data_root: str | None = None,
    resources: Resources | None = None,
    benchmarks: Mapping[str, Benchmark] | None = None,
    executor: Executor = "auto",
    tracking: Tracking | None = None,
    progress: Progress = no_progress,
    address: str | None = None,
    max_concurrent: int | None = None,
    retry_failed: bool = False,
    only_failed: bool = False,
    functions: WorkerFunctions | None = None,
    query_budget: int | None = None,
    price_per_1000: float | None = None,
    limits: Limits | None = None,
    max_failures: int = MAX_FAILURES,
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
        only_failed: Give them back, and run these folds alone.
        functions: What runs in the workers.
        query_budget: Most teacher queries, images and texts together, that the store's folds may ever ask.
        price_per_1000: Price of a thousand teacher queries, for status, report, tracking and a budget of money.
        limits: Budgets of time and money, over all runs of the sweep.
        max_failures: Most further attempts at a fold that crashed, or whose worker process died.

    Raises:
        UserError: a mistake that was found before anything ran, or by a worker.
    """
    started = time.monotonic()
    resources, limits = resources or Resources(), limits or Limits()
    price_per_1000 = store.price_per_1000 if price_per_1000 is None else price_per_1000
    limits.check(resources, price_per_1000)
    check_max_failures(max_failures)
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
    if not store.records.is_begun:
        _check_servers(settings)
    groups = fold_group_records(sweep, benchmarks)
    manifests = check_data(benchmarks, store=store, data_root=root, tell=settings.message)
    with alone_in(store) as owner, closing(FoldLeases(owner)) as leases:
        store.claim(sweep, groups, manifests)
        store.remember_price(price_per_1000)
        remember_run(
            store,
            LastRun(
                benchmarks=benchmarks,
                data_root=root,
                resources=resources,
                executor=executor,
                address=address,
                max_concurrent=max_concurrent,
                query_budget=query_budget,
                limits=limits,
                max_failures=max_failures,
            ),
        )
        specs = FoldSpecs(sweep=sweep, benchmarks=benchmarks, manifests=manifests)
        priced = limits.money is not None and price_per_1000 is not None
        if priced or query_budget is not None:
            store.mirrors.fetch(store.folds.embeddings_folder)
        need = remaining_need(specs, store=store, data_root=root) if priced or query_budget is not None else None
        only = failed_folds(store) if only_failed else None
        gpus = gpus_per_fold(resources)
        meter = UsageMeter(store.usage_folder, owner.identity, gpus_per_fold=gpus, running=lambda: agenda.running)
        costs = sweep_costs(specs, store, meter, limits=limits, resources=resources, price_per_1000=price_per_1000)
        agenda = build_agenda(
            groups,
            specs=specs,
            store=store,
            max_failures=max_failures,
            retry_failed=retry_failed or only_failed,
            only=only,
            admission=Admission(
                query_budget,
                accounts=accounts(limits),
                forecast=costs,
                promises=Promises(store),
                is_retry=only_failed,
            ),
            need=need,
            leases=leases,
            repeatable=max_concurrent == 1,
        )
        jobs = FoldJobs(
            store=store, benchmarks=benchmarks, data_root=root, resources=resources, query_budget=query_budget
        )
        if need is not None:
            need.unchecked = unchecked(agenda.groups)
        sync = BackgroundSync(settings.tracking, settings.message)
        interrupted = _work(agenda, jobs, owner, settings, costs, sync)
        if need is not None:
            # What the next command will check again: the refusals name a budget that suffices for it.
            need.unchecked = unchecked(agenda.groups)
    settings.progress(ProgressEvent(kind="sweep_finished", counts=agenda.counts()))
    return SweepOutcome(
        counts=agenda.counts(),
        failures=tuple(_failures(agenda, store)),
        interrupted=interrupted,
        out_of_budget=agenda.is_out_of_budget,
        refusals=tuple(agenda.refusals()) if agenda.is_out_of_budget else (),
        tracking_behind=sync.behind,
        seconds=time.monotonic() - started,
    )


def failed_folds(store: SweepFolder) -> dict[str, PlannedFold]:
    """Folds that the sweep still plans and that gave up, or whose retry was cut short, by key."""
    selection = store.existing_sweep().selection
    views = (read_group_view(store, group, selection=selection) for group in store.groups())
    planned = (planned for view in views for _, planned in view.planned())

    def went_wrong(key: str) -> bool:
        attempts = store.folds.attempts(key)
        return attempts.failed or bool(attempts.attempts and store.folds.fold_state(key, None) == "waiting")

    return {fold.key: fold for fold in planned if went_wrong(fold.key)}


def _work(
    agenda: Agenda, jobs: FoldJobs, owner: Owner, settings: SweepSettings, costs: CostForecast, sync: BackgroundSync
) -> bool:
    """Run what is left; True where a signal ended it early."""
    settings.progress(ProgressEvent(kind="sweep_started", counts=agenda.counts()))
    # A command that was killed at its very end left these, and there may be nothing left to start Ray for.
    remove_abandoned_ray_folders()
    shutil.rmtree(jobs.store.ray_folder, ignore_errors=True)
    if agenda.is_finished or agenda.is_out_of_budget:
        sync.finish()
        return False
    _check_tracking(settings.tracking, sync, begun=jobs.store.records.is_begun)
    stop = StopRequest()
    jobs.store.mirrors.when_lost = stop.because
    # Twice: Ray sets handlers of its own when it connects.
    with (
        costs.meter,
        listening(jobs.store, owner, stop),
        signals_stop(stop),
        connect(address=settings.address) as cluster,
        signals_stop(stop),
    ):
        check_resources(cluster, settings.resources)
        if not cluster.is_local:
            check_shared(jobs.store.shared, mirrored=jobs.store.mirrors.addresses)
        check_budget_can_be_kept(jobs.query_budget, jobs.store.mirrors, cluster)
        costs.at_once = folds_at_once(cluster, settings.resources, settings.max_concurrent)
        try:
            if not stop.closing:
                check_methods(agenda, jobs, _preflight_caller(settings))
        except BudgetReached:
            agenda.close_budget()
        if not stop.closing and not agenda.is_out_of_budget:
            sync.start()
            _tune(agenda, jobs, owner, settings, cluster, stop, sync)
            with suppress(OSError):
                jobs.store.mirrors.fetch_awaited()
    agenda.workers_ended()
    sync.finish()
    if stop.user_error:
        raise UserError(stop.user_error)
    return stop.closing and not agenda.is_finished


def _check_servers(settings: SweepSettings) -> None:
    """Raises `UserError` where a server that the sweep needs does not answer, before any image is read."""
    try:
        if settings.tracking is not None:
            settings.tracking.look()
    except TrackingAwayError as error:
        raise _without_tracking(error) from None
    check_answers(settings.address)


def _without_tracking(error: TrackingAwayError) -> UserError:
    return UserError(
        f"{error}; or train without it (--tracking later) and fill it in afterwards (vl2v-orchestrate sync)"
    )


def _check_tracking(tracking: Tracking | None, sync: BackgroundSync, *, begun: bool) -> None:
    """Look for the tracking server; of a sweep that was begun before, it may be away for as long as it likes.

    Raises:
        UserError: nothing has run yet and the server does not answer, or the address is none.
    """
    try:
        if tracking is not None:
            tracking.preflight()
    except TrackingAwayError as error:
        if begun:
            # Whoever starts a lost machine again at night must not have to start the server first.
            sync.is_away(error.reason)
            return
        raise _without_tracking(error) from None


def _tune(
    agenda: Agenda,
    jobs: FoldJobs,
    owner: Owner,
    settings: SweepSettings,
    cluster: Cluster,
    stop: StopRequest,
    sync: BackgroundSync,
) -> None:
    from orchestrator.execution.tune_searcher import FoldSearch

    sharing = ShareTeller(lambda text: settings.message(text, agenda.counts()))

    def watched(event: ProgressEvent) -> None:
        if event.fold is not None and event.kind in ("fold_done", "fold_failed", "fold_pruned"):
            sync.ask(event.fold.group, event.fold.key)
        settings.progress(event)
        # What trains nothing holds little, and says little about the others.
        if event.kind == "fold_done" and event.fold is not None and method_facts(event.fold.method).stages:
            result = jobs.store.folds.result(event.fold.key)
            sharing.look(None if result is None else result.gpu_memory)

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
        return call_on_cluster(settings.functions.preflight, jobs, settings.resources, doing=CHECKING)

    return call


def fold_group_records(sweep: Sweep, benchmarks: Mapping[str, Benchmark]) -> tuple[GroupRecord, ...]:
    """The fold groups of a sweep as they are written down."""
    return tuple(
        GroupRecord(
            name=group.name,
            benchmark=group.benchmark,
            method=group.method,
            test_domains=group.test_domains,
            trials=group.trials,
            seeds=group.seeds,
            own_seed=group.own_seed,
        )
        for group in make_plan(sweep, benchmarks).groups
    )


def _failures(agenda: Agenda, store: SweepFolder) -> Iterator[FailedFold]:
    for group, planned in agenda.failures():
        error = store.folds.attempts(planned.key).error
        yield FailedFold(key=planned.key, group=group, fold=planned.fold, error=error)
