"""A sweep, its groups and its folds as MLflow would hold them: records with parameters, metrics by step and files.

A record follows from files alone, so projecting it twice gives the same. Test-domain numbers are not in it: only the
report opens `test.json`, and `student.safetensors` is the one artifact that is not plain text.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.store.results import FoldResult
from orchestrator.tracking.metric_points import (
    MetricPoint,
    journal_metrics,
    milliseconds,
    price_tag,
    result_metrics,
    running_best,
)
from search_spaces.configuration import flat
from trainables.storage.fold_folder import FoldFolder

if TYPE_CHECKING:
    from orchestrator.store.records import PlannedFold


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
    """One fold of a group as its folder shows it now, and which trial it belongs to."""

    group: str
    number: int
    """The trial's number in its group."""
    planned: PlannedFold
    folder: FoldFolder
    align: FoldFolder | None
    """The shared Align stage's folder, for a method that has one."""
    selected: bool
    """Whether it belongs to the group's selected trial: those keep their student as an artifact."""
    method: str
    spec: Mapping[str, Any] | None
    """What was asked of it, as it is written; None before it first started."""
    result: FoldResult | None
    point: Mapping[str, Any] = field(default_factory=dict)
    """The trial's own hyperparameters, by dotted name."""
    failed: bool = False
    pruned: Mapping[str, Any] | None = None
    """Why this sweep gave it up; None where it did not, or where somebody finished it."""


def with_results(record: RunRecord, results: Sequence[FoldResult | None], price_per_1000: float | None) -> RunRecord:
    """A parent's run: the best so far, and the queries, after each finished fold; the record's status tells the rest.

    Args:
        record: without metrics and times.
        results: of its finished folds, in an order that only ever grows; None keeps the place of one that is gone.
        price_per_1000: of teacher queries, where it was given.
    """
    points = running_best(results)
    times = [point.timestamp for point in points]
    there = [result for result in results if result is not None]
    over = record.status == "FINISHED"
    return replace(
        record,
        version=digest([len(points), over, price_per_1000, [result.key for result in there]]),
        tags=price_tag(there, price_per_1000),
        metrics=lambda: points,
        start_time=min((milliseconds(result.started) for result in there), default=None),
        end_time=max(times) if times and over else None,
    )


def trial_record(fold: TrackedFold, price_per_1000: float | None = None) -> RunRecord | None:
    """The run of one finished, pruned or failed fold; None while it is none of these."""
    result, spec = fold.result, fold.spec
    if result is None or spec is None:
        return _unfinished_record(fold, spec)
    return RunRecord(
        kind="trial",
        group=fold.group,
        key=fold.planned.key,
        name=_name(fold),
        version=f"{digest(result.content)}:{fold.selected}:{price_per_1000}",
        parameters=spec_parameters(spec),
        tags=_tags(fold, spec) | price_tag([result], price_per_1000),
        metrics=lambda: (*journal_metrics(fold.folder, fold.align), *result_metrics(result)),
        documents={"spec.json": spec, "result.json": result.content},
        files=(fold.folder.student,) if fold.selected and fold.folder.student.exists() else (),
        status="FINISHED",
        start_time=milliseconds(result.started),
        end_time=milliseconds(result.finished),
    )


def _unfinished_record(fold: TrackedFold, spec: Mapping[str, Any] | None) -> RunRecord | None:
    """A fold that was pruned (before it had started, perhaps) or that failed; None while it may still be run."""
    if fold.pruned is None and (spec is None or not fold.failed):
        return None
    documents = {"spec.json": spec, "pruned.json": fold.pruned}
    why = "failed" if fold.pruned is None else f"pruned:{digest(fold.pruned)}"
    return RunRecord(
        kind="trial",
        group=fold.group,
        key=fold.planned.key,
        name=_name(fold),
        # A retry may have come further before it failed too.
        version=f"{why}:{_journal_bytes(fold)}:{fold.selected}",
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
    return f"t{fold.number}.s{fold.planned.fold.seed} {fold.method} {'+'.join(fold.planned.fold.test_domains)}"


def _tags(fold: TrackedFold, spec: Mapping[str, Any]) -> dict[str, str]:
    tags = {
        "trial": str(fold.number),
        "chosen": str(fold.selected).lower(),
        "pruned": str(fold.pruned is not None).lower(),
    }
    return tags | {name: str(spec[name]) for name in FINGERPRINTS if name in spec}


def _point_parameters(fold: TrackedFold) -> dict[str, Any]:
    """What is known of a fold that never began; its other hyperparameters are the sweep's."""
    about = {"benchmark": fold.planned.fold.benchmark, "method": fold.method, "seed": fold.planned.fold.seed}
    return _with_logarithms({**about, "test_domains": "+".join(fold.planned.fold.test_domains), **flat(fold.point)})


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
