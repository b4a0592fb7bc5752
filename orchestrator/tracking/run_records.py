"""The store's folds as MLflow would hold them: nested records with parameters, metrics by step and files.

A record follows from files alone, so projecting it twice gives the same. Test-domain numbers are not in it: only the
report opens `test.json`, and `student.safetensors` is the one artifact that is not plain text.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.search.group_view import read_group_view
from orchestrator.store.results import FoldResult, fold_result
from orchestrator.tracking.fold_order import in_order_of_arrival
from orchestrator.tracking.metric_points import (
    MetricPoint,
    journal_metrics,
    milliseconds,
    price_tag,
    result_metrics,
    running_best,
)
from search_spaces.configuration import flat
from search_spaces.folds import Fold
from search_spaces.methods import method_facts
from trainables.storage.fold_folder import FoldFolder
from trainables.storage.json_files import read_json

if TYPE_CHECKING:
    from orchestrator.store.records import GroupRecord
    from orchestrator.store.sweep_folder import SweepFolder
    from search_spaces.sweeps import Sweep, SweepSelection

FINGERPRINTS = ("data_manifest", "teacher_fingerprint", "student_fingerprint", "trainer_version")
"""Parts of a fold's content that are tags of its run."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One MLflow run, before MLflow."""

    kind: Literal["sweep", "group", "trial"]
    group: str
    """The fold group's name, such as `PACS/vl2v_adip/sketch`; empty for the sweep."""
    key: str
    """Finds the run again, together with kind, group and sweep."""
    name: str
    """Short: the list shows 20 characters."""
    version: str
    """Changes whenever anything below changes; a run that carries it is left alone."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: Callable[[], Iterable[MetricPoint]] = tuple
    """Called only when the run is out of date: a journal may hold thousands of lines."""
    documents: Mapping[str, Any] = field(default_factory=dict)
    """Artifact name -> plain values written as JSON."""
    files: tuple[Path, ...] = ()
    """Files copied as artifacts."""
    status: Literal["RUNNING", "FINISHED", "FAILED", "KILLED"] = "RUNNING"
    start_time: int | None = None
    end_time: int | None = None


@dataclass(frozen=True, kw_only=True)
class TrackedFold:
    """One fold of a group: where it lies, and which trial it belongs to."""

    group: str
    number: int
    """The trial's number in its group."""
    key: str
    folder: FoldFolder
    align: FoldFolder | None
    """The shared Align stage's folder, for a method that has one."""
    chosen: bool
    """Whether it belongs to the group's chosen configuration: those keep their student as an artifact."""
    fold: Fold
    method: str
    point: Mapping[str, Any] = field(default_factory=dict)
    """The trial's own hyperparameters, by dotted name."""
    failed: bool = False
    pruned: Mapping[str, Any] | None = None
    """Why this sweep gave it up; None where it did not, or where it was finished all the same."""


def sweep_records(store: SweepFolder, sweep: Sweep, documents: Mapping[str, Any]) -> Iterator[RunRecord]:
    """Every record of a sweep, parents first.

    Args:
        store: what is read.
        sweep: whose folds they are.
        documents: artifacts of the sweep's own run.
    """
    price_per_1000 = store.price_per_1000
    folds = {group.name: list(tracked_folds(store, group)) for group in store.groups()}
    results = {name: _results(tracked) for name, tracked in folds.items()}
    arrived = [(group, _result(store, results, group, key)) for group, key in in_order_of_arrival(store, results)]
    over = {group.name: _is_over(store, group, folds[group.name], sweep.selection) for group in store.groups()}
    yield _parent_record(
        kind="sweep",
        group="",
        key=sweep.key,
        name=sweep.name,
        parameters=flat(sweep.to_mapping()),
        results=[result for _, result in arrived],
        documents={**documents, "data_manifests.json": _manifests(store, folds)},
        over=all(over.values()),
        price_per_1000=price_per_1000,
    )
    for group in store.groups():
        yield _parent_record(
            kind="group",
            group=group.name,
            key=group.name,
            name=group.name,
            parameters={
                "benchmark": group.benchmark,
                "method": group.method,
                "test_domains": "+".join(group.test_domains),
            },
            results=[result for name, result in arrived if name == group.name],
            documents={},
            over=over[group.name],
            price_per_1000=price_per_1000,
        )
        yield from filter(None, (trial_record(fold, price_per_1000) for fold in folds[group.name]))


def tracked_folds(store: SweepFolder, group: GroupRecord) -> Iterator[TrackedFold]:
    """The folds of a group, each once, with the number of the trial they belong to."""
    confirmation = store.records.confirmation(group.name)
    chosen = {planned.key for planned in confirmation.folds} if confirmation else set()
    planned_folds = [(trial.number, planned) for trial in store.records.trials(group.name) for planned in trial.folds]
    if confirmation:
        planned_folds += [(confirmation.number, planned) for planned in confirmation.folds]
    left_out = store.records.confirmation(group.name, "leave_one_domain_out")
    chosen |= {planned.key for planned in left_out.folds} if left_out else set()
    planned_folds += store.records.left_out_folds(group.name)
    points = {trial.number: trial.point for trial in store.records.trials(group.name)}
    seen: set[str] = set()
    for number, planned in planned_folds:
        if planned.key not in seen:
            seen.add(planned.key)
            spec = store.folds.spec(planned.key)
            has_align = spec is not None and method_facts(spec.method).aligns
            yield TrackedFold(
                group=group.name,
                number=number,
                key=planned.key,
                folder=store.folds.fold(planned.key),
                align=store.folds.align(spec.align_key) if spec is not None and has_align else None,
                chosen=planned.key in chosen,
                fold=planned.fold,
                method=group.method,
                point=points.get(number, {}),
                pruned=_pruned(store, planned.key),
                failed=store.folds.attempts(planned.key).failed,
            )


def _pruned(store: SweepFolder, key: str) -> dict[str, Any] | None:
    if store.folds.fold_state(key, None) != "pruned":
        return None
    # Which other sweeps gave it up too is no concern of this one's run.
    return {name: value for name, value in (store.folds.pruned(key) or {}).items() if name != "sweeps"}


def _parent_record(
    *,
    kind: Literal["sweep", "group"],
    group: str,
    key: str,
    name: str,
    parameters: Mapping[str, Any],
    results: Sequence[FoldResult | None],
    documents: Mapping[str, Any],
    over: bool,
    price_per_1000: float | None,
) -> RunRecord:
    points = running_best(results)
    times = [point.timestamp for point in points]
    there = [result for result in results if result is not None]
    return RunRecord(
        kind=kind,
        group=group,
        key=key,
        name=name,
        version=digest([len(points), over, price_per_1000, [result.key for result in there]]),
        parameters=parameters,
        tags=price_tag(there, price_per_1000),
        metrics=lambda: points,
        documents=documents,
        status="FINISHED" if over else "RUNNING",
        start_time=min((milliseconds(result.started) for result in there), default=None),
        end_time=max(times) if times and over else None,
    )


def _results(folds: Iterable[TrackedFold]) -> dict[str, FoldResult]:
    """What finished folds came to, by key."""
    found = ((fold.key, fold_result(fold.folder)) for fold in folds)
    return {key: result for key, result in found if result is not None}


def _result(
    store: SweepFolder, results: Mapping[str, Mapping[str, FoldResult]], group: str, key: str
) -> FoldResult | None:
    """What a fold came to, also of one that is planned no more."""
    return results.get(group, {}).get(key) or store.folds.result(key)


def _is_over(store: SweepFolder, group: GroupRecord, folds: Iterable[TrackedFold], selection: SweepSelection) -> bool:
    """Whether the group's configuration is chosen, or none can be, and nothing is left to run."""
    if not all(fold.failed or fold.folder.is_done or fold.pruned is not None for fold in folds):
        return False
    chosen = store.records.confirmation(group.name) or store.records.confirmation(group.name, "leave_one_domain_out")
    return chosen is not None or read_group_view(store, group, selection=selection).is_hopeless


def _manifests(store: SweepFolder, folds: Mapping[str, Sequence[TrackedFold]]) -> dict[str, str]:
    manifests = {}
    for tracked in folds.values():
        for fold in tracked[:1]:
            spec = store.folds.spec(fold.key)
            if spec is not None:
                manifests[spec.fold.benchmark] = spec.data_manifest
    return manifests


def trial_record(fold: TrackedFold, price_per_1000: float | None = None) -> RunRecord | None:
    """The run of one finished, pruned or failed fold; None while it is none of these."""
    result, spec = fold_result(fold.folder), read_json(fold.folder.spec)
    if result is None or spec is None:
        return _unfinished_record(fold, spec)
    return RunRecord(
        kind="trial",
        group=fold.group,
        key=fold.key,
        name=_name(fold),
        version=f"{digest(result.content)}:{fold.chosen}:{price_per_1000}",
        parameters=spec_parameters(spec),
        tags=_tags(fold, spec) | price_tag([result], price_per_1000),
        metrics=lambda: (*journal_metrics(fold.folder, fold.align), *result_metrics(result)),
        documents={"spec.json": spec, "result.json": result.content},
        files=(fold.folder.student,) if fold.chosen and fold.folder.student.exists() else (),
        status="FINISHED",
        start_time=milliseconds(result.started),
        end_time=milliseconds(result.finished),
    )


def _unfinished_record(fold: TrackedFold, spec: Mapping[str, Any] | None) -> RunRecord | None:
    """A fold that was pruned (before it had begun, perhaps) or that failed; None while it may still be run."""
    if fold.pruned is None and (spec is None or not fold.failed):
        return None
    documents = {"spec.json": spec, "pruned.json": fold.pruned}
    why = "failed" if fold.pruned is None else f"pruned:{digest(fold.pruned)}"
    return RunRecord(
        kind="trial",
        group=fold.group,
        key=fold.key,
        name=_name(fold),
        # A retry may have come further before it failed too.
        version=f"{why}:{_journal_bytes(fold)}:{fold.chosen}",
        parameters=_point_parameters(fold) if spec is None else spec_parameters(spec),
        tags=_tags(fold, spec or {}),
        metrics=lambda: journal_metrics(fold.folder, fold.align),
        documents={name: content for name, content in documents.items() if content is not None},
        status="FAILED" if fold.pruned is None else "KILLED",
    )


def _journal_bytes(fold: TrackedFold) -> int:
    journals = [folder.journal for folder in (fold.align, fold.folder) if folder is not None]
    return sum(journal.stat().st_size for journal in journals if journal.exists())


def _name(fold: TrackedFold) -> str:
    return f"t{fold.number}.s{fold.fold.seed} {fold.method} {'+'.join(fold.fold.test_domains)}"


def _tags(fold: TrackedFold, spec: Mapping[str, Any]) -> dict[str, str]:
    tags = {
        "trial": str(fold.number),
        "chosen": str(fold.chosen).lower(),
        "pruned": str(fold.pruned is not None).lower(),
    }
    return tags | {name: str(spec[name]) for name in FINGERPRINTS if name in spec}


def _point_parameters(fold: TrackedFold) -> dict[str, Any]:
    """What is known of a fold that never began; its other hyperparameters are the sweep's."""
    about = {"benchmark": fold.fold.benchmark, "method": fold.method, "seed": fold.fold.seed}
    return _with_logarithms({**about, "test_domains": "+".join(fold.fold.test_domains), **flat(fold.point)})


def spec_parameters(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A fold's parameters, flat and with the same names in every trial; learning rates also as their log10."""
    parameters: dict[str, Any] = {
        "benchmark": spec["fold"]["benchmark"],
        "method": spec["method"],
        "seed": spec["fold"]["seed"],
        "test_domains": "+".join(spec["fold"]["test_domains"]),
        **flat(spec["hyperparameters"]),
    }
    return _with_logarithms(parameters)


def _with_logarithms(parameters: dict[str, Any]) -> dict[str, Any]:
    for name in ("align.lr", "distill.lr"):
        if isinstance(parameters.get(name), int | float):
            parameters[f"{name}_log10"] = round(math.log10(parameters[name]), 6)
    return parameters


def digest(content: Any) -> str:
    """Sixteen hexadecimal digits of the SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]
