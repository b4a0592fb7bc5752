"""Connecting to Ray: an own local one that leaves nothing behind, and addresses where nobody answers."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from orchestrator.execution.cluster import Cluster, call_on_cluster, check_resources, connect, engines_told
from orchestrator.execution.local_ray import TEMPORARY_PREFIX
from orchestrator.execution.tune_run import folds_at_once
from search_spaces.errors import UserError
from search_spaces.hyperparameters import Resources


class Fixed(Cluster):
    """A cluster that holds what a test says."""

    held: dict[str, float]
    most: dict[str, float]

    def resources(self) -> dict[str, float]:
        return self.held

    def most_resources(self) -> dict[str, float]:
        return self.most


def fixed(held: dict[str, float], *, most: dict[str, float] | None = None) -> Cluster:
    cluster = Fixed(is_local=most is None, address="")
    object.__setattr__(cluster, "held", held)
    object.__setattr__(cluster, "most", most or held)
    return cluster


@pytest.mark.parametrize(
    ("held", "resources", "folds"),
    [
        ({"CPU": 2.0}, Resources(), 2),
        ({"CPU": 8.0}, Resources(workers=3), 2),
        ({"CPU": 64.0, "GPU": 4.0}, Resources(gpus_per_worker=1.0), 4),
        ({"CPU": 64.0, "GPU": 1.0}, Resources(gpus_per_worker=0.1), 10),
        ({"CPU": 0.5}, Resources(), 1),
    ],
)
def test_folds_at_once_are_what_fits(held: dict[str, float], resources: Resources, folds: int) -> None:
    assert fixed(held).folds_at_once(resources) == folds


def test_a_cluster_that_may_grow_gets_one_fold_to_wait_for_it() -> None:
    growing = fixed({"CPU": 4.0}, most={"CPU": 100.0})
    assert growing.folds_at_once(Resources()) == 5
    assert fixed({"CPU": 100.0}, most={"CPU": 100.0}).folds_at_once(Resources()) == 100
    assert folds_at_once(growing, Resources(), 1)() == 1


def test_more_than_there_is_is_refused_unless_the_cluster_may_grow() -> None:
    with pytest.raises(UserError, match="1 workers of 1 GPUs need 1, and the machine has 0"):
        check_resources(fixed({"CPU": 8.0}), Resources(gpus_per_worker=1.0))
    check_resources(fixed({"CPU": 0.0}, most={"CPU": 8.0}), Resources(workers=8))
    with pytest.raises(UserError, match="need 9, and the cluster has 8"):
        check_resources(fixed({"CPU": 0.0}, most={"CPU": 8.0}), Resources(workers=9))


def test_an_address_where_nobody_answers_is_asked_once_and_ray_never(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    connection = socket.create_connection

    def noted(place: tuple[str, int], **options: Any) -> socket.socket:
        asked.append(place)
        return connection(place, **options)

    def waits_many_minutes(**options: Any) -> None:
        raise AssertionError("Ray was asked to connect")

    monkeypatch.setattr(socket, "create_connection", noted)
    monkeypatch.setattr("ray.init", waits_many_minutes)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(UserError, match=f"no Ray cluster answers at {address}"), connect():
            pass
        assert asked == [unused.getsockname()]


@pytest.mark.slow
def test_a_ray_that_cannot_be_started_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    program = (
        "from orchestrator.execution.cluster import connect\n"
        "from search_spaces.errors import UserError\n"
        "try:\n"
        "    with connect(address='local', cpus=-1): pass\n"
        "except UserError as error: print(error)\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    (line,) = ended.stdout.splitlines()
    assert line.startswith("Ray cannot be started on this machine (Resource quantities must be nonnegative")
    assert "doctor --thorough" in line
    assert "Traceback" not in ended.stderr
    assert not list(tmp_path.glob(f"{TEMPORARY_PREFIX}*"))


def test_a_local_ray_leaves_nothing_and_sweeps_up_after_the_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    base = Path(tempfile.mkdtemp(prefix="t-", dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(base))
    monkeypatch.setenv("HOME", str(tmp_path))
    abandoned, living = base / f"{TEMPORARY_PREFIX}dead", base / f"{TEMPORARY_PREFIX}alive"
    abandoned.mkdir()
    living.mkdir()
    lock = os.open(living, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        with connect(address="local", cpus=1) as cluster:
            assert cluster.is_local
            assert os.environ["RAY_AUTH_MODE"] == "token", (
                "Ray listens on the network: without a token anybody may run code"
            )
            assert not abandoned.exists()
            (session,) = base.glob(f"{TEMPORARY_PREFIX}*/*/session_20*")
            assert stat.S_IMODE(session.stat().st_mode) == 0o777, "Ray no longer opens its folder: ours need not close"
            assert stat.S_IMODE(session.parents[1].stat().st_mode) == 0o700
            assert call_on_cluster("os.path:basename", ["/a/b", "/a/c"], Resources(), doing="x") == ["b", "c"]
        assert not ray.is_initialized()
        assert [path.name for path in base.iterdir()] == [living.name]
        assert list(tmp_path.iterdir()) == []
    finally:
        os.close(lock)
        living.rmdir()
        base.rmdir()


def out_of_gpu_memory(argument: str) -> str:
    """What a preflight says on a GPU that others fill."""
    raise RuntimeError(f"first line\nCUDA out of memory. Tried to allocate {argument}.")


def dies(argument: str) -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return argument


@pytest.mark.slow
def test_a_task_that_fails_is_one_line_and_a_lost_machine_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    with connect(address="local", cpus=1):
        here = "tests.orchestrator.execution.test_cluster"
        with pytest.raises(
            UserError, match=r"^checking failed: RuntimeError: CUDA out of memory. Tried .* 2 GiB\.; "
        ) as told:
            call_on_cluster(f"{here}:out_of_gpu_memory", ["2 GiB"], Resources(), doing="checking")
        assert "\n" not in str(told.value)
        with pytest.raises(UserError, match=r"^checking failed: the worker process died without a word"):
            call_on_cluster(f"{here}:dies", ["x"], Resources(), doing="checking")
        get, lost = ray.get, 0

        def loses_nodes(reference: Any) -> Any:
            nonlocal lost
            lost += 1
            if lost in (1, 2, 4):
                raise ray.exceptions.NodeDiedError("its node has died")
            return get(reference)

        monkeypatch.setattr(ray, "get", loses_nodes)
        assert call_on_cluster("os.path:basename", ["/a/b", "/a/c"], Resources(), doing="checking") == ["b", "c"]
        monkeypatch.setattr(ray, "get", _node_died)
        with pytest.raises(UserError, match="the worker's machine was lost, or preempted"):
            call_on_cluster("os.path:basename", ["/a/b"], Resources(), doing="checking")


def _node_died(reference: Any) -> Any:
    import ray

    raise ray.exceptions.NodeDiedError("its node has died")


def test_what_ends_an_engine_is_one_line() -> None:
    from ray.exceptions import OutOfDiskError
    from ray.tune import TuneError

    text = "Traceback (most recent call last):\n  File x\nOSError: [Errno 28] No space left on device"
    for error in (TuneError(text), OutOfDiskError("the disk is full")):
        with pytest.raises(UserError, match=r"^Ray ended: .*; run the same command to resume$") as told, engines_told():
            raise error
        assert "\n" not in str(told.value)
    with pytest.raises(KeyError), engines_told():
        raise KeyError("ours")


COLLECTED_WHILE_RAY_ENDS = """
import threading, time
import ray
from orchestrator.execution.cluster import connect

class Cycle:
    def __init__(self, reference):
        self.itself, self.reference = self, reference

def make_garbage():
    while references:
        Cycle(references.pop())
        time.sleep(0)

with connect(address=None):
    references = [ray.put(1) for _ in range(50_000)]
    threading.Thread(target=make_garbage, daemon=True).start()
assert references, "garbage was made until after Ray's end"
"""


@pytest.mark.slow
def test_a_thread_that_collects_garbage_while_ray_ends_does_not_end_the_process() -> None:
    """Ray's core, going down, answers the release of an object reference by ending the whole process."""
    command = [sys.executable, "-c", COLLECTED_WHILE_RAY_ENDS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
