"""Stop and cancel from another process: the right sweep hears them, and no other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from orchestrator.cli import run
from orchestrator.scheduler.control import ask, listening, read_request, wait_until_ended
from orchestrator.scheduler.stopping import StopRequest
from orchestrator.store.sweep_folder import SweepFolder, open_store
from tests.support.bench import Bench
from tests.support.stub_sweep import command, stub_sweep
from tests.support.stub_worker import starts
from tests.support.waiting import eventually
from trainables.storage.json_files import write_json
from trainables.storage.leases import Lease, this_process


@pytest.mark.parametrize("verb", ["stop", "cancel"])
def test_without_a_sweep_at_work_one_line_says_so(
    tmp_path: Path, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([verb, "--out", str(tmp_path)]) == 2
    assert "no sweep in" in capsys.readouterr().err
    Bench(tmp_path)
    assert run([verb, "--out", str(tmp_path)]) == 2
    assert f"no sweep runs in {tmp_path}: there is nothing to {verb}" in capsys.readouterr().err
    assert not open_store(tmp_path).request_file.exists()


def test_a_request_reaches_the_owner_that_it_names(tmp_path: Path) -> None:
    store = Bench(tmp_path).store
    lease, stop = Lease(store.lease_file, this_process()), StopRequest()
    lease.take()
    with listening(store, lease.owner, stop):
        assert not stop.closing
        request = ask(store, "stop")
        assert request.owner == lease.owner.identity
        assert eventually(lambda: stop.draining)
        assert not stop.wanted
        ask(store, "cancel")
        assert eventually(lambda: stop.wanted)
        assert ask(store, "stop").wish == "cancel", "a cancel is not taken back"
    lease.release()
    assert not store.request_file.exists()
    wait_until_ended(store, request)


def test_a_request_for_a_dead_sweep_never_stops_the_next_one(tmp_path: Path) -> None:
    store = Bench(tmp_path).store
    dead = Lease(store.lease_file, this_process())
    dead.take()
    late = ask(store, "cancel")
    dead.release()
    living, stop = Lease(store.lease_file, this_process()), StopRequest()
    living.take()
    with listening(store, living.owner, stop):
        assert not store.request_file.exists(), "what an earlier sweep was asked is taken away"
        write_json(store.request_file, {"wish": late.wish, "owner": late.owner, "time": late.time})
        time.sleep(1.2)
        assert not stop.closing
        store.request_file.write_text("{ torn")
        time.sleep(0.7)
        ask_again = read_request_or_none(store)
        assert ask_again is None
        store.request_file.unlink()
        ask(store, "stop")
        assert eventually(lambda: stop.draining), "a file that could not be read did not end the listening"
    living.release()


def read_request_or_none(store: SweepFolder) -> object:
    try:
        return read_request(store)
    except ValueError:
        return None


def test_waiting_ends_with_the_owner_and_leaves_nothing(tmp_path: Path) -> None:
    store = Bench(tmp_path).store
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom trainables.storage.leases import Lease, this_process\n"
        "Lease(Path(sys.argv[1]), this_process()).take()\nprint('taken', flush=True)\ntime.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(store.lease_file)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "taken\n"
        request = ask(store, "stop")
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        wait_until_ended(store, request)
        assert not store.request_file.exists()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["stop", "cancel"])
def test_a_running_sweep_stops_and_the_same_command_finishes_it(
    tmp_path: Path, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    pause = 2.0 if verb == "stop" else 20.0
    write_json(out / "BEHAVIOUR", {"pause": pause})
    running = command(out, {"trials": 2}, max_concurrent=2)
    assert eventually(lambda: len(starts(out)) >= 2, 180)
    assert run([verb, "--out", str(out)]) == 0
    assert running.wait(60) == 130
    begun = {start["key"] for start in starts(out)}
    done = {key for key in begun if open_store(out).folds.fold(key).is_done}
    assert done == (begun if verb == "stop" else set())
    assert len(begun) <= 4, "folds were started after the request"
    assert f"{len(done)} done, 0 running" in capsys.readouterr().out
    assert not list(out.rglob("running.json"))
    assert not (out / "request.json").exists()
    write_json(out / "BEHAVIOUR", {"pause": 0.0})
    again = command(out, {"trials": 2}, max_concurrent=2)
    assert again.wait(300) == 0
    counted = Counter(start["key"] for start in starts(out))
    assert all(counted[key] == 1 for key in done)
    assert run(["status", "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["done"] == stub_sweep(trials=2).seeds * 4 + 4
