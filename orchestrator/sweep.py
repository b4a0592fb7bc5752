"""Run a sweep, or go on with one: check, look what is left, hand it to a back end, keep everything."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace

from orchestrator.budgets.admission import Admission, Promises
from orchestrator.budgets.costs import CostForecast, accounts, sweep_costs
from orchestrator.budgets.remaining_queries import RemainingNeed, remaining_need
from orchestrator.events import Counts, Progress, ProgressEvent, no_progress
from orchestrator.execution.back_ends import open_back_end
from orchestrator.execution.executors import chosen_executor
from orchestrator.execution.fold_jobs import FoldJobs
from orchestrator.execution.local_ray import remove_abandoned_ray_folders
from orchestrator.execution.preflight import (
    check_data,
    check_methods,
    check_servers,
    look_for_tracking,
    resolve_benchmarks,
    unchecked,
)
from orchestrator.exit_codes import ExitCode
from orchestrator.plan.asked import check_asked
from orchestrator.plan.gpu_share import ShareTeller
from orchestrator.plan.plan import make_plan
from orchestrator.run_options import RunOptions, absolute_data_root, check_places, gpus_per_fold
from orchestrator.scheduler.control import listening
from orchestrator.scheduler.dispatcher import Dispatcher
from orchestrator.scheduler.fold_queue import FoldQueue, build_fold_queue
from orchestrator.scheduler.stopping import StopRequest, signals_stop
from orchestrator.search.group_view import read_group_view
from orchestrator.search.specs import FoldSpecs
from orchestrator.store.fold_states import FoldStates
from orchestrator.store.leases import FoldLeases, alone_in, check_alone
from orchestrator.store.records import PlannedFold
from orchestrator.store.sweep_folder import SweepFolder, check_could_write
from orchestrator.store.usage import UsageMeter
from orchestrator.tracking.background import BackgroundSync, Tracking
from search_spaces.errors import UserError
from search_spaces.fold_groups import FoldGroup
from search_spaces.folds import Fold
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
    def exit_code(self) -> ExitCode:
        """What the command ends with."""
        if self.interrupted:
            return ExitCode.INTERRUPTED
        if self.out_of_budget:
            return ExitCode.BUDGET_REACHED
        return ExitCode.FAILED_FOLDS if self.failures else ExitCode.DONE


@dataclass(frozen=True, kw_only=True, slots=True)
class _Work:
    """What one run of a sweep works with."""

    store: SweepFolder
    options: RunOptions
    owner: Owner
    queue: FoldQueue
    jobs: FoldJobs
    costs: CostForecast
    need: RemainingNeed | None
    """Of the teacher's queries, where a budget depends on it."""
    tracking: Tracking | None
    sync: BackgroundSync
    progress: Progress


def run_sweep(
    sweep: Sweep,
    store: SweepFolder,
    options: RunOptions | None = None,
    progress: Progress = no_progress,
    tracking: Tracking | None = None,
) -> SweepOutcome:
    """Run whatever of a sweep is not in the store yet; with nothing left, Ray is not even started.

    Args:
        sweep: What is asked for.
        store: The sweep's folder; the truth about what is done.
        options: Where and with what it runs.
        progress: Told what happens.
        tracking: Brought up to date while the sweep runs and at its end.

    Raises:
        UserError: a mistake that was found before anything ran, or by a worker.
    """
    started = time.monotonic()
    options = check_before(sweep, store, options or RunOptions(), tracking)
    store.check_writable()
    manifests = check_data(
        options.benchmarks, store=store, data_root=options.data_root, tell=lambda text: _message(progress, text)
    )
    with alone_in(store) as owner, closing(FoldLeases(owner)) as leases:
        groups = make_plan(sweep, options.benchmarks).groups
        store.claim(sweep, groups, manifests)
        store.remember_run(options)
        specs = FoldSpecs(sweep=sweep, benchmarks=options.benchmarks, manifests=manifests)
        work = _work(groups, specs, store, options, leases, progress, tracking)
        interrupted = _run_what_is_left(work)
        if work.need is not None:
            # What the next command will check again: the refusals name a budget that suffices for it.
            work.need.unchecked = unchecked(work.queue.groups)
    progress(ProgressEvent(kind="sweep_finished", counts=work.queue.counts()))
    return SweepOutcome(
        counts=work.queue.counts(),
        failures=tuple(_failures(work.queue, store)),
        interrupted=interrupted,
        out_of_budget=work.queue.is_out_of_budget,
        refusals=tuple(work.queue.open.refusals()) if work.queue.is_out_of_budget else (),
        tracking_behind=work.sync.behind,
        seconds=time.monotonic() - started,
    )


def check_before(sweep: Sweep, store: SweepFolder, options: RunOptions, tracking: Tracking | None = None) -> RunOptions:
    """Find what can be found without reading an image or writing a file; returns the options as they will be used.

    Raises:
        UserError: the folder cannot be written, is another sweep's or in use, or a new sweep could not run.
    """
    options = _resolved(options, sweep, store)
    check_asked(sweep, options.benchmarks)
    check_could_write(store)
    store.check_sweep(sweep)
    check_alone(store)
    check_places(options)
    if not store.records.has_trials:
        check_servers(options, tracking)
    return options


def failed_folds(store: SweepFolder) -> dict[str, PlannedFold]:
    """Folds that the sweep still plans and that gave up, or whose retry was cut short, by key."""
    selection = store.existing_sweep().selection
    views = (read_group_view(store, group, selection=selection) for group in store.groups())
    planned = (planned for view in views for _, planned in view.planned())

    def went_wrong(key: str) -> bool:
        attempts = store.folds.failures(key)
        return attempts.failed or bool(attempts.attempts and store.folds.fold_state(key, None) == "waiting")

    return {fold.key: fold for fold in planned if went_wrong(fold.key)}


def _resolved(options: RunOptions, sweep: Sweep, store: SweepFolder) -> RunOptions:
    """The options with the price that the folder remembers, an absolute data root, and every benchmark looked up.

    Raises:
        UserError: a budget that limits nothing, an executor that cannot run these folds, or no such benchmark.
    """
    price, root = options.price_per_1000, absolute_data_root(options.data_root)
    options = replace(options, data_root=root, price_per_1000=store.price_per_1000 if price is None else price)
    options.check()
    chosen_executor(options.executor, options.resources, options.address)
    return replace(options, benchmarks=options.benchmarks or resolve_benchmarks(sweep.benchmarks, root))


def _work(
    groups: Sequence[FoldGroup],
    specs: FoldSpecs,
    store: SweepFolder,
    options: RunOptions,
    leases: FoldLeases,
    progress: Progress,
    tracking: Tracking | None,
) -> _Work:
    """Read what is there already, and queue what is left."""
    if options.counts_queries:
        store.mirrors.fetch(store.folds.embeddings_folder)
    need = remaining_need(specs, store=store, data_root=options.data_root) if options.counts_queries else None
    only = failed_folds(store) if options.only_failed else None
    gpus, identity = gpus_per_fold(options.resources), leases.owner.identity
    meter = UsageMeter(store.usage_folder, identity, gpus_per_fold=gpus, running=lambda: queue.running)
    costs = sweep_costs(specs, store, meter, options)
    queue = build_fold_queue(
        groups,
        specs=specs,
        store=store,
        states=FoldStates(
            store,
            max_failures=options.max_failures,
            retry_failed=options.retry_failed or options.only_failed,
            leases=leases,
        ),
        only=only,
        admission=Admission(
            options.query_budget,
            accounts=accounts(options.limits),
            forecast=costs,
            promises=Promises(store),
            is_retry=options.only_failed,
        ),
        need=need,
        repeatable=options.max_concurrent == 1,
    )
    if need is not None:
        need.unchecked = unchecked(queue.groups)
    return _Work(
        store=store,
        options=options,
        owner=leases.owner,
        queue=queue,
        jobs=FoldJobs(
            store=store,
            benchmarks=options.benchmarks,
            data_root=options.data_root,
            resources=options.resources,
            query_budget=options.query_budget,
        ),
        costs=costs,
        need=need,
        tracking=tracking,
        sync=BackgroundSync(tracking, lambda text: _message(progress, text)),
        progress=progress,
    )


def _message(progress: Progress, text: str, counts: Counts | None = None) -> None:
    progress(ProgressEvent(kind="message", counts=counts or Counts(), text=text))


def _run_what_is_left(work: _Work) -> bool:
    """Run what is left; True where a signal ended it early."""
    store, options, queue = work.store, work.options, work.queue
    work.progress(ProgressEvent(kind="sweep_started", counts=queue.counts()))
    # A command that was killed at its very end left these, and there may be nothing left to start Ray for.
    remove_abandoned_ray_folders()
    shutil.rmtree(store.ray_folder, ignore_errors=True)
    if queue.is_finished or queue.is_out_of_budget:
        work.sync.finish()
        return False
    look_for_tracking(work.tracking, work.sync, resumed=store.records.has_trials)
    stop = StopRequest()
    store.mirrors.when_lost = stop.because
    # Twice: Ray sets handlers of its own when it connects.
    with (
        work.costs.meter,
        listening(store, work.owner, stop),
        signals_stop(stop),
        open_back_end(
            chosen_executor(options.executor, options.resources, options.address),
            resources=options.resources,
            functions=options.functions,
            address=options.address,
            most=options.max_concurrent,
        ) as back_end,
        signals_stop(stop),
    ):
        back_end.check(store.shared, mirrors=store.mirrors, query_budget=options.query_budget)
        work.costs.at_once = back_end.at_once
        try:
            if not stop.closing:
                check_methods(queue, work.jobs, back_end.preflight)
        except BudgetReached:
            queue.open.close()
        if not stop.closing and not queue.is_out_of_budget:
            work.sync.start()
            dispatcher = Dispatcher(
                queue,
                store=store,
                owner=work.owner.identity,
                stop=stop,
                progress=_watched(work),
                limit=back_end.at_once,
            )
            back_end.run(dispatcher, work.jobs)
            with suppress(OSError):
                store.mirrors.fetch_awaited()
    queue.workers_ended()
    work.sync.finish()
    if stop.user_error:
        raise UserError(stop.user_error)
    return stop.closing and not queue.is_finished


def _watched(work: _Work) -> Progress:
    """The sweep's progress, which tracking follows, and what finished folds say about their share of a GPU."""
    sharing = ShareTeller(lambda text: _message(work.progress, text, work.queue.counts()))

    def watch(event: ProgressEvent) -> None:
        if event.fold is not None and event.kind in ("fold_done", "fold_failed", "fold_pruned"):
            work.sync.ask(event.fold.group, event.fold.key)
        work.progress(event)
        # What trains nothing holds little, and says little about the others.
        if event.kind == "fold_done" and event.fold is not None and method_facts(event.fold.method).stages:
            result = work.store.folds.result(event.fold.key)
            sharing.look(None if result is None else result.gpu_memory)

    return watch


def _failures(queue: FoldQueue, store: SweepFolder) -> Iterator[FailedFold]:
    for group, planned in queue.failures():
        error = store.folds.failures(planned.key).error
        yield FailedFold(key=planned.key, group=group, fold=planned.fold, error=error)
