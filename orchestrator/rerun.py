"""Run one fold again beside its stored result, in this process (so that a breakpoint works), and compare the two.

On the CPU with one worker the two are bit-identical; a difference names the first step that went another way. What is
asked of the teacher is metered in the store, as any fold's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from orchestrator.execution.one_fold import check_budget
from orchestrator.inspection.fold_names import SHOWN_KEY, KnownFold, KnownFolds
from orchestrator.run_options import absolute_data_root
from orchestrator.search.specs import FoldSpecs, fold_spec
from orchestrator.store.results import fold_result
from orchestrator.store.sweep_folder import SweepFolder
from search_spaces.errors import UserError
from search_spaces.hyperparameters import FoldSpec, Resources
from trainables.jobs import FoldJob
from trainables.storage.fold_folder import FoldFolder
from trainables.storage.json_files import damaged

Match = Literal["identical", "different", "nothing to compare"]

COMPARED = ("accuracy", "cross_entropy", "domain_accuracies", "selected")
"""Fields of a result that have to agree; the others are times and what was asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A fold beside its stored result."""

    weights: Match
    """The evaluated weights, byte for byte; a method without a student has none."""
    metrics: Match
    """Every loss and evaluation of the journal, and the result."""
    first_difference: str = ""
    """The first entry that differs, with both values."""
    notes: tuple[str, ...] = ()
    """Reasons why the two may differ."""

    @property
    def agrees(self) -> bool:
        """Nothing that was compared differs."""
        return "different" not in (self.weights, self.metrics)

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return {**asdict(self), "agrees": self.agrees}


def rerun_job(
    known: KnownFolds,
    fold: KnownFold,
    *,
    into: Path | None = None,
    data_root: str | None = None,
    query_budget: int | None = None,
    local: bool = True,
) -> tuple[FoldJob, tuple[str, ...]]:
    """The job of a second run in a fresh folder, and what may make it differ from the first.

    Args:
        into: its folder, new or empty; None is the first free one below OUT/reruns.
        data_root: in place of the one that the sweep last had.
        query_budget: likewise.
        local: one worker, in this process.

    Raises:
        UserError: the folder is not empty; the benchmark is not there.
    """
    store, ran = known.store, known.store.last_run()
    ran = replace(ran, data_root=absolute_data_root(data_root) or ran.data_root)
    benchmark = ran.benchmark(fold.fold.benchmark)
    spec = store.folds.spec(fold.key) or _planned_spec(known, fold)
    done = store.folds.result(fold.key)
    pieces = ran.resources.batch_pieces if done is None else done.batch_pieces
    resources = replace(ran.resources, workers=1 if local else ran.resources.workers, batch_pieces=pieces)
    folder = _fresh_folder(store, fold, into)
    store.mirrors.fetch(store.folds.fold(fold.key).path)
    job = FoldJob(
        spec=spec,
        benchmark=benchmark,
        folder=str(folder / "fold"),
        align_folder=str(folder / "align"),
        data_root=ran.data_root,
        cache_folder=str(store.data_folder),
        store_folder=str(store.shared),
        query_budget=ran.query_budget if query_budget is None else query_budget,
        mirrors=store.mirrors.addresses,
        resources=resources,
    )
    return job, tuple(_reasons(spec, ran.resources, resources))


def run_here(job: FoldJob, report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Run a job in this thread of this process; whatever it raises comes through.

    Raises:
        BudgetReached: the query budget is not enough for it; nothing was asked.
    """
    from trainables.worker import run_job

    check_budget(job)
    return run_job(job.to_mapping(), report)


def compare(store: SweepFolder, key: str, job: FoldJob, notes: tuple[str, ...] = ()) -> Comparison:
    """Compare a second run with the stored one."""
    first, second = store.folds.fold(key), FoldFolder(job.folder)
    if store.folds.result(key) is None:
        return Comparison(weights="nothing to compare", metrics="nothing to compare", notes=notes)
    difference = next(_differences(first, second, key), "")
    return Comparison(
        weights=_weights(first, second, key),
        metrics="different" if difference else "identical",
        first_difference=difference,
        notes=notes,
    )


def _planned_spec(known: KnownFolds, fold: KnownFold) -> FoldSpec:
    """What a fold that never started would compute."""
    sweep, ran = known.store.sweep(), known.store.last_run()
    assert sweep is not None, "a fold without a specification stands in a sweep's plan"
    use = fold.uses[0]
    group = known.groups[use.group]
    trial = next(trial for trial in known.trials if (trial.group, trial.number) == (use.group, use.number))
    benchmarks = {group.benchmark: ran.benchmark(group.benchmark)}
    specs = FoldSpecs(sweep=sweep, benchmarks=benchmarks, manifests=known.store.manifests())
    return specs.spec(group, trial.point, fold.fold)


def _reasons(spec: FoldSpec, before: Resources, now: Resources) -> Iterator[str]:
    again = fold_spec(
        spec.fold, method=spec.method, hyperparameters=spec.hyperparameters, data_manifest=spec.data_manifest
    )
    if again.key != spec.key:
        yield "the weights it starts from or the trainer's version have changed since, so its key would be another"
    if before.workers != now.workers:
        yield f"the sweep last ran with {before.workers} workers, which group sums differently"
    if now.gpus_per_worker > 0:
        yield "on a GPU two runs agree to rounding only"


def _fresh_folder(store: SweepFolder, fold: KnownFold, into: Path | None) -> Path:
    if into is not None:
        if into.is_file() or (into.is_dir() and any(into.iterdir())):
            raise UserError(f"{into} is not empty; give --into a new folder")
        return into.absolute()
    number = 1
    while (store.out / "reruns" / f"{fold.key[:SHOWN_KEY]}-{number}").exists():
        number += 1
    return store.out / "reruns" / f"{fold.key[:SHOWN_KEY]}-{number}"


def _weights(first: FoldFolder, second: FoldFolder, key: str) -> Match:
    done = fold_result(first, key)
    stored = "" if done is None else done.student_sha256
    before = sha256(first.student.read_bytes()).hexdigest() if first.student.exists() else stored
    if stored and before != stored:
        raise damaged(first.student, "its SHA-256 is not the one in result.json", first.advice)
    if not before or not second.student.exists():
        return "nothing to compare"
    return "identical" if before == sha256(second.student.read_bytes()).hexdigest() else "different"


def _differences(first: FoldFolder, second: FoldFolder, key: str) -> Iterator[str]:
    """Where the second run went another way, earliest first."""
    again = {_place(entry): entry for entry in second.read_journal()}
    for entry in first.read_journal():
        place = _place(entry)
        mine, other = _numbers(entry), _numbers(again.pop(place, {}))
        if mine != other:
            yield f"{' '.join(map(str, place))}: stored {mine}, now {other or 'nothing'}"
    for place in again:
        yield f"{' '.join(map(str, place))}: stored nothing, now {_numbers(again[place])}"
    stored, now = fold_result(first, key), fold_result(second, key)
    for name in COMPARED:
        before, after = getattr(stored, name, None), getattr(now, name, None)
        if before != after:
            yield f"{name}: stored {before}, now {after}"


def _place(entry: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    return entry.get("kind"), entry.get("stage"), entry.get("step")


def _numbers(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name not in ("kind", "stage", "step", "time", "seconds")}
