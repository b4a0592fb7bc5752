"""What must hold after any number of kills: store, MLflow and table as after an undisturbed run, nothing left over."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from orchestrator.inspection.teacher_usage import sweep_queries
from orchestrator.store.sweep_folder import open_store
from tests.support.timeless import STATED, TIMES
from trainables.storage.fold_folder import FoldFolder
from trainables.storage.json_files import read_json

ASKED = ("quer", "teacher_images", "teacher_texts", "teacher_embeddings", "unconfirmed", "price")
"""A killed fold asks the teacher again: what it asked is counted, and is not what an undisturbed run asks."""
ASKED_ONCE = ("unique_images", "unique_views")
"""What it asks again is what it asked before: different images and views are those of an undisturbed run."""
HALF_FILES = (".*", "*.part", "*.tmp")
KEPT = (".lock", ".leases", ".mirror")
"""What may stay: a file that is locked, the folder for such files, and a mirror's memory of what it has seen."""
WHILE_RUNNING = ("running.json", "lease.json", "worker.json", "request.json", "checkpoint*", "ray")


def store_differences(out: Path, reference: Path) -> Iterator[str]:
    """Folds, trials and choices that are not those of the undisturbed run; half files."""
    store, whole = open_store(out), open_store(reference)
    planned = {fold.key for group in store.groups() for fold in store.records.planned_folds(group.name)}
    expected = {fold.key for group in whole.groups() for fold in whole.records.planned_folds(group.name)}
    if planned != expected:
        yield f"{len(planned - expected)} folds were planned that should not be, {len(expected - planned)} were not"
    there = {path.name for path in (store.shared / "folds").iterdir()}
    if there != planned:
        yield f"folders of {len(there - planned)} folds that nobody planned, none of {len(planned - there)} planned"
    for key in sorted(planned & expected):
        yield from (
            f"fold {key[:12]}: {text}" for text in fold_differences(store.folds.fold(key), whole.folds.fold(key))
        )
    for group in whole.groups():
        points = [[trial.point for trial in place.records.trials(group.name)] for place in (store, whole)]
        if points[0] != points[1]:
            yield f"{group.name}: other suggestions"
        if store.records.selected(group.name) != whole.records.selected(group.name):
            yield f"{group.name}: another choice"
    for pattern in (*HALF_FILES, *WHILE_RUNNING):
        left = (path for path in out.rglob(pattern) if path.name not in KEPT)
        yield from (f"left over: {path.relative_to(out)}" for path in left)


def query_differences(out: Path, reference: Path) -> Iterator[str]:
    """Different images and views that the ledgers have too many or too few of."""
    asked, whole = sweep_queries(open_store(out)), sweep_queries(open_store(reference))
    for name in ASKED_ONCE:
        if getattr(asked, name) != getattr(whole, name):
            yield f"the teacher was asked {getattr(asked, name)} {name}, not {getattr(whole, name)}"


def fold_differences(fold: FoldFolder, whole: FoldFolder) -> Iterator[str]:
    """What a fold left that the undisturbed one did not, apart from times and repeated equal lines."""
    result = fold.read_result()
    if result is None:
        yield "not done"
        return
    if _plain(result) != _plain(whole.read_result()):
        yield "another result"
    if fold.read_test() != whole.read_test():
        yield "other test numbers"
    if fold.student.exists() and _sha256(fold.student) != result["student_sha256"]:
        yield "its weights are not the evaluated ones"
    lines = [json.loads(line) for line in fold.journal.read_text().splitlines()] if fold.journal.exists() else []
    seen: dict[tuple[Any, ...], Any] = {}
    for line in lines:
        identity = (line["kind"], line["stage"], line["step"])
        if seen.setdefault(identity, _plain(line)) != _plain(line):
            yield f"{identity} was repeated with another result"
    if [_plain(line) for line in fold.read_journal()] != [_plain(line) for line in whole.read_journal()]:
        yield "another journal"
    for stage in {stage for kind, stage, _ in seen if kind == "step"}:
        steps = [line["step"] for line in fold.read_journal() if (line["kind"], line["stage"]) == ("step", stage)]
        if steps != list(range(len(steps))):
            yield f"steps of {stage} with a gap"


def tracking_differences(out: Path, database: str, reference: Path) -> Iterator[str]:
    """Runs that MLflow has twice or not at all, and metrics that are not those of the undisturbed run's."""
    store = open_store(out)
    planned = {fold.key for group in store.groups() for fold in store.records.planned_folds(group.name)}
    sweep = store.sweep()
    assert sweep is not None
    runs, whole = _runs(database, sweep.key), _runs(f"sqlite:///{reference / 'mlflow.db'}", sweep.key)
    counted = Counter(key for _, key in (identity for identity, _ in runs))
    for key, count in counted.items():
        if count > 1:
            yield f"{count} MLflow runs of {key[:12]}"
    trials = {key for (kind, key), _ in runs if kind == "trial"}
    if trials != planned:
        yield f"{len(planned - trials)} folds without an MLflow run, {len(trials - planned)} runs without a fold"
    expected = dict(whole)
    for identity, metrics in runs:
        if metrics["status"] != "FINISHED":
            yield f"MLflow run {identity} is {metrics['status']}"
        yield from (
            f"MLflow run {identity[0]} {identity[1][:12]}: {text}"
            for text in metric_differences(metrics["metrics"], expected.get(identity, {}).get("metrics", {}))
        )


def metric_differences(metrics: Mapping[str, Any], expected: Mapping[str, Any]) -> Iterator[str]:
    """Metrics of a run, as lists of (step, value), against those of the undisturbed one."""
    if set(metrics) != set(expected):
        yield f"metrics {sorted(set(metrics) ^ set(expected))} on one side only"
    for name in sorted(set(metrics) & set(expected)):
        steps = [step for step, _ in metrics[name]]
        if len(steps) != len(set(steps)):
            yield f"{name} has a step twice"
        if sorted(steps) != sorted(step for step, _ in expected[name]):
            yield f"{name} has steps {sorted(steps)}, not {sorted(step for step, _ in expected[name])}"
        timed = name in TIMES or name.startswith("teacher/")
        if not timed and sorted(metrics[name]) != sorted(expected[name]):
            yield f"{name} has other values"


def _runs(database: str, sweep_key: str) -> list[tuple[tuple[str, str], dict[str, Any]]]:
    """(kind, key) of every run of a sweep, with its state and its metrics as (step, value)."""
    client = MlflowClient(database)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = []
    for run in client.search_runs(experiments, f"tags.sweep = '{sweep_key[:12]}'", max_results=5000):
        tags = run.data.tags
        # Fold groups and the sweep gather the folds in the order of finishing, which kills change.
        names = run.data.metrics if tags["kind"] == "trial" else ()
        metrics = {
            name: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
            for name in names
        }
        key = tags["key"] if tags["kind"] == "trial" else f"{tags['group']}/{tags['key']}"
        found.append(((tags["kind"], key), {"status": run.info.status, "metrics": metrics}))
    return found


def table_differences(out: Path, reference: Path) -> Iterator[str]:
    """Whether the final report is another one."""
    ours, whole = (read_json(place / "report" / "report.json") for place in (out, reference))
    if ours is None or whole is None:
        yield "no report"
    elif (one := _plain(ours)) != (other := _plain(whole)):
        yield f"another table: {', '.join(name for name in {**one, **other} if one.get(name) != other.get(name))}"


def _plain(content: Any) -> Any:
    """Without times and without what the teacher was asked."""
    if isinstance(content, Mapping):
        return {
            name: _plain(value)
            for name, value in content.items()
            if name not in TIMES | STATED and name != "reused" and not any(word in name for word in ASKED)
        }
    return [_plain(item) for item in content] if isinstance(content, list) else content


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
