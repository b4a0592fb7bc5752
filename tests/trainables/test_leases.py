"""A lease keeps others out while its owner lives, and no longer."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from orchestrator.leases import STALE_S, Lease, LeaseHeldError, is_alive, read_owner, this_process
from trainables.record import write_json


def test_a_second_owner_is_refused_until_the_first_lets_go(tmp_path: Path) -> None:
    first, second = (Lease(tmp_path / "lease.json", this_process()) for _ in range(2))
    assert first.take() is None
    with pytest.raises(LeaseHeldError) as held:
        second.take()
    assert held.value.owner == first.owner
    first.release()
    second.take()
    second.release()
    assert not (tmp_path / "lease.json").exists()


def test_the_lease_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from orchestrator.leases import *;"
        "Lease(Path(sys.argv[1]), this_process()).take(); print('held', flush=True); time.sleep(60)"
    )
    path = tmp_path / "lease.json"
    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        lease = Lease(path, this_process())
        with pytest.raises(LeaseHeldError):
            lease.take()
        process.kill()
    before = lease.take()
    assert before is not None
    assert before.process == process.pid
    lease.release()


def test_a_process_number_that_was_given_out_again_is_not_the_owner(tmp_path: Path) -> None:
    owner = replace(this_process(), process_started=1)
    write_json(tmp_path / "lease.json", asdict(owner))
    assert not is_alive(tmp_path / "lease.json", owner)


def test_from_another_machine_the_heartbeat_decides(tmp_path: Path) -> None:
    path, owner = tmp_path / "lease.json", replace(this_process(), host="elsewhere")
    write_json(path, asdict(owner))
    assert is_alive(path, owner)
    os.utime(path, (time.time() - STALE_S - 1,) * 2)
    assert not is_alive(path, owner)


def test_release_leaves_a_lease_that_somebody_else_took(tmp_path: Path) -> None:
    lease, other = Lease(tmp_path / "lease.json", this_process()), this_process()
    lease.take()
    write_json(lease.path, asdict(other))
    lease.release()
    assert read_owner(lease.path) == other
