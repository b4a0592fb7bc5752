"""Folds in a `TorchTrainer` that a Tune actor drives; one that is stopped early gives everything back."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

import pytest

from orchestrator.execution.cluster import connect
from orchestrator.execution.executors import chosen_executor
from orchestrator.execution.one_fold import FoldFailedError, train_one
from orchestrator.execution.tune_trainables import nested_trainable
from orchestrator.run_options import Executor, RunOptions, WorkerFunctions
from orchestrator.store.sweep_folder import open_store
from orchestrator.train import prepare_fold
from search_spaces.errors import UserError
from search_spaces.folds import Fold
from search_spaces.hyperparameters import Resources
from tests.support.nested_folds import HYPERPARAMETERS, one_fold
from tests.support.stub_sweep import STUB, run_stub, stub_sweep
from tests.support.stub_worker import starts
from trainables.storage.json_files import write_json

# Ray warns of its own settings when a trainer is built in this process.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_auto_chooses_by_the_number_of_workers() -> None:
    assert chosen_executor("auto", Resources()) == "tune"
    assert chosen_executor("auto", Resources(workers=2)) == "train"
    assert chosen_executor("train", Resources()) == "train"


@pytest.mark.slow
def test_two_worker_folds_run_once_each_and_failures_come_through(tmp_path: Path) -> None:
    write_json(tmp_path / "BEHAVIOUR", {"crash": "line"})
    sweep = stub_sweep(trials=1, seeds=1, space="paper")
    outcome, events = run_stub(tmp_path, sweep, resources=Resources(workers=2))
    assert outcome.exit_code == 3
    assert outcome.counts.done == 3
    (failure,) = outcome.failures
    assert failure.error == "RuntimeError: the machine is on fire"
    counted = Counter(start["fold"] for start in starts(tmp_path))
    assert counted == {
        "icons/clipart/seed0": 1,
        "icons/flat/seed0": 1,
        "icons/line/seed0": 2,
        "icons/render3d/seed0": 1,
    }
    assert Counter(event.kind for event in events)["fold_reported"] >= 9
    (tmp_path / "BEHAVIOUR").write_text('{"user": "line"}')
    with pytest.raises(UserError, match=r"^this fold asks for what there is not$"):
        run_stub(tmp_path, sweep, resources=Resources(workers=2), retry_failed=True)


@pytest.mark.slow
def test_a_nested_fold_that_is_stopped_early_gives_its_placement_group_back(tmp_path: Path) -> None:
    write_json(tmp_path / "BEHAVIOUR", {"pause": 2})
    job = one_fold(tmp_path, Resources(workers=2))
    config = {
        "functions": STUB.to_mapping(),
        "storage_path": str(tmp_path / "ray"),
        "key": job.spec.key,
        "job": json.dumps(job.to_mapping()),
    }
    with connect(address="local") as cluster:
        import ray
        from ray import tune
        from ray.util import placement_group_table

        run_config = tune.RunConfig(
            name="early", storage_path=str(tmp_path / "ray"), verbose=0, stop={"training_iteration": 1}
        )
        tune.Tuner(nested_trainable(cluster.driver_resources), param_space=config, run_config=run_config).fit()
        assert len(starts(tmp_path)) == 1
        assert not Path(job.folder, "result.json").exists()
        until = time.monotonic() + 60
        while time.monotonic() < until:
            left = [entry["state"] for entry in placement_group_table().values() if entry["state"] != "REMOVED"]
            free = ray.available_resources()
            if not left and free.get("CPU") == ray.cluster_resources()["CPU"]:
                break
            time.sleep(0.2)
        assert left == []
        assert free["CPU"] == ray.cluster_resources()["CPU"]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_trainer_that_ends_with_its_last_report_still_on_the_way_is_heard_out(tmp_path: Path) -> None:
    config = {
        "functions": {"torch_trainer": "tests.support.stub_worker:HastyTrainer"},
        "storage_path": str(tmp_path),
        "key": "hasty",
        "job": "{}",
    }
    with connect(address="local") as cluster:
        from ray import tune

        run_config = tune.RunConfig(name="hasty", storage_path=str(tmp_path), verbose=0)
        for _ in range(3):
            (result,) = tune.Tuner(
                nested_trainable(cluster.driver_resources), param_space=config, run_config=run_config
            ).fit()
            assert result.error is None
            assert result.metrics is not None
            assert (result.metrics["step"], result.metrics["training_iteration"]) == (2, 3)


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["auto", "tune"])
def test_one_fold_by_itself(tmp_path: Path, executor: Executor) -> None:
    job, events = one_fold(tmp_path), []
    result = train_one(job, RunOptions(executor=executor, address="local", functions=STUB), events.append)
    assert result.key == job.spec.key == Path(job.folder).name
    steps = [event.metrics["step"] for event in events if event.kind == "fold_reported"]
    assert steps == [0, 1, 2]
    assert not (tmp_path / "ray").exists()
    assert not (Path(job.folder) / "lease.json").exists()
    assert train_one(job, RunOptions(functions=WorkerFunctions(run_job="no:where", torch_trainer="no:where"))) == result


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["train", "tune"])
def test_one_fold_that_fails_says_why(tmp_path: Path, executor: Executor) -> None:
    job = one_fold(tmp_path)
    write_json(tmp_path / "BEHAVIOUR", {"crash": "line"})
    with pytest.raises(FoldFailedError, match=r"icons/line/seed0 failed: RuntimeError: the machine is on fire"):
        train_one(job, RunOptions(executor=executor, address="local", functions=STUB))
    write_json(tmp_path / "BEHAVIOUR", {"user": "line"})
    with pytest.raises(UserError, match=r"^this fold asks for what there is not$"):
        train_one(job, RunOptions(executor=executor, address="local", functions=STUB))


def test_a_fold_of_a_domain_there_is_not(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lime"):
        prepare_fold(
            Fold(benchmark="icons", test_domains=("lime",), seed=0),
            method="erm",
            hyperparameters=HYPERPARAMETERS,
            store=open_store(tmp_path),
        )


def test_two_processes_do_not_train_one_fold(tmp_path: Path) -> None:
    from trainables.storage.leases import Lease, this_process

    job = one_fold(tmp_path)
    lease = Lease(Path(job.folder) / "lease.json", this_process())
    lease.take()
    with pytest.raises(UserError, match="trains this fold already"):
        train_one(job, RunOptions(address="local", functions=STUB))
    lease.release()
