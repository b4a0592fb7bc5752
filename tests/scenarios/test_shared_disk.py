"""A cluster whose machines do not share the folder: said before anything runs, and where a result does not arrive."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.execution.cluster import Cluster, connect
from orchestrator.execution.preflight import check_shared, sees
from orchestrator.execution.worker_deaths import living_nodes
from orchestrator.store.sweep_folder import open_store
from search_spaces.errors import UserError
from tests.support.stub_sweep import run_stub, stub_sweep
from tests.support.stub_worker import starts
from tests.support.waiting import eventually
from trainables.storage.json_files import write_json

OTHER_ROOT = ("unshare", "--user", "--map-root-user", "--mount")
START_S = 120.0


def answers(seen: list[bool]) -> Any:
    def call(function_path: str, marker: str) -> list[dict[str, Any]]:
        assert function_path == "orchestrator.execution.preflight:sees"
        assert sees(marker)["seen"], "the marker is there while it is looked for"
        return [{"host": f"node{number}", "seen": each} for number, each in enumerate(seen)]

    return call


def test_a_machine_that_does_not_see_the_folder_is_named(tmp_path: Path) -> None:
    check_shared(tmp_path, mirrored=(), call=answers([True, True]))
    with pytest.raises(
        UserError, match=r"^1 of the cluster's 3 machines do not see \S+ \(node2\): give --out "
    ) as said:
        check_shared(tmp_path, mirrored=(), call=answers([True, True, False]))
    assert "address (s3://" in str(said.value)
    assert list(tmp_path.iterdir()) == []


def test_what_mirrors_an_address_is_shared(tmp_path: Path) -> None:
    check_shared(tmp_path / "store", mirrored=[str(tmp_path)], call=answers([False]))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_fold_that_leaves_no_result_fails_and_the_others_go_on(tmp_path: Path) -> None:
    write_json(tmp_path / "BEHAVIOUR", {"nothing": "line"})
    outcome, _ = run_stub(tmp_path, stub_sweep(trials=1, seeds=1, space="paper"))
    assert (outcome.exit_code, outcome.counts.done, outcome.counts.failed) == (3, 3, 1)
    (failure,) = outcome.failures
    assert failure.error.startswith(f"the worker ended, and this machine sees no result in {tmp_path}")
    assert "on a disk that all machines share" in failure.error
    assert [attempt.kind for attempt in open_store(tmp_path).folds.failures(failure.key).attempts] == ["crash", "crash"]


@contextmanager
def machine_without(folder: Path, cluster: Cluster, log: Path) -> Iterator[None]:
    """One more node of a cluster, in whose mount namespace a folder is an empty disk of its own."""
    ray = Path(sys.executable).with_name("ray")
    start = f"mount -t tmpfs none {folder} && exec {ray} start --address={cluster.address} --num-cpus=1 --block"
    with log.open("wb") as output:
        node = subprocess.Popen(
            [*OTHER_ROOT, "sh", "-c", start],
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, "RAY_AUTH_MODE": "token"},
        )
    try:
        yield
    finally:
        node.terminate()
        node.wait(30)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_sweep_on_machines_with_disks_of_their_own_ends_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("unshare") is None or subprocess.run([*OTHER_ROOT, "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody make a mount namespace")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    out = tmp_path / "out"
    out.mkdir()
    with connect(address="local", cpus=1) as cluster, machine_without(out, cluster, tmp_path / "node.log"):
        assert eventually(lambda: len(living_nodes()) == 2, START_S), (tmp_path / "node.log").read_text()
        check_shared(tmp_path, mirrored=())
        with pytest.raises(UserError, match="1 of the cluster's 2 machines do not see"):
            check_shared(out, mirrored=())
    assert not starts(out)
