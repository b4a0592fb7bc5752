"""Sweeps through real Ray Tune on this machine, with stub folds: exactly once, failures told, killed and continued."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from orchestrator.execution.local_ray import TEMPORARY_PREFIX
from orchestrator.run_options import RunOptions
from orchestrator.store.leases import alone_in
from orchestrator.store.sweep_folder import open_store
from orchestrator.sweep import run_sweep
from orchestrator.tracking.background import TrackingAwayError
from search_spaces.errors import UserError
from search_spaces.hyperparameters import Resources
from tests.support.heartbeats import quick_heartbeats
from tests.support.stub_sweep import STUB, command, run_stub, stub_sweep
from tests.support.stub_worker import starts
from trainables.storage.background_threads import beside
from trainables.storage.json_files import write_json
from trainables.storage.leases import read_owner, this_process


class Tracked:
    """Counts what is asked of tracking; can be a server that is down."""

    def __init__(self, *, down: bool = False, unreachable: bool = False) -> None:
        self.synced, self.checked, self.down, self.unreachable = 0, 0, down, unreachable

    def look(self) -> None:
        if self.unreachable:
            raise TrackingAwayError("tracking server http://127.0.0.1:9 does not answer", "start it")

    def preflight(self) -> None:
        self.checked += 1
        if self.unreachable:
            raise TrackingAwayError("tracking server http://127.0.0.1:9 does not answer", "start it")

    def sync(self, changed: object = None) -> None:
        self.synced += 1
        if self.down or self.unreachable:
            raise RuntimeError("503 Service Unavailable\nlong text")


def points(out: Path) -> dict[str, list[Any]]:
    store = open_store(out)
    return {
        group.name: [(trial.point, trial.history) for trial in store.records.trials(group.name)]
        for group in store.groups()
    }


def choices(out: Path) -> dict[str, Any]:
    store = open_store(out)
    return {group.name: store.records.selected(group.name) for group in store.groups()}


def no_ray(*arguments: Any, **options: Any) -> Any:
    raise AssertionError("Ray was started")


@pytest.mark.slow
def test_a_sweep_runs_every_fold_once_and_goes_on_without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracked, home = Tracked(), tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    out = tmp_path / "out"
    sweep = stub_sweep(methods=["erm", "vl2v_adip"], zero_shot=True)
    outcome, events = run_stub(out, sweep, tracking=tracked)
    assert outcome.exit_code == 0
    assert (outcome.counts.done, outcome.counts.planned) == (40, 40)
    assert set(Counter(start["key"] for start in starts(out)).values()) == {1}
    assert len({start["process"] for start in starts(out)}) <= 6, "actors were not reused"
    kinds = Counter(event.kind for event in events)
    assert (kinds["fold_started"], kinds["fold_done"], kinds["fold_reported"]) == (40, 40, 160)
    assert (kinds["sweep_started"], kinds["sweep_finished"]) == (1, 1)
    assert tracked.checked == 1
    assert 1 <= tracked.synced <= 41
    assert list(home.iterdir()) == [], "something was written into the home folder"
    assert not list(out.rglob("running.json"))
    assert {path.name for path in out.iterdir()} == {
        "ALIGNS", "STARTS", "aligns", "confirmations", "data", "folds", "run.json", "sweep.json", "trials", "usage",
    }  # fmt: skip
    monkeypatch.setattr("orchestrator.sweep.open_back_end", no_ray)
    monkeypatch.setattr("orchestrator.execution.local_ray._temporary_base", lambda: tmp_path)
    killed_at_its_end = [tmp_path / f"{TEMPORARY_PREFIX}killed", out / "ray"]
    for folder in killed_at_its_end:
        folder.mkdir()
    before = len(starts(out))
    again, events = run_stub(out, sweep, tracking=tracked)
    assert (again.counts, again.exit_code, len(starts(out))) == (outcome.counts, 0, before)
    assert not [event for event in events if event.kind.startswith("fold_")], "a finished fold is not looked at again"
    assert tracked.checked == 1, "nothing is left to track, and the server is not needed"
    assert not any(folder.exists() for folder in killed_at_its_end)


@pytest.mark.slow
def test_failures_are_told_apart_and_do_not_stop_the_sweep(tmp_path: Path) -> None:
    behaviour = {"crash once": "clipart", "crash": "flat/seed0", "die": "line/seed1", "nan": "render3d/seed1"}
    write_json(tmp_path / "BEHAVIOUR", behaviour)
    outcome, events = run_stub(tmp_path, stub_sweep(trials=1, space="paper"))
    assert outcome.exit_code == 3
    assert (outcome.counts.done, outcome.counts.failed, outcome.counts.waiting) == (5, 3, 0)
    errors = {str(failure.fold): failure.error for failure in outcome.failures}
    assert set(errors) == {"icons/flat/seed0", "icons/line/seed1", "icons/render3d/seed1"}
    assert errors["icons/flat/seed0"] == "RuntimeError: the machine is on fire"
    assert "died" in errors["icons/line/seed1"]
    assert "nan" in errors["icons/render3d/seed1"]
    attempts = {str(failure.fold): open_store(tmp_path).folds.failures(failure.key) for failure in outcome.failures}
    assert [attempt.kind for attempt in attempts["icons/flat/seed0"].attempts] == ["crash", "crash"]
    assert "RuntimeError: first line" in attempts["icons/flat/seed0"].attempts[0].details
    assert [attempt.kind for attempt in attempts["icons/line/seed1"].attempts] == ["lost", "lost"]
    assert all("what the worker said last" in attempt.details for attempt in attempts["icons/line/seed1"].attempts)
    assert [attempt.kind for attempt in attempts["icons/render3d/seed1"].attempts] == ["no_metric"]
    counted = Counter(start["fold"] for start in starts(tmp_path))
    assert counted["icons/clipart/seed0"] == 2
    assert counted["icons/flat/seed0"] == 2
    assert counted["icons/render3d/seed1"] == 1
    assert Counter(event.kind for event in events)["fold_failed"] == 3
    (tmp_path / "BEHAVIOUR").unlink()
    still, _ = run_stub(tmp_path, stub_sweep(trials=1, space="paper"))
    assert still.exit_code == 3
    healed, _ = run_stub(tmp_path, stub_sweep(trials=1, space="paper"), retry_failed=True)
    assert (healed.counts.done, healed.exit_code) == (7, 3), "nan stays nan; the others were given another chance"


@pytest.mark.slow
def test_a_fold_that_somebody_else_took_over_has_not_failed(tmp_path: Path) -> None:
    write_json(tmp_path / "BEHAVIOUR", {"overtaken once": "flat/seed0"})
    outcome, events = run_stub(tmp_path, stub_sweep(trials=1, space="paper"), max_failures=0)
    assert outcome.exit_code == 0
    assert Counter(start["fold"] for start in starts(tmp_path))["icons/flat/seed0"] == 2
    assert not list(tmp_path.glob("folds/*/error.json")), "what the other one makes of it counts"
    assert not [event for event in events if event.kind == "fold_failed"]


@pytest.mark.slow
def test_a_users_mistake_that_a_worker_finds_ends_the_sweep_in_one_line(tmp_path: Path) -> None:
    write_json(tmp_path / "BEHAVIOUR", {"user": "flat/seed0", "pause": 0.2})
    with pytest.raises(UserError, match=r"^this fold asks for what there is not$"):
        run_stub(tmp_path)
    assert not any((tmp_path / "folds").glob("*/error.json")), "it is not the fold that failed"
    (tmp_path / "BEHAVIOUR").unlink()
    outcome, _ = run_stub(tmp_path)
    assert outcome.exit_code == 0


@pytest.mark.slow
def test_what_does_not_fit_is_found_before_any_fold_runs(tmp_path: Path) -> None:
    write_json(tmp_path / "BEHAVIOUR", {"preflight": "erm"})
    with pytest.raises(UserError, match="5 dimensions"):
        run_stub(tmp_path)
    assert starts(tmp_path) == []


@pytest.mark.slow
def test_more_than_the_machine_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="999 workers of 1 CPUs need 999, and the machine has"):
        run_stub(tmp_path, resources=Resources(workers=999))


def test_mistakes_that_need_no_ray_are_found_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.sweep.open_back_end", no_ray)
    with pytest.raises(UserError, match="executor tune runs a fold in one process, got 2 workers"):
        run_stub(tmp_path, executor="tune", resources=Resources(workers=2))
    with pytest.raises(UserError, match="--max-concurrent is 1 or more"):
        run_stub(tmp_path, max_concurrent=0)
    with pytest.raises(UserError, match="PACS needs --data-root"):
        run_stub(tmp_path, stub_sweep(benchmarks=["PACS"]))
    with pytest.raises(AssertionError, match="Ray was started"):
        run_stub(tmp_path)
    for _ in range(2):
        # Asking again is no beginning.
        with pytest.raises(UserError, match=r"does not answer; start it; or train without it \(--tracking later\)"):
            run_stub(tmp_path, tracking=Tracked(unreachable=True))
    with pytest.raises(UserError, match="does not answer"):
        run_stub(tmp_path, stub_sweep(trials=5), tracking=Tracked(unreachable=True))


def test_a_sweep_that_was_refused_before_any_fold_leaves_its_folder_to_the_corrected_command(tmp_path: Path) -> None:
    write_json(tmp_path / "BEHAVIOUR", {"preflight": "erm"})
    with pytest.raises(UserError, match="5 dimensions"):
        run_stub(tmp_path, stub_sweep(trials=5), executor="inline", address=None)
    write_json(tmp_path / "BEHAVIOUR", {})
    outcome, _ = run_stub(tmp_path, stub_sweep(trials=1, space="paper", seeds=1), executor="inline", address=None)
    assert (outcome.exit_code, open_store(tmp_path).existing_sweep().trials) == (0, 1)
    with pytest.raises(UserError, match="belongs to another sweep"):
        run_stub(tmp_path, stub_sweep(trials=5), executor="inline", address=None)


def test_servers_that_do_not_answer_are_found_before_any_image_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_look(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("images were read")

    monkeypatch.setattr("orchestrator.sweep.check_data", no_look)
    with pytest.raises(UserError, match=r"tracking server .* does not answer"):
        run_stub(tmp_path, tracking=Tracked(unreachable=True))
    with pytest.raises(UserError, match=r"no Ray cluster answers at 127\.0\.0\.1:9"):
        run_stub(tmp_path, address="127.0.0.1:9")


@pytest.mark.slow
def test_tracking_that_is_down_is_told_once_and_stops_nothing(tmp_path: Path) -> None:
    outcome, events = run_stub(tmp_path, stub_sweep(trials=1, space="paper"), tracking=Tracked(down=True))
    assert outcome.exit_code == 0
    assert outcome.tracking_behind == "503 Service Unavailable"
    texts = [event.text for event in events if "tracking" in event.text]
    assert texts == [
        "tracking is behind (503 Service Unavailable); the store is complete, and the next sync fills it in "
        "(`vl2v-orchestrate sync`)"
    ]


@pytest.mark.slow
def test_a_sweep_that_was_begun_goes_on_while_the_tracking_server_is_away(tmp_path: Path) -> None:
    sweep = stub_sweep(trials=1, space="paper")
    write_json(tmp_path / "BEHAVIOUR", {"user": "flat/seed0"})
    with pytest.raises(UserError, match="asks for what there is not"):
        run_stub(tmp_path, sweep, max_concurrent=1)
    (tmp_path / "BEHAVIOUR").unlink()
    outcome, events = run_stub(tmp_path, sweep, tracking=Tracked(unreachable=True))
    assert (outcome.exit_code, outcome.counts.waiting) == (0, 0)
    (text,) = (event.text for event in events if "tracking" in event.text)
    assert text.startswith("tracking is behind (tracking server http://127.0.0.1:9 does not answer); the store is")
    assert outcome.tracking_behind
    again, events = run_stub(tmp_path, sweep, tracking=Tracked(unreachable=True))
    assert again.tracking_behind, "nothing is left to run, and MLflow is still behind"
    back = Tracked()
    assert run_stub(tmp_path, sweep, tracking=back)[0].tracking_behind == ""
    assert (back.synced, back.checked) == (1, 0)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_in_order_and_keeps_everything(tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "out"
    write_json(out / "BEHAVIOUR", {"pause": 0.5})
    process = command(out, {})
    _wait_for(lambda: len(starts(out)) >= 3, process)
    process.send_signal(number)
    assert process.wait(timeout=60) == 130, (tmp_path / "out.log").read_text()
    text = (tmp_path / "out.log").read_text()
    assert "Traceback" not in text
    assert not (out / "lease.json").exists()
    assert not (out / "ray").exists()
    assert not list(out.rglob("error.json"))
    assert not list(out.rglob("running.json"))
    write_json(out / "BEHAVIOUR", {})
    assert command(out, {}).wait(timeout=120) == 0
    assert all(count <= 2 for count in Counter(start["key"] for start in starts(out)).values())


@pytest.mark.slow
def test_a_second_process_is_kept_out_of_a_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_json(out / "BEHAVIOUR", {"pause": 30})
    process = command(out, {})
    try:
        _wait_for(lambda: (out / "lease.json").exists(), process)
        with pytest.raises(UserError, match=f"another sweep runs in .* \\(process {process.pid} on "):
            run_sweep(stub_sweep(), open_store(out), RunOptions(functions=STUB))
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_any_moment_and_run_again_it_ends_as_if_undisturbed(tmp_path: Path, seed: int) -> None:
    fields = {"trials": 12, "seeds": 2}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run_stub(whole, stub_sweep(**fields), max_concurrent=1)[0].exit_code == 0
    chance = random.Random(seed)
    write_json(cut / "BEHAVIOUR", {"pause": 0.05})
    for _ in range(5):
        process, there = command(cut, fields, max_concurrent=1), len(starts(cut))
        _wait_for(lambda there=there: len(starts(cut)) > there, process)
        time.sleep(chance.uniform(0.0, 2.5))
        process.kill()
        process.wait()
    finished = {path.parent.name for path in cut.glob("folds/*/result.json")}
    before = Counter(start["key"] for start in starts(cut))
    assert command(cut, fields, max_concurrent=1).wait(timeout=300) == 0, (tmp_path / "cut.log").read_text()
    assert points(cut) == points(whole)
    assert choices(cut) == choices(whole)
    done = {path.parent.name for path in cut.glob("folds/*/result.json")}
    assert done == {path.parent.name for path in whole.glob("folds/*/result.json")}
    after = Counter(start["key"] for start in starts(cut))
    assert all(after[key] == before[key] for key in finished), "a finished fold was run again"
    assert not (cut / "lease.json").exists()
    assert not (cut / "ray").exists()
    assert not list(cut.rglob("running.json"))


def _wait_for(condition: Any, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "the command ended early"
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_sweep_that_was_taken_for_dead_and_taken_over_ends_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick_heartbeats(monkeypatch, 0.2)
    write_json(tmp_path / "BEHAVIOUR", {"pause": 3})
    store, other = open_store(tmp_path), this_process()

    def take_over(ended: threading.Event) -> None:
        while not starts(tmp_path) and not ended.wait(0.1):
            pass
        write_json(store.lease_file, asdict(other))

    with (
        beside("another command", take_over),
        pytest.raises(UserError, match=f"^process {other.process} on {other.host} has taken over {tmp_path}"),
    ):
        run_stub(tmp_path, stub_sweep(trials=1, space="paper"))
    assert read_owner(store.lease_file) == other
    assert not list(tmp_path.rglob("error.json"))


def test_half_files_of_killed_commands_go_when_the_next_one_begins(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    half = tmp_path / "trials" / "icons" / ".0.json.00000000-1-1-1.part"
    half.parent.mkdir(parents=True)
    half.touch()
    os.utime(half, (1.0, 1.0))
    with alone_in(store):
        assert not half.exists()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_folds_that_all_crash_in_one_way_do_not_all_burn(tmp_path: Path) -> None:
    write_json(tmp_path / "BEHAVIOUR", {"crash": "erm"})
    with pytest.raises(UserError, match=r"attempts at 3 folds crashed in a row with the same error.* on fire; mend it"):
        run_stub(tmp_path, stub_sweep(trials=3, seeds=1), max_concurrent=1)
    assert len(starts(tmp_path)) == 5
