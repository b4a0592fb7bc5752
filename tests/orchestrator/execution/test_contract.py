"""One contract over every back end: the same results, the same weights, the same failures."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from orchestrator.budgets.admission import Admission
from orchestrator.execution.back_ends import BackEnd
from orchestrator.execution.cluster import Cluster, connect
from orchestrator.execution.in_process import InProcess
from orchestrator.execution.tune_run import OnRay
from orchestrator.plan.query_bounds import Need
from orchestrator.run_options import WorkerFunctions
from search_spaces.benchmarks import benchmark
from search_spaces.hyperparameters import Resources
from search_spaces.sweeps import Sweep
from tests.support.bench import Bench
from tests.support.query_costs import query_costs
from tests.support.stub_sweep import STUB, stub_sweep
from tests.support.stub_worker import starts
from tests.support.timeless import timeless
from trainables.data.formats.open import open_benchmark
from trainables.storage.fold_folder import FoldFolder
from trainables.storage.json_files import write_json

# Ray warns of its own settings when a trainer is built in this process.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ON_RAY = [pytest.param(name, marks=[pytest.mark.slow, pytest.mark.timeout(1800)]) for name in ("tune", "train")]
EVERYWHERE = pytest.mark.parametrize("executor", ["inline", *ON_RAY])


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[Cluster]:
    with connect(address="local", cpus=1) as cluster:
        yield cluster


def opened(executor: Any, functions: WorkerFunctions, request: pytest.FixtureRequest) -> BackEnd:
    """A back end that runs one fold at a time; those on Ray share a cluster."""
    if executor == "inline":
        return InProcess(resources=Resources(), functions=functions)
    cluster = request.getfixturevalue("ray_cluster")
    return OnRay(cluster=cluster, executor=executor, resources=Resources(), functions=functions)


@pytest.fixture
def back_end(executor: Any, request: pytest.FixtureRequest) -> BackEnd:
    """Runs stub folds."""
    return opened(executor, STUB, request)


def told(bench: Bench) -> dict[str, list[str]]:
    """What was told of each fold, in order."""
    found: dict[str, list[str]] = {}
    for event in bench.events:
        if event.fold is not None:
            found.setdefault(str(event.fold.fold), []).append(event.kind.removeprefix("fold_"))
    return found


def ends(bench: Bench) -> dict[str, tuple[str, list[str], str]]:
    """Each fold's state, the kinds of its failures, and the last error."""
    folds = [planned for group in bench.groups for planned in bench.store.records.planned_folds(group.name)]
    return {
        str(planned.fold): (
            bench.store.folds.fold_state(planned.key, None),
            [failure.kind for failure in bench.store.folds.failures(planned.key).attempts],
            bench.store.folds.failures(planned.key).error,
        )
        for planned in folds
    }


def nothing_is_left(out: Path) -> bool:
    """No lease, no mark and no scratch of an engine."""
    return not [path for name in ("lease.json", "running.json", "ray") for path in out.rglob(name)]


@EVERYWHERE
def test_every_end_of_a_fold_is_told_apart_and_tried_again_by_its_kind(tmp_path: Path, back_end: BackEnd) -> None:
    write_json(
        tmp_path / "BEHAVIOUR", {"crash once": "clipart", "diverged": "flat", "crash": "line", "memory": "render3d"}
    )
    bench = Bench(tmp_path, stub_sweep(trials=1, seeds=1, space="paper"))
    back_end.run(bench.dispatcher, bench.jobs)
    on_fire = "RuntimeError: the machine is on fire"
    assert ends(bench) == {
        "icons/clipart/seed0": ("done", ["crash"], on_fire),
        "icons/flat/seed0": ("failed", ["diverged"], "TrainingDivergedError: the loss is nan at step 7"),
        "icons/line/seed0": ("failed", ["crash", "crash"], on_fire),
        "icons/render3d/seed0": ("done", ["out_of_memory"], "MemoryError: no room for the whole batch"),
    }
    reports = ["reported"] * 4
    assert told(bench) == {
        "icons/clipart/seed0": ["started", "retried", "started", *reports, "done"],
        "icons/flat/seed0": ["started", "failed"],
        "icons/line/seed0": ["started", "retried", "started", "failed"],
        "icons/render3d/seed0": ["started", "retried", "started", *reports, "done"],
    }
    details = [bench.store.folds.failures(planned.key) for _, planned in bench.queue.failures()]
    assert any("RuntimeError: first line" in failed.attempts[0].details for failed in details), "no traceback"
    assert nothing_is_left(tmp_path)


@EVERYWHERE
def test_a_users_mistake_ends_everything_and_counts_as_no_failure(tmp_path: Path, back_end: BackEnd) -> None:
    write_json(tmp_path / "BEHAVIOUR", {"user": "erm"})
    bench = Bench(tmp_path, stub_sweep(trials=1, seeds=1, space="paper"))
    back_end.run(bench.dispatcher, bench.jobs)
    assert bench.dispatcher.stop.user_error == "this fold asks for what there is not"
    assert len(starts(tmp_path)) == 1
    assert all(end == ("waiting", [], "") for end in ends(bench).values())
    assert nothing_is_left(tmp_path)


@EVERYWHERE
def test_a_budget_that_is_reached_leaves_the_fold_waiting(tmp_path: Path, back_end: BackEnd) -> None:
    write_json(tmp_path / "BEHAVIOUR", {"budget": "kd"})
    admission = Admission(10**6, forecast=query_costs(lambda: 0))
    sweep = stub_sweep(methods=["kd"], trials=1, seeds=1, space="paper")
    bench = Bench(tmp_path, sweep, admission=admission, need=lambda group, further=None: Need(images=1))
    back_end.run(bench.dispatcher, bench.jobs)
    assert bench.queue.is_out_of_budget
    assert len(starts(tmp_path)) == 1
    assert all(end == ("waiting", [], "") for end in ends(bench).values())
    assert not bench.dispatcher.stop.closing
    assert nothing_is_left(tmp_path)


@EVERYWHERE
def test_a_fold_that_is_stopped_waits_with_what_it_has_evaluated(tmp_path: Path, back_end: BackEnd) -> None:
    write_json(tmp_path / "BEHAVIOUR", {"pause": 2})
    bench = Bench(tmp_path, stub_sweep(trials=1, seeds=1, space="paper"))

    def stop(event: Any) -> None:
        bench.dispatcher.stop.wanted = bench.dispatcher.stop.wanted or event.kind == "fold_reported"

    bench.listen = stop
    back_end.run(bench.dispatcher, bench.jobs)
    assert all(end == ("waiting", [], "") for end in ends(bench).values())
    (start,) = starts(tmp_path)
    assert len(list(bench.store.folds.fold(start["key"]).read_journal())) in (1, 2), (
        "stopped after its first evaluation"
    )
    assert nothing_is_left(tmp_path)


def pruned_key(tmp_path: Path, sweep: Sweep) -> str:
    """A fold that the pruner stops; everything that runs before it has run in `tmp_path / "out"`."""
    here = InProcess(resources=Resources(), functions=STUB)
    whole = Bench(tmp_path / "whole", sweep)
    here.run(whole.dispatcher, whole.jobs)
    key = next(event.fold.key for event in whole.events if event.fold is not None and event.kind == "fold_pruned")
    cut = Bench(tmp_path / "out", sweep)
    while (attempt := cut.dispatcher.start()) is not None and attempt.planned.key != key:
        cut.run(attempt)
    assert attempt is not None
    cut.dispatcher.drop_running()
    cut.die()
    return key


@EVERYWHERE
def test_a_pruned_fold_is_stopped_and_never_run_again(tmp_path: Path, back_end: BackEnd) -> None:
    shared = {"distill": {"num_steps": 2}, "evaluate_every": 1}
    sweep = stub_sweep(hyperparameters=shared, pruner="median", trials=8, seeds=1, audit_share=0.0)
    key, out = pruned_key(tmp_path, sweep), tmp_path / "out"
    write_json(out / "BEHAVIOUR", {"pause": 3})
    bench = Bench(out, sweep, only={key})
    back_end.run(bench.dispatcher, bench.jobs)
    (kinds,) = told(bench).values()
    assert kinds == ["started", "reported", "pruned"], "the report that decides is not told"
    (decision,) = [event.fold for event in bench.events if event.kind == "fold_pruned"]
    assert decision is not None
    assert "is below" in decision.error
    assert bench.store.folds.fold_state(key, None) == "pruned"
    assert not bench.store.folds.fold(key).is_done
    assert Bench(out, sweep, only={key}).dispatcher.is_over
    assert nothing_is_left(out)


FEW = {"num_steps": 4, "lr": 1e-3}
REAL = {"align": FEW, "distill": FEW, "batch_size_per_domain": 4, "evaluate_every": 2}


def one_real_fold(out: Path) -> Bench:
    """A queue of the smallest fold that aligns, distills and averages."""
    sweep = stub_sweep(methods=["vl2v_adip"], space="paper", trials=1, seeds=1, hyperparameters=REAL)
    manifest = open_benchmark(benchmark("icons")).manifest
    first = Bench(out, sweep, manifest=manifest)
    attempt = first.queue.next()
    assert attempt is not None
    first.die()
    return Bench(out, sweep, manifest=manifest, only={attempt.planned.key})


def numbers(out: Path) -> dict[str, Any]:
    """The only fold's result, test-domain numbers, journal and weights, without times."""
    (folder,) = [FoldFolder(path.parent) for path in out.glob("folds/*/result.json")]
    return {
        "result": timeless(folder.read_result()),
        "test": folder.read_test(),
        "journal": [timeless(entry) for entry in folder.read_journal()],
        "weights": sha256(folder.student.read_bytes()).hexdigest(),
    }


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The fold as the worker's function makes it, called from here."""
    from trainables.worker import run_job

    out = tmp_path_factory.mktemp("reference")
    bench = one_real_fold(out)
    attempt = bench.dispatcher.start()
    assert attempt is not None
    run_job(bench.jobs.job(attempt.spec).to_mapping())
    return numbers(out)


@pytest.mark.slow
@EVERYWHERE
def test_a_real_fold_is_the_same_everywhere_stopped_and_resumed_or_not(
    tmp_path: Path, executor: str, request: pytest.FixtureRequest, reference: dict[str, Any]
) -> None:
    back_end = opened(executor, WorkerFunctions(), request)
    whole = one_real_fold(tmp_path / "whole")
    back_end.run(whole.dispatcher, whole.jobs)
    assert numbers(tmp_path / "whole") == reference
    assert reference["weights"] == reference["result"]["student_sha256"]

    cut = one_real_fold(tmp_path / "cut")

    def stop(event: Any) -> None:
        is_distilling = event.kind == "fold_reported" and event.metrics["stage"] == "distill"
        cut.dispatcher.stop.wanted = cut.dispatcher.stop.wanted or is_distilling

    cut.listen = stop
    back_end.run(cut.dispatcher, cut.jobs)
    cut.die()
    assert cut.queue.counts().done == 0
    assert list((tmp_path / "cut").glob("folds/*/checkpoint*")), "nothing to resume from"
    again = one_real_fold(tmp_path / "cut")
    back_end.run(again.dispatcher, again.jobs)
    resumed = numbers(tmp_path / "cut")
    assert (resumed["weights"], resumed["test"]) == (reference["weights"], reference["test"])
    assert [resumed["result"][name] for name in ("source_validation", "chosen")] == [
        reference["result"][name] for name in ("source_validation", "chosen")
    ]
    assert nothing_is_left(tmp_path)
