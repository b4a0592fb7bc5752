"""What the orchestration costs: the time of a fold outside its training, and what 10,000 planned folds take to look at.

python -m tests.bench.orchestration [--folds 10000] [--only overhead|scale]

Overhead: the same tiny folds of icons one after another, in a bare loop over `run_job`, in a reused Tune actor, and
each through a TorchTrainer of its own (how every fold would run without `--executor tune`); the median time between two
finished folds that is not the fold's own `seconds`. Scale: `plan`, `status`, `report` and a sweep that has nothing left
to do, on a store that is written through its own classes; seconds and peak memory of each command's process.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

from orchestrator.events import ProgressEvent
from orchestrator.execution.fold_jobs import FoldJobs
from orchestrator.execution.preflight import check_data
from orchestrator.plan.plan import make_plan
from orchestrator.run_options import Executor, RunOptions
from orchestrator.search.specs import FoldSpecs
from orchestrator.store.records import SelectedTrial, TrialRecord
from orchestrator.store.sweep_folder import SweepFolder, open_store
from orchestrator.sweep import run_sweep
from search_spaces.benchmarks import BENCHMARKS, HEADLINE
from search_spaces.fold_groups import FoldGroup
from search_spaces.hyperparameters import FoldSpec, Resources
from search_spaces.spaces import Choice, IntegerRange, Point, search_space
from search_spaces.sweeps import Sweep, sweep_from_mapping
from trainables.data.formats.sample import write_sample
from trainables.storage.json_files import write_json
from trainables.teacher.ledger import QueryLedger, Reservation

GROUPS_OF_ALL = 22 * 2
"""22 domains of five benchmarks, two methods that train."""

TINY = {
    "student": "small", "student_weights": "random", "teacher": "demo", "teacher_mode": "views:1", "image_size": 32,
    "batch_size_per_domain": 4, "evaluate_every": 10, "align": {"num_steps": 10}, "distill": {"num_steps": 10},
}  # fmt: skip

WATCHED = """
import resource, subprocess, sys, time
started = time.monotonic()
code = subprocess.call(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(time.monotonic() - started, used.ru_utime + used.ru_stime, used.ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


def overhead(scratch: Path) -> None:
    """Print the time per fold outside its training, by the way it runs."""
    many, few = _tiny_sweep(trials=5), _tiny_sweep(trials=1)
    runs: tuple[tuple[str, Sweep, Executor], ...] = (
        ("reused Tune actor", many, "tune"),
        ("TorchTrainer for each", few, "train"),
    )
    for label, sweep, executor in runs:
        store = open_store(scratch / executor)
        first, outside = _through_ray(sweep, store, executor)
        _row(label, first, outside)
    first, outside = _bare_loop(open_store(scratch / "tune"), open_store(scratch / "bare"))
    _row("bare loop", first, outside)


def _row(label: str, first: float, outside: list[float]) -> None:
    print(
        f"{label:22} median {statistics.median(outside) * 1e3:8.1f} ms a fold outside its training "
        f"(at most {max(outside) * 1e3:.0f} ms, {len(outside)} folds); first fold done after {first:.1f} s",
        flush=True,
    )


def _tiny_sweep(trials: int) -> Sweep:
    section = {"benchmarks": ["icons"], "methods": ["erm"], "zero_shot": False, "trials": trials, "seeds": 1}
    space = {"space": "demo" if trials > 1 else "paper", "sampler": "random"}
    return sweep_from_mapping({"sweep": section | space, "hyperparameters": TINY})


def _through_ray(sweep: Sweep, store: SweepFolder, executor: Executor) -> tuple[float, list[float]]:
    """Seconds until the first fold was done, and those between the others that are not their own."""
    done: list[tuple[float, float]] = []

    def watch(event: ProgressEvent) -> None:
        if event.kind == "fold_done" and event.fold is not None:
            result = store.folds.fold(event.fold.key).read_result() or {}
            done.append((time.monotonic(), float(result["seconds"])))

    started = time.monotonic()
    options = RunOptions(executor=executor, address="local", max_concurrent=1)
    outcome = run_sweep(sweep, store, options, watch)
    assert outcome.exit_code == 0, outcome
    return done[0][0] - started, [now - before - own for (before, _), (now, own) in pairwise(done)]


def _bare_loop(made: SweepFolder, own: SweepFolder) -> tuple[float, list[float]]:
    """The same folds again, in this process and without anything around them."""
    # Loads torch, which the commands that only look do not.
    from trainables.worker import run_job

    jobs = FoldJobs(store=own, benchmarks={"icons": BENCHMARKS["icons"]}, data_root=None, resources=Resources())
    specs = [made.folds.spec(fold.key) for group in made.groups() for fold in made.records.planned_folds(group.name)]
    first, outside, started = 0.0, [], time.monotonic()
    for spec in specs:
        assert spec is not None
        before = time.monotonic()
        result = run_job(jobs.job(spec).to_mapping())
        first = first or time.monotonic() - started
        outside.append(time.monotonic() - before - float(result["seconds"]))
    return first, outside[1:]


def scale(scratch: Path, folds: int) -> None:
    """Print seconds and peak memory of the commands that only look, on a finished sweep of so many folds."""
    trials = max(1, round(folds / GROUPS_OF_ALL) - 2)
    root, out = scratch / "data", scratch / "out"
    write_sample(root, images_per_class=1)
    asked = ["--benchmark", "all", "--method", "vl2v_adip,erm", "--space", "official", "--trials", str(trials)]
    asked += ["--seeds", "3", "--data-root", str(root)]
    tiny = ["student=test_byobnet", "student_weights=random", "teacher=open_clip:vl2v-tiny:random:0"]
    sweep = scale_sweep(trials)
    started = time.monotonic()
    # Fifty thousand small files wait for the disk otherwise.
    with patch("os.fsync"):
        number = build_store(sweep, open_store(out), root)
    print(f"{number:,} finished folds written in {time.monotonic() - started:.0f} s", flush=True)
    _measure("plan", ["plan", *asked, *tiny])
    _measure("status", ["status", "--out", str(out)])
    _measure("status --json", ["status", "--out", str(out), "--json"])
    _measure("report", ["report", "--out", str(out)])
    for label in ("sweep, nothing to do", "the same again"):
        _measure(label, [str(out), str(root), str(trials)], program=["-m", "tests.bench.orchestration", "--resume"])


def scale_sweep(trials: int, benchmarks: Sequence[str] = HEADLINE) -> Sweep:
    """The sweep of so many trials in each of the fold groups."""
    section = {"benchmarks": list(benchmarks), "methods": ["vl2v_adip", "erm"], "space": "official"}
    tiny = {"student": "test_byobnet", "student_weights": "random", "teacher": "open_clip:vl2v-tiny:random:0"}
    return sweep_from_mapping({"sweep": {**section, "trials": trials, "seeds": 3}, "hyperparameters": tiny})


def _measure(label: str, arguments: list[str], *, program: list[str] | None = None) -> None:
    command = [sys.executable, *program] if program else [str(Path(sys.executable).with_name("vl2v-orchestrate"))]
    # A new process begins with its parent's peak: a small one stands between.
    done = subprocess.run(
        [sys.executable, "-S", "-c", WATCHED, *command, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    seconds, processor, kilobytes = map(float, done.stderr.splitlines()[-1].split())
    print(f"{label:22} {seconds:6.1f} s ({processor:.1f} s of CPU), peak {kilobytes / 1024:,.0f} MB", flush=True)


def resume(out: str, root: str, trials: str) -> None:
    """A sweep that has nothing left to do, without tracking."""
    outcome = run_sweep(scale_sweep(int(trials)), open_store(out), RunOptions(data_root=root, address="local"))
    assert outcome.exit_code == 0, outcome
    print(outcome.counts)


def build_store(sweep: Sweep, store: SweepFolder, data_root: Path) -> int:
    """Write a finished sweep as its folds would leave it; returns the number of different folds."""
    chance = random.Random(0)
    benchmarks = {name: BENCHMARKS[name] for name in sweep.benchmarks}
    store.check_writable()
    groups = make_plan(sweep, benchmarks).groups
    manifests = check_data(benchmarks, store=store, data_root=str(data_root), tell=lambda text: None)
    store.claim(sweep, groups, manifests)
    specs = FoldSpecs(sweep=sweep, benchmarks=benchmarks, manifests=manifests)
    written: set[str] = set()
    for group in groups:
        points = list(_points(sweep, group, chance))
        best = chance.randrange(len(points))
        for number, point in enumerate(points):
            folds = specs.planned(group, point, range(1))
            record = TrialRecord(
                group=group.name, number=number, point=point, folds=folds, created=float(number),
                source="sampler" if number else "paper",
                history={"complete": list(range(number)), "failed": [], "running": []},
            )  # fmt: skip
            store.records.write_trial(record)
            planned = list(folds)
            if number == best:
                confirmed = specs.planned(group, point, range(group.seeds))
                store.records.write_selected(SelectedTrial(group=group.name, number=number, folds=confirmed))
                planned += confirmed
            for fold in planned:
                if fold.key not in written:
                    written.add(fold.key)
                    accuracy = 0.9 if number == best else chance.uniform(0.2, 0.8)
                    _finish(store, specs.spec(group, point, fold.fold), accuracy)
    return len(written)


def _points(sweep: Sweep, group: FoldGroup, chance: random.Random) -> Iterator[Point]:
    """Random points of the group's space, the paper's first."""
    hyperparameters = sweep.hyperparameters_for(group.benchmark)
    space, benchmark = search_space(sweep.space), BENCHMARKS[group.benchmark]
    yield space.paper_point(benchmark, group.method, hyperparameters)
    dimensions = space.dimensions(benchmark, group.method, hyperparameters)
    for _ in range(group.trials - 1):
        point: dict[str, Any] = {}
        for name, dimension in dimensions.items():
            if isinstance(dimension, Choice):
                point[name] = chance.choice(dimension.values)
            elif isinstance(dimension, IntegerRange):
                point[name] = chance.randint(dimension.low, dimension.high)
            else:
                point[name] = chance.uniform(dimension.low, dimension.high)
        yield point


def _finish(store: SweepFolder, spec: FoldSpec, accuracy: float) -> None:
    folder = store.folds.fold(spec.key)
    write_json(folder.spec, spec.to_mapping())
    domains = [name for name in BENCHMARKS[spec.fold.benchmark].domain_names if name not in spec.fold.test_domains]
    folder.append_journal(
        [
            {"kind": "evaluation", "stage": "distill", "step": 100 * step, "accuracy": accuracy, "cross_entropy": 1.0,
             "domains": dict.fromkeys(domains, accuracy), "time": 1.0}
            for step in range(5)
        ]
    )  # fmt: skip
    ledger = QueryLedger(store.folds.queries_folder, spec.key)
    if spec.method != "erm":
        ledger.settle(ledger.reserve(Reservation(images=500, texts=7, image_ids=tuple(range(500)))))
        ledger.close()
    test = {name: dict.fromkeys(spec.fold.test_domains, accuracy) for name in ("accuracy", "out_accuracy")}
    test |= {"balanced_accuracy": test["accuracy"], "num_images": dict.fromkeys(spec.fold.test_domains, 10)}
    write_json(folder.test, {**test, "last_step": test})
    result = {
        "key": spec.key, "status": "done", "method": spec.method, "fold": spec.to_mapping()["fold"],
        "source_validation": {"accuracy": accuracy, "cross_entropy": 1.0, "domains": dict.fromkeys(domains, accuracy)},
        "chosen": {"rule": "swad", "step": 400}, "stages": [], "seconds": 60.0, "started": 0.0, "finished": 60.0,
        "teacher_queries": {"images": 500, "texts": 7, "unique_images": 500, "bytes": 0}, "student_sha256": "",
    }  # fmt: skip
    write_json(folder.result, result)


def main() -> None:
    """Run both, or the one that is asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.orchestration", description=__doc__)
    parser.add_argument("--folds", type=int, default=10_000)
    parser.add_argument("--only", choices=("overhead", "scale"))
    parser.add_argument("--scratch", type=Path, help="keep everything there")
    parser.add_argument("--resume", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.resume:
        resume(*options.resume)
        return
    with tempfile.TemporaryDirectory() as folder:
        scratch = (options.scratch or Path(folder)).absolute()
        if options.only != "overhead":
            scale(scratch, options.folds)
        if options.only != "scale":
            overhead(scratch / "overhead")


if __name__ == "__main__":
    main()
