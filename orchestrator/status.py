"""How a sweep stands, read from its folder alone: one line, then a row per fold group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from orchestrator.progress import Counts
from orchestrator.queries import ledger_line, sweep_queries
from orchestrator.store import GroupRecord, Store
from search_spaces.errors import UserError
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
    """Number of the trial that is best so far (the chosen one, once it is chosen)."""
    accuracy: float | None
    """That trial's mean source validation accuracy on seed 0, a fraction."""
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
    teacher_queries: int
    """Images that the teacher was asked for in the finished folds."""
    aligns: int
    """Align stages that were run."""
    folds_with_align: int
    """Finished folds that needed one."""
    at_work: bool
    """A living process runs the sweep."""
    queries: QueryCounts = field(default_factory=QueryCounts)
    """What the ledger says of the sweep's folds, unfinished ones too."""
    store_queries: QueryCounts = field(default_factory=QueryCounts)
    """What the ledger says of the whole store: other sweeps, `teacher embed` and checks too."""

    @property
    def line(self) -> str:
        """`88 folds: 61 done, 8 running, 2 failed (retryable), 17 waiting - 14.2 h - 1.1 M teacher queries`."""
        counts = self.counts
        states = [f"{counts.done} done", f"{counts.running} running"]
        if counts.failed:
            states.append(f"{counts.failed} failed (retryable)")
        states.append(f"{counts.waiting} waiting")
        parts = [f"{counts.planned} folds: {', '.join(states)}", _hours(self.seconds)]
        parts.append(f"{_short(self.teacher_queries)} teacher queries")
        if self.folds_with_align > self.aligns:
            parts.append(f"{self.folds_with_align - self.aligns} Align stages shared")
        if counts.running == 0 and counts.waiting and not self.at_work:
            parts.append("nobody is at work: run the sweep again to go on")
        return " - ".join(parts)

    def queries_line(self, price_per_1000: float | None = None) -> str:
        """What the ledger says, and its price."""
        return ledger_line(self.queries, self.store_queries, price_per_1000)

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        content = asdict(self)
        content["line"] = self.line
        content["counts"]["planned"] = self.counts.planned
        for row, group in zip(content["groups"], self.groups, strict=True):
            row["counts"]["planned"] = group.counts.planned
        return content


def sweep_status(store: Store) -> SweepStatus:
    """Read where a sweep stands.

    Raises:
        UserError: the folder holds no sweep.
    """
    sweep = store.sweep()
    if sweep is None:
        raise UserError(f"no sweep in {store.out}; give the --out of one")
    owner = store.living_owner()
    groups, results = [], {}
    for group in store.groups():
        row, finished = _group_status(store, group, owner)
        groups.append(row)
        results.update(finished)
    with_align = [key for key, (method, _) in results.items() if "align" in method_facts(method).stages]
    specs = [store.spec(key) for key in with_align]
    return SweepStatus(
        name=sweep.name,
        counts=sum((group.counts for group in groups), Counts()),
        groups=tuple(groups),
        seconds=sum(float(result["seconds"]) for _, result in results.values()),
        teacher_queries=sum(int(result["teacher_queries"]["images"]) for _, result in results.values()),
        aligns=len({spec.align_key for spec in specs if spec is not None}),
        folds_with_align=len(with_align),
        at_work=owner is not None,
        queries=sweep_queries(store),
        store_queries=query_counts(store.queries_folder),
    )


Finished = dict[str, tuple[str, Mapping[str, Any]]]
"""Method and result of finished folds, by key: a fold that two trials share counts once."""


def _group_status(store: Store, group: GroupRecord, owner: str | None) -> tuple[GroupStatus, Finished]:
    trials, confirmation = store.trials(group.name), store.confirmation(group.name)
    slots = [planned.key for trial in trials for planned in trial.folds]
    if confirmation is not None:
        own = {planned.key for planned in trials[confirmation.number].folds}
        slots += [planned.key for planned in confirmation.folds if planned.key not in own]
    states = {key: store.fold_state(key, owner) for key in set(slots)}
    number = {state: sum(states[key] == state for key in slots) for state in ("done", "running", "failed")}
    finished: Finished = {}
    for key in (key for key, state in states.items() if state == "done"):
        result = store.fold(key).read_result()
        if result is not None:
            finished[key] = (group.method, result)
    objectives = {}
    for trial in trials:
        if all(planned.key in finished for planned in trial.folds):
            values = [_accuracy(finished[planned.key][1]) for planned in trial.folds]
            objectives[trial.number] = sum(values) / len(values)
    best = max(objectives, key=lambda key: (objectives[key], key), default=None)
    if confirmation is not None and confirmation.number in objectives:
        best = confirmation.number
    all_failed = len(trials) == group.trials > 1 and len(slots) == number["failed"]
    hopeless = confirmation is None and all_failed
    planned = len(slots) if hopeless else max(group.num_folds, len(slots))
    counts = Counts(**number, waiting=planned - sum(number.values()))
    return (
        GroupStatus(
            name=group.name,
            benchmark=group.benchmark,
            method=group.method,
            counts=counts,
            best=best,
            accuracy=None if best is None else objectives[best],
            teacher_images=sum(int(result["teacher_queries"]["images"]) for _, result in finished.values()),
        ),
        finished,
    )


def _accuracy(result: Mapping[str, Any]) -> float:
    return float(result["source_validation"]["accuracy"])


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} fold-h" if seconds >= 3600 else f"{seconds / 60:.1f} fold-min"


def _short(count: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return str(count)
