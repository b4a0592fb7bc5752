"""Sweeps at an address: the head's disk is lost, processes are killed, nodes share no disk, and nothing is repeated."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.report.report import build_report
from orchestrator.store.records import PlannedFold
from orchestrator.store.remote.lease import LEASE_NAME, StorageLease
from orchestrator.store.sweep_folder import open_store
from tests.chaos.sweeps import TINY
from tests.support.object_stores import SECRET, LoopbackS3, loopback_s3
from tests.support.stub_sweep import run_stub, started, stub_sweep
from tests.support.stub_worker import starts
from tests.support.two_disks import two_disks
from trainables.storage.json_files import write_json
from trainables.storage.leases import LeaseHeldError, living_owner_of, this_process
from trainables.storage.object_storage import open_storage

FIELDS: dict[str, Any] = {"methods": ["vl2v_adip"], "space": "demo", "trials": 1, "seeds": 1}
PROGRAM = str(Path(sys.executable).with_name("vl2v-orchestrate"))
ARGUMENTS: dict[str, Any] = {"max_concurrent": 1, "address": "local"}


class Place:
    """An address behind `file://`, and the mirrors of the head."""

    def __init__(self, folder: Path) -> None:
        self.storage, self.mirrors = folder / "storage", folder / "mirrors"
        self.address = self.storage.as_uri()

    def results(self) -> dict[str, int]:
        """When each finished fold's result was written to the storage, by key."""
        return {path.parent.name: path.stat().st_mtime_ns for path in self.storage.glob("folds/*/result.json")}

    def outlive_workers(self) -> None:
        """Wait until the workers of a killed head have ended: they would write on."""
        workers = list(self.mirrors.glob("*/folds/*/worker.json"))
        until = time.monotonic() + 60
        while any(living_owner_of(worker) is not None for worker in workers):
            assert time.monotonic() < until, workers
            time.sleep(0.05)

    def lose_the_head(self) -> None:
        """The head's disk is gone."""
        self.outlive_workers()
        shutil.rmtree(self.mirrors)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    made = Place(tmp_path)
    monkeypatch.setenv("VL2V_MIRRORS", str(made.mirrors))
    return made


def test_the_order_of_arrivals_is_in_the_storage_before_anything_is_drawn_by_it(place: Place) -> None:
    arrived = [("icons/erm/line", "aa"), ("icons/erm/flat", "bb")]
    open_store(place.address).records.note_arrivals(arrived)
    place.lose_the_head()
    assert open_store(place.address).records.arrivals() == arrived


@pytest.fixture(scope="module")
def s3() -> Iterator[LoopbackS3]:
    with loopback_s3() as server:
        server.make_bucket("bucket")
        yield server


def tables(address: str) -> Any:
    return asdict(build_report(open_store(address)))["tables"]


def stub_command(address: str, log: Path) -> subprocess.Popen[bytes]:
    texts = (address, json.dumps(FIELDS), json.dumps(ARGUMENTS))
    return started(log, sys.executable, "-m", "tests.support.stub_sweep", *texts)


def orchestrate(log: Path, *arguments: str) -> subprocess.Popen[bytes]:
    return started(log, PROGRAM, *arguments)


def told(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself, with what it said."""
    return subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, timeout=120)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.05)


@pytest.mark.slow
def test_a_sweep_whose_head_is_lost_after_its_end_repeats_nothing(place: Place) -> None:
    outcome, _ = run_stub(place.address, stub_sweep(**FIELDS))
    assert outcome.exit_code == 0
    before, table = place.results(), tables(place.address)
    place.lose_the_head()
    outcome, events = run_stub(place.address, stub_sweep(**FIELDS))
    assert outcome.exit_code == 0
    assert outcome.counts.done == len(before) == 4
    assert [event.kind for event in events if event.fold] == []
    assert place.results() == before
    assert max(Counter(start["key"] for start in starts(place.storage)).values()) == 1
    assert tables(place.address) == table
    assert not (place.storage / LEASE_NAME).exists()
    assert not list(place.storage.glob("**/lease.json"))


@pytest.mark.slow
def test_a_storage_that_was_emptied_is_filled_again_from_the_mirror(place: Place) -> None:
    assert run_stub(place.address, stub_sweep(**FIELDS))[0].exit_code == 0
    before = {path.relative_to(place.storage) for path in place.storage.rglob("*.json*")}
    assert len(place.results()) == 4
    shutil.rmtree(place.storage)
    outcome, events = run_stub(place.address, stub_sweep(**FIELDS))
    assert outcome.exit_code == 0
    assert [event.kind for event in events if event.fold] == []
    assert {path.relative_to(place.storage) for path in place.storage.rglob("*.json*")} >= before
    place.lose_the_head()
    assert run_stub(place.address, stub_sweep(**FIELDS))[0].counts.done == 4


@pytest.mark.slow
def test_two_commands_at_one_address_and_a_kill(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(place.storage / "BEHAVIOUR", {"pause": 0.7})
    log = tmp_path / "log"
    first = stub_command(place.address, log)
    wait_for(lambda: len(place.results()) >= 1, first, log)
    second = stub_command(place.address, tmp_path / "second")
    assert second.wait(timeout=60) == 2
    refusal = (tmp_path / "second").read_text()
    assert f"process {first.pid} on " in refusal
    assert place.address in refusal
    # Another machine sees from the address alone that the sweep is at work, and what runs.
    monkeypatch.setenv("VL2V_MIRRORS", str(tmp_path / "laptop"))
    shown = told("status", "--out", place.address, "--json")
    counts = [group["counts"] for group in json.loads(shown.stdout)["groups"]]
    assert sum(count["done"] for count in counts) >= 1
    assert sum(count["running"] for count in counts) == 1
    monkeypatch.undo()
    first.kill()
    first.wait()
    finished = place.results()
    assert 1 <= len(finished) < 4
    monkeypatch.setenv("VL2V_MIRRORS", str(place.mirrors))
    place.lose_the_head()
    again = stub_command(place.address, log)
    assert again.wait(timeout=240) == 0, log.read_text()
    assert len(place.results()) == 4
    assert {key: place.results()[key] for key in finished} == finished


@pytest.mark.slow
def test_stop_is_asked_from_another_machine(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(place.storage / "BEHAVIOUR", {"pause": 0.7})
    log = tmp_path / "log"
    running = stub_command(place.address, log)
    wait_for(lambda: len(place.results()) >= 1, running, log)
    monkeypatch.setenv("VL2V_MIRRORS", str(tmp_path / "laptop"))
    asked = told("stop", "--out", place.address)
    assert asked.returncode == 0, asked.stderr
    assert running.wait(timeout=60) == 130
    assert not (place.storage / "request.json").exists()
    assert not (place.storage / LEASE_NAME).exists()


@pytest.mark.slow
def test_a_killed_real_fold_goes_on_at_the_checkpoint_that_was_sent(place: Place, tmp_path: Path) -> None:
    log = tmp_path / "log"
    sweep = (
        "sweep", "--benchmark", "icons", "--method", "erm", "--space", "paper", "--seeds", "1", "--max-concurrent",
        "1", "--tracking", "later", "--out", place.address, "-y", *TINY, "distill.num_steps=400", "evaluate_every=20",
        "sweep.zero_shot=false",
    )  # fmt: skip

    def checkpoints() -> list[Path]:
        return list(place.storage.glob("folds/*/checkpoint.pt"))

    killed = orchestrate(log, *sweep)
    wait_for(lambda: bool(place.results()) and any(map(_has_a_few, checkpoints())), killed, log)
    killed.kill()
    killed.wait()
    place.outlive_workers()
    (checkpoint,) = checkpoints()
    finished = place.results()
    sent = _evaluations(checkpoint.parent)
    assert sent, "the journal is sent before the checkpoint"
    place.lose_the_head()
    again = orchestrate(log, *sweep)
    assert again.wait(timeout=400) == 0, log.read_text()
    assert {key: place.results()[key] for key in finished} == finished
    assert len(place.results()) == 4
    assert checkpoints() == []
    # A fold that had begun anew would have evaluated its first step once more.
    evaluations = _evaluations(checkpoint.parent)
    assert evaluations[: len(sent)] == sent
    assert evaluations.count(0) == 1
    assert (checkpoint.parent / "student.safetensors").exists()


@pytest.mark.slow
def test_nodes_that_share_no_disk(place: Place, tmp_path: Path) -> None:
    log, far = tmp_path / "log", tmp_path / "far"
    sweep = (
        "sweep", "--benchmark", "icons", "--method", "vl2v_adip", "--space", "paper", "--seeds", "1", "--tracking",
        "later", "--out", place.address, "-y", *TINY, "teacher_mode=views:1", "sweep.zero_shot=false",
    )  # fmt: skip
    with two_disks(far, tmp_path / "cluster.log") as address:
        refused = told(*sweep, "--address", address, "--query-budget", "100000")
        assert refused.returncode == 2
        assert "a query budget cannot be kept by nodes that share no disk" in refused.stderr.splitlines()[-1]
        command = orchestrate(log, *sweep, "--address", address)
        assert command.wait(timeout=400) == 0, log.read_text()
    table = tables(place.address)
    (there,), (head,) = far.iterdir(), place.mirrors.iterdir()
    assert there.name == head.name
    assert len(list(there.glob("folds/*/student.safetensors"))) == 4
    students = {path.parent.name for path in head.glob("folds/*/student.safetensors")}
    assert students == {fold.key for group in open_store(place.address).groups() for fold in _chosen(place, group.name)}
    assert len(list(place.storage.glob("folds/*/student.safetensors"))) == 4
    assert list(place.storage.glob("embeddings/*/*.arrow"))
    queries = open_store(place.address).folds.queries_folder
    assert sorted(path.name for path in queries.glob("*.jsonl")) == sorted(
        path.name for path in (place.storage / "queries").glob("*.jsonl")
    )
    place.lose_the_head()
    shutil.rmtree(far)
    again = orchestrate(log, *sweep, "--address", "local")
    assert again.wait(timeout=200) == 0, log.read_text()
    assert tables(place.address) == table


@pytest.mark.slow
def test_a_sweep_over_s3_keeps_its_secrets(s3: LoopbackS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VL2V_MIRRORS", str(tmp_path / "mirrors"))
    address, log = s3.address("bucket/sweeps/one"), tmp_path / "log"
    command = stub_command(address, log)
    seen: set[str] = set()
    while command.poll() is None:
        seen |= _command_lines()
        # Ray shows an actor's environment while it sets the actor up: for less than a second.
        time.sleep(0.02)
    assert command.returncode == 0, log.read_text()
    shutil.rmtree(tmp_path / "mirrors")
    again = stub_command(address, tmp_path / "again")
    assert again.wait(timeout=200) == 0, (tmp_path / "again").read_text()
    assert "fold_started" not in (tmp_path / "again").read_text()
    assert [line for line in seen if address in line], "whom to look for in the process list"
    assert [line for line in seen if SECRET in line] == []
    storage = open_storage(address)
    objects = [storage.read(name) or b"" for name in storage.list()]
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len([name for name in storage.list() if name.endswith("/result.json")]) >= 4
    assert not [content for content in [*objects, *files] if SECRET.encode() in content]


def test_mistakes_end_in_one_line(s3: LoopbackS3, place: Place) -> None:
    nowhere = LoopbackS3(9).address("bucket/x")
    for arguments in (
        ("status", "--out", s3.address("missing/x")),
        ("status", "--out", nowhere),
        ("sweep", "--benchmark", "icons", "-y", "--out", nowhere),
        ("report", "--out", f"s3://key:{SECRET}@bucket/x"),
        ("status", "--out", place.address),
        ("sweep", "--benchmark", "icons", "-y", "--out", place.address, "--store", "here"),
    ):
        done = told(*arguments)
        assert done.returncode == 2, done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert SECRET not in done.stderr


def test_a_lease_of_another_machine_is_taken_over_once_it_is_stale(place: Place) -> None:
    storage = open_storage(place.address)
    elsewhere = replace(this_process(), machine="another boot", host="far")
    lease = StorageLease(storage, elsewhere)
    lease.take()
    with pytest.raises(LeaseHeldError, match="far"):
        StorageLease(storage, this_process()).take()
    old = time.time() - 61
    os.utime(place.storage / LEASE_NAME, (old, old))
    ours = StorageLease(storage, this_process())
    ours.take()
    lease.release()
    assert (place.storage / LEASE_NAME).exists(), "who lost the lease leaves it to its new owner"
    ours.release()
    assert not (place.storage / LEASE_NAME).exists()


def _chosen(place: Place, group: str) -> tuple[PlannedFold, ...]:
    chosen = open_store(place.address).records.selected(group)
    assert chosen is not None
    return chosen.folds


def _evaluations(folder: Path) -> list[int]:
    """Steps of every evaluation that was ever written to a fold's journal, repeated ones too."""
    journal = folder / "journal.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
    return [line["step"] for line in lines if line["kind"] == "evaluation"]


def _has_a_few(checkpoint: Path) -> bool:
    return len(_evaluations(checkpoint.parent)) >= 3


def _command_lines() -> set[str]:
    """What everyone on this machine sees of its processes."""
    lines = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.add(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return lines
