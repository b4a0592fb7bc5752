"""Numbers of finished folds as MLflow's metric points: each (name, step) once, with times taken from the journal."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from orchestrator.store.results import FoldResult
from trainables.storage.fold_folder import FoldFolder

SUMMARY = "source_validation_accuracy"
"""The metric that every run has: mean source validation accuracy, a fraction."""

_MILLISECONDS = 1000
_NOT_ALLOWED_IN_NAMES = re.compile(r"[^0-9A-Za-z_\-. :/]")


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricPoint:
    """One value of one metric; a run holds each (name, step) once."""

    name: str
    value: float
    step: int
    timestamp: int
    """Milliseconds since 1970, taken from the journal so that a replay writes the same."""


def running_best(results: Iterable[FoldResult | None]) -> list[MetricPoint]:
    """The best source validation accuracy, and the teacher queries, after each finished fold.

    Args:
        results: of finished folds, in an order that only ever grows; None keeps the place of one that is gone.
    """
    points: list[MetricPoint] = []
    best = -math.inf
    queries: dict[str, float] = {}
    for step, result in enumerate(results):
        if result is None:
            continue
        time = milliseconds(result.finished)
        # A pair fold has fewer source domains: its accuracy stands beside no other's.
        if len(result.test_domains) < 2:
            best = max(best, result.accuracy)
            points.append(MetricPoint(name=SUMMARY, value=best, step=step, timestamp=time))
        points.append(MetricPoint(name="finished_folds", value=float(step + 1), step=step, timestamp=time))
        own = query_metrics(result)
        # Different images of two folds may be the same ones: that is no sum.
        queries = {name: queries.get(name, 0.0) + own[name] for name in own if name != "teacher/unique_images"}
        points += [MetricPoint(name=name, value=value, step=step, timestamp=time) for name, value in queries.items()]
    return points


def query_metrics(result: FoldResult) -> dict[str, float]:
    """What a finished fold asked the teacher; queries whose answers were lost stand beside it."""
    asked = result.queries
    return {
        "teacher/image_queries": float(asked.images),
        "teacher/text_queries": float(asked.texts),
        "teacher/unique_images": float(asked.unique_images),
        "teacher/bytes": float(asked.bytes),
        "teacher/unconfirmed": float(asked.unconfirmed),
    }


def price_tag(results: Iterable[FoldResult], price_per_1000: float | None) -> dict[str, str]:
    """What folds paid the teacher, as a tag: a metric's points stay, and the price may be given again."""
    if price_per_1000 is None:
        return {}
    asked = [query_metrics(result) for result in results]
    queries = math.fsum(one["teacher/image_queries"] + one["teacher/text_queries"] for one in asked)
    return {"teacher_price": f"{queries / 1000.0 * price_per_1000:.10g}"}


def result_metrics(result: FoldResult) -> Iterator[MetricPoint]:
    """The numbers of a finished fold, at the selected step."""
    time = milliseconds(result.finished)
    values = {SUMMARY: result.accuracy, "source_validation_cross_entropy": result.cross_entropy}
    values |= {f"source_validation/{name}": value for name, value in result.domain_accuracies.items()}
    values["seconds"] = result.seconds
    values |= query_metrics(result)
    for name, value in values.items():
        yield MetricPoint(name=metric_name(name), value=value, step=result.step, timestamp=time)


def journal_metrics(folder: FoldFolder, align: FoldFolder | None) -> Iterator[MetricPoint]:
    """Each evaluation's numbers, and the mean training loss since the evaluation before it.

    A step line has no time of its own, so its loss counts at the evaluation that follows; steps after the last
    evaluation wait for the next one.
    """
    lines = [*(align.read_journal() if align else ()), *folder.read_journal()]
    seen: set[tuple[str, str, int]] = set()
    for stage, entries in groupby(lines, key=lambda line: str(line.get("stage"))):
        losses: list[float] = []
        for entry in entries:
            identity = (str(entry.get("kind")), stage, int(entry.get("step", 0)))
            if identity in seen:
                continue
            seen.add(identity)
            if entry.get("kind") == "step":
                losses.append(float(entry["loss"]))
            elif entry.get("kind") == "evaluation":
                yield from _evaluation_points(stage, entry, losses)
                losses = []


def _evaluation_points(stage: str, entry: Mapping[str, Any], losses: list[float]) -> Iterator[MetricPoint]:
    values = {SUMMARY: entry["accuracy"], "source_validation_cross_entropy": entry["cross_entropy"]}
    values |= {f"domain/{name}": value for name, value in entry.get("domains", {}).items()}
    if losses:
        values["loss"] = sum(losses) / len(losses)
    for name, value in values.items():
        yield MetricPoint(
            name=metric_name(f"{stage}/{name}"),
            value=float(value),
            step=int(entry["step"]),
            timestamp=milliseconds(entry["time"]),
        )


def metric_name(name: str) -> str:
    """A name that MLflow takes: domain and class folders may hold any character.

    >>> metric_name("domain/caf\u00e9 (1)")
    'domain/caf_ _1_'
    """
    return _NOT_ALLOWED_IN_NAMES.sub("_", name)


def milliseconds(seconds: float) -> int:
    """Whole milliseconds, as MLflow wants its times."""
    return round(float(seconds) * _MILLISECONDS)
