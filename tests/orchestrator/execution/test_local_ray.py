"""The start of an own Ray: tried again where it was too slow and for nothing else, in a folder that Ray can use."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from orchestrator.execution.local_ray import (
    LONGEST_TEMPORARY,
    STARTS,
    TEMPORARY_PREFIX,
    check_ray_folder,
    end_processes_in,
    ray_folder,
    start_in,
)
from search_spaces.errors import UserError

TOO_SLOW = "The current node timed out during startup. This could happen because some of the raylet failed to startup."
NO_PORT = "Timed out waiting for file gcs_server_port"


class Starts:
    """Stands in for `ray.init`: raises what it was given, one after the other, then starts."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.places = list(errors), list[str]()

    def __call__(self, **options: Any) -> str:
        assert options["address"] == "local"
        self.places.append(options["_temp_dir"])
        if self.errors:
            raise self.errors.pop(0)
        return "started"


def test_a_start_that_was_too_slow_is_tried_again_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    starts = Starts(Exception(TOO_SLOW), TimeoutError(NO_PORT))
    monkeypatch.setattr("ray.init", starts)
    assert start_in(tmp_path) == "started"
    assert len(set(starts.places)) == len(starts.places) == STARTS == 3


def test_a_start_that_is_always_too_slow_ends_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    starts = Starts(*[Exception(TOO_SLOW)] * 9)
    monkeypatch.setattr("ray.init", starts)
    with pytest.raises(UserError, match=r"on this machine \(3 times, each too slow: The current node"):
        start_in(tmp_path)
    assert len(starts.places) == STARTS


@pytest.mark.parametrize(
    ("error", "raised"), [(ValueError("Resource quantities"), UserError), (OSError(28, "No space left"), OSError)]
)
def test_another_reason_is_tried_once(
    error: Exception, raised: type[Exception], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    starts = Starts(error)
    monkeypatch.setattr("ray.init", starts)
    with pytest.raises(raised, match=str(error.args[-1])):
        start_in(tmp_path)
    assert len(starts.places) == 1


def test_what_a_failed_start_left_running_is_ended_and_nothing_else(tmp_path: Path) -> None:
    waits = [sys.executable, "-c", "import time; time.sleep(60)"]
    left = subprocess.Popen([*waits, f"--session={tmp_path}/own/0/session"])
    other = subprocess.Popen([*waits, f"--session={tmp_path}/owner/0/session"])
    try:
        end_processes_in(tmp_path / "own")
        assert left.wait(10) == -9
        assert other.poll() is None
    finally:
        for process in (left, other):
            process.kill()
            process.wait()


def test_the_longest_folder_leaves_room_for_rays_sockets() -> None:
    behind = f"/{TEMPORARY_PREFIX}XXXXXXXX/0/session_2026-11-27_22-08-20_123456_1234567/sockets/plasma_store"
    assert LONGEST_TEMPORARY + len(behind) <= 103


def made_in(folder: Path) -> None:
    with ray_folder() as made:
        assert made.parent == folder
    assert not made.exists()


def test_the_folder_is_made_where_ray_can_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    short, letters = Path(tempfile.mkdtemp(prefix="t-", dir="/tmp")), Path(tempfile.mkdtemp(prefix="é ", dir="/tmp"))
    try:
        for usable, given in ((short, short), (Path("/tmp"), letters), (Path("/tmp"), Path("/tmp") / ("long" * 9))):
            monkeypatch.setattr(tempfile, "tempdir", str(given))
            made_in(usable)
            check_ray_folder()
        monkeypatch.setenv("RAY_TMPDIR", str(short))
        made_in(short)
    finally:
        short.rmdir()
        letters.rmdir()


@pytest.mark.parametrize("wanted", ["/tmp/" + "long" * 9, "/tmp/é", "/tmp/none-here"])
def test_a_folder_of_rays_that_cannot_be_used_is_named(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", wanted)
    with pytest.raises(UserError, match=f"RAY_TMPDIR.*{wanted}.*unset it"), ray_folder():
        pass
