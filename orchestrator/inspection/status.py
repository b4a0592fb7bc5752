"""How a sweep stands, read from its folder alone: one line, then a row per fold group."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from orchestrator.events import Counts
from orchestrator.inspection.failure_summary import FailureSummary, failure_summaries
from orchestrator.inspection.teacher_usage import ledger_line, sweep_queries
from orchestrator.plan.gpu_share import GpuShare, gpu_share
from orchestrator.plan.remaining_time import GroupWork, duration, time_left
from orchestrator.search.group_view import GroupView, read_group_view
from orchestrator.store.fold_states import StoredStates
from orchestrator.store.results import FoldResult
from orchestrator.store.sweep_folder import SweepFolder
from orchestrator.store.usage import Usage, read_usage
from search_spaces.methods import method_facts
from trainables.teacher.ledger import QueryCounts, query_counts


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupStatus:
    """One fold group's row."""

    name: str
    benchmark: str
    method: str
    counts: Counts
    best: int | None
    """Number of the trial that is best so far (the selected one, once there is one)."""
    accuracy: float | None
    """That trial's mean source validation accuracy on the seed that was searched, a fraction."""
    teacher_images: int
    """Images that the teacher was asked for in the group's finished folds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepStatus:
    """A sweep as its folder shows it."""

    name: str
    counts: Counts
    groups: tuple[GroupStatus, ...]
    seconds: float
    """Computing time of the finished folds."""
    gpu_seconds: float
    """The same, times the GPUs that a fold has; 0 without GPUs."""
    teacher_queries: int
    """Images that the teacher was asked for in the finished folds."""
    aligns: int
    """Align stages that were run."""
    folds_with_align: int
    """Finished folds that needed one."""
    at_work: bool
    """A living process runs the sweep."""
    eta_seconds: float | None = None
    """Time until the end, at the pace so far; None while no command runs it or nothing is known."""
    queries: QueryCounts = field(default_factory=QueryCounts)
    """What the ledger says of the sweep's folds, unfinished ones too."""
    store_queries: QueryCounts = field(default_factory=QueryCounts)
    """What the ledger says of the whole store: other sweeps, `teacher embed` and checks too."""
    failures: tuple[FailureSummary, ...] = ()
    """Folds in which something went wrong."""
    used: Usage = field(default_factory=Usage)
    """Time that the sweep has used, that of interrupted and failed folds too."""
    gpu_share: GpuShare | None = None
    """What a fold takes of a GPU; None without GPUs."""

    @property
    def line(self) -> str:
        """`88 folds: 61 done, 8 running, 2 failed (retryable), 5 pruned, 12 waiting - 14.2 GPU-h - ... - ETA 3 h`."""
        parts = [self.counts_line, self.computing_line, f"{_short(self.teacher_queries)} teacher queries"]
        if self.aligns_saved:
            parts.append(f"{self.aligns_saved} Align stage{'s' if self.aligns_saved > 1 else ''} saved by sharing")
        if self.eta_seconds is not None and self.counts.done < self.counts.planned:
            parts.append(f"ETA {duration(self.eta_seconds)}")
        if self.counts.running == 0 and self.counts.waiting and not self.at_work:
            parts.append("no command runs it: run the sweep again to resume")
        return " - ".join(parts)

    @property
    def counts_line(self) -> str:
        """`88 folds: 61 done, 8 running, 2 failed (retryable), 5 pruned, 12 waiting`."""
        counts = self.counts
        states = [f"{counts.done} done", f"{counts.running} running"]
        if counts.failed:
            states.append(f"{counts.failed} failed (retryable)")
        if counts.pruned:
            states.append(f"{counts.pruned} pruned")
        states.append(f"{counts.waiting} waiting")
        return f"{counts.planned} folds: {', '.join(states)}"

    @property
    def computing_line(self) -> str:
        """`14.2 GPU-h`; without GPUs what the folds took: `14.2 fold-h`, `3.0 fold-min`."""
        if self.gpu_seconds:
            return f"{self.gpu_seconds / 3600:.1f} GPU-h"
        return f"{self.seconds / 3600:.1f} fold-h" if self.seconds >= 3600 else f"{self.seconds / 60:.1f} fold-min"

    @property
    def aligns_saved(self) -> int:
        """Align stages that finished folds took over from each other instead of running them."""
        return self.folds_with_align - self.aligns

    def queries_line(self, price_per_1000: float | None = None) -> str:
        """What the ledger says, and its price."""
        return ledger_line(self.queries, self.store_queries, price_per_1000)

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        content = asdict(self)
        content["line"] = self.line
        content["aligns_saved"] = self.aligns_saved
        content["counts"]["planned"] = self.counts.planned
        for row, group in zip(content["groups"], self.groups, strict=True):
            row["counts"]["planned"] = group.counts.planned
        return content


def sweep_status(store: SweepFolder) -> SweepStatus:
    """Read where a sweep stands.

    Raises:
        UserError: the folder holds no sweep.
    """
    sweep = store.existing_sweep()
    owner = store.living_owner()
    groups, work, results = [], [], {}
    states = StoredStates(store.folds, living_owner=owner)
    for group in store.groups():
        view = read_group_view(store, group, selection=sweep.selection, states=states)
        row, finished, running = _group_status(view, states)
        groups.append(row)
        results.update(finished)
        work.append(_group_work(store, row, finished, running))
    with_align = [key for key, (method, _) in results.items() if method_facts(method).aligns]
    specs = [store.folds.fold(key).read_spec() for key in with_align]
    seconds = sum(result.seconds for _, result in results.values())
    resources = store.last_run().resources
    return SweepStatus(
        name=sweep.name,
        counts=sum((group.counts for group in groups), Counts()),
        groups=tuple(groups),
        seconds=seconds,
        gpu_seconds=seconds * resources.workers * resources.gpus_per_worker,
        eta_seconds=time_left(work) if owner is not None else None,
        teacher_queries=sum(result.queries.images for _, result in results.values()),
        aligns=len({spec.align_key for spec in specs if spec is not None}),
        folds_with_align=len(with_align),
        at_work=owner is not None,
        queries=sweep_queries(store),
        store_queries=query_counts(store.folds.queries_folder),
        failures=failure_summaries(store),
        used=read_usage(store.usage_folder),
        gpu_share=gpu_share(result.gpu_memory for _, result in results.values()),
    )


Finished = dict[str, tuple[str, FoldResult]]
"""Method and result of finished folds, by key: a fold that two trials share counts once."""


def _group_work(store: SweepFolder, row: GroupStatus, finished: Finished, running: list[str]) -> GroupWork:
    since = [store.folds.running_since(key) for key in running]
    return GroupWork(
        kind=(row.benchmark, row.method),
        took=tuple(result.seconds for _, result in finished.values()),
        running_since=tuple(started for started in since if started is not None),
        waiting=row.counts.waiting,
    )


def _group_status(view: GroupView, states: StoredStates) -> tuple[GroupStatus, Finished, list[str]]:
    """The row, the finished folds, and the keys of those that run."""
    group, best = view.group, view.best
    keys = list(dict.fromkeys(planned.key for _, planned in view.planned()))
    results = {key: states.result(key) for key in keys}
    finished = {key: (group.method, result) for key, result in results.items() if result is not None}
    row = GroupStatus(
        name=group.name,
        benchmark=group.benchmark,
        method=group.method,
        counts=view.counts(),
        best=best,
        accuracy=None if best is None else view.objectives[best],
        teacher_images=sum(result.queries.images for _, result in finished.values()),
    )
    return row, finished, [key for key in keys if states.is_running(key)]


def _short(count: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return str(count)
