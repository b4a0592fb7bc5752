"""A lease keeps others out while its owner lives, and no longer."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tests.support.heartbeats import quick_heartbeats
from trainables.storage.json_files import write_json
from trainables.storage.leases import (
    STALE_S,
    Lease,
    LeaseHeldError,
    LeaseLostError,
    Owner,
    is_alive,
    living_owner_of,
    read_owner,
    this_process,
    write_first,
)
from trainables.storage.processes import this_machine


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
        "import sys, time; from pathlib import Path; from trainables.storage.leases import *;"
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
    path, owner = tmp_path / "lease.json", replace(this_process(), host="elsewhere", machine="another")
    write_json(path, asdict(owner))
    assert is_alive(path, owner)
    os.utime(path, (time.time() - STALE_S - 1,) * 2)
    assert not is_alive(path, owner)


CONTENDER = """
import os, random, sys, time
from pathlib import Path
from trainables.storage.leases import Lease, LeaseHeldError, this_process
from trainables.storage.processes import process_started

folder, chance = Path(sys.argv[1]), random.Random(os.getpid())
print("ready", flush=True)
while not (folder / "END").exists():
    lease = Lease(folder / "lease.json", this_process())
    try:
        lease.take()
    except LeaseHeldError:
        time.sleep(chance.uniform(0, 0.002))
        continue
    for inside in folder.glob("inside.*"):
        if process_started(int(inside.suffix[1:])) != -1:
            (folder / "VIOLATION").touch()
        inside.unlink(missing_ok=True)
    inside = folder / f"inside.{os.getpid()}"
    inside.touch()
    with (folder / "TURNS").open("a") as file:
        file.write(f"{os.getpid()}\\n")
    time.sleep(chance.uniform(0, 0.004))
    inside.unlink()
    lease.release()
"""


@pytest.mark.slow
def test_one_owner_at_a_time_while_owners_are_killed(tmp_path: Path) -> None:
    def contender() -> subprocess.Popen[str]:
        process = subprocess.Popen([sys.executable, "-c", CONTENDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    processes, chance = [contender() for _ in range(4)], random.Random(0)
    for _ in range(12):
        time.sleep(chance.uniform(0.05, 0.2))
        victim = processes.pop(0)
        victim.kill()
        victim.communicate()
        processes.append(contender())
    time.sleep(0.3)
    (tmp_path / "END").touch()
    for process in processes:
        process.communicate(timeout=20)
        assert process.returncode == 0
    assert not (tmp_path / "VIOLATION").exists()
    turns = {int(line) for line in (tmp_path / "TURNS").read_text().splitlines()}
    assert {process.pid for process in processes} <= turns, "everybody gets a turn"
    assert not list(tmp_path.glob(".lease.json.heir-*"))


def test_a_process_of_another_container_is_judged_by_its_heartbeat(tmp_path: Path) -> None:
    """A real PID namespace: its process numbers mean nothing outside."""
    path = tmp_path / "lease.json"
    script = (
        "import sys, time; from pathlib import Path; from trainables.storage.leases import *;"
        "Lease(Path(sys.argv[1]), this_process()).take(); print('held', flush=True); time.sleep(60)"
    )
    command = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"]
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this system lets nobody make a PID namespace")
    with subprocess.Popen([*command, sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        owner = read_owner(path)
        assert owner is not None
        assert owner.machine != this_machine()
        assert living_owner_of(path) == owner
        process.kill()
    assert living_owner_of(path) == owner, "nobody outside can see that it is gone"
    os.utime(path, (time.time() - STALE_S - 1,) * 2)
    assert living_owner_of(path) is None
    lease = Lease(path, this_process())
    assert lease.take() == owner
    lease.release()


def test_who_died_while_taking_over_is_taken_over_from(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    dead, heir = (replace(this_process(), process_started=1) for _ in range(2))
    write_json(path, asdict(dead))
    write_json(tmp_path / f".lease.json.heir-{dead.identity}", asdict(heir))
    lease = Lease(path, this_process())
    assert lease.take() == dead
    assert read_owner(path) == lease.owner
    assert [item.name for item in tmp_path.iterdir()] == ["lease.json"]
    lease.release()


def test_a_lease_that_lost_its_content_holds_nobody_up_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    path.touch()
    lease = Lease(path, this_process())
    with pytest.raises(LeaseHeldError):
        lease.take()
    os.utime(path, (time.time() - STALE_S - 1,) * 2)
    lease.take()
    lease.release()


def test_without_hard_links_it_is_a_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    first, second = (Lease(tmp_path / "lease.json", this_process()) for _ in range(2))
    first.take()
    with pytest.raises(LeaseHeldError):
        second.take()
    first.release()
    second.take()
    second.release()


def test_the_heartbeat_goes_on_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick_heartbeats(monkeypatch, 0.02)
    lease = Lease(tmp_path / "lease.json", this_process())
    lease.take()
    os.utime(lease.path, (1.0, 1.0))
    until = time.monotonic() + 10
    while lease.path.stat().st_mtime < 2.0:
        assert time.monotonic() < until, "no heartbeat"
        time.sleep(0.01)
    lease.release()
    write_json(lease.path, asdict(this_process()))
    os.utime(lease.path, (1.0, 1.0))
    time.sleep(0.1)
    assert lease.path.stat().st_mtime == 1.0, "it is somebody else's now"


def test_release_leaves_a_lease_that_somebody_else_took(tmp_path: Path) -> None:
    lease, other = Lease(tmp_path / "lease.json", this_process()), this_process()
    lease.take()
    write_json(lease.path, asdict(other))
    lease.release()
    assert read_owner(lease.path) == other


def test_who_lost_the_lease_learns_it_at_the_next_heartbeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick_heartbeats(monkeypatch, 0.02)
    told: list[Owner] = []
    lease, other = Lease(tmp_path / "lease.json", this_process(), when_lost=told.append), this_process()
    lease.take()
    time.sleep(0.1)
    assert lease.lost_to is None
    write_json(lease.path, asdict(other))
    until = time.monotonic() + 10
    while not told:
        assert time.monotonic() < until, "nobody is told"
        time.sleep(0.01)
    assert lease.lost_to == told[0] == other
    lease.release()
    assert read_owner(lease.path) == other
    lease.path.unlink()
    lease.take()
    assert lease.lost_to is None
    lease.release()


def test_a_lease_that_is_let_go_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick_heartbeats(monkeypatch, 0.001)
    told: list[Owner] = []
    leases = [Lease(tmp_path / "lease.json", this_process(), when_lost=told.append) for _ in range(2)]
    for lease in leases * 20:
        lease.take()
        time.sleep(0.002)
        lease.release()
    assert told == []


def test_what_was_left_by_who_died_while_taking_the_lease_goes(tmp_path: Path) -> None:
    dead, living = replace(this_process(), process_started=1), this_process()
    for owner in (dead, living):
        (tmp_path / f".lease.json.{owner.identity}").write_text(json.dumps(asdict(owner)))
    lease = Lease(tmp_path / "lease.json", this_process())
    lease.take()
    assert {item.name for item in tmp_path.iterdir()} == {"lease.json", f".lease.json.{living.identity}"}
    lease.release()


def test_a_lease_that_the_next_owner_has_released_already_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Owner] = []
    lease = Lease(tmp_path / "lease.json", this_process(), when_lost=told.append)
    lease.take()
    lease.check()
    lease.path.unlink()
    lease.check(every_s=60.0)
    with pytest.raises(LeaseLostError, match=r"^another process, which has released it, has taken over this fold"):
        lease.check()
    lease.refresh()
    assert lease.lost_to is not None
    assert told == [lease.lost_to]
    lease.release()
    assert not lease.path.exists()


def test_whoever_finishes_first_stands(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    write_first(file, {"number": 1})
    with pytest.raises(LeaseLostError, match="another process has finished"):
        write_first(file, {"number": 2})
    assert json.loads(file.read_text()) == {"number": 1}
    assert [item.name for item in tmp_path.iterdir()] == ["result.json"]
