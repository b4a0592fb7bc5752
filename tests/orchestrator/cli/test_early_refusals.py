"""What can be refused early is: before the plan is printed, alone on its line, without Ray, and nothing is written."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from orchestrator.cli import run
from tests.support.stub_sweep import run_stub, stub_sweep
from trainables.storage.leases import Lease, this_process

SWEEP = ("sweep", "--benchmark", "icons", "--method", "erm", "-y", "--out", "out")

Prepared = Callable[[], Any]


@contextmanager
def at_work() -> Iterator[None]:
    lease = Lease(Path("out/lease.json"), this_process())
    lease.take()
    try:
        yield
    finally:
        lease.release()


@contextmanager
def begun() -> Iterator[None]:
    run_stub("out", stub_sweep(trials=1, space="paper", seeds=1), executor="inline", address=None)
    yield


@contextmanager
def a_file_in_the_way() -> Iterator[None]:
    Path("file").touch()
    yield


@contextmanager
def few_images() -> Iterator[None]:
    for domain, count in (("day", 2), ("night", 4)):
        for name in ("cat", "dog"):
            Path("few", domain, name).mkdir(parents=True)
            for number in range(count // (1 if name == "cat" else 2)):
                Image.new("RGB", (8, 8), (number, 0, 0)).save(Path("few", domain, name, f"{number}.png"))
    yield


@contextmanager
def no_temporary_folder() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAY_TMPDIR", "/tmp/none-here")
        yield


@contextmanager
def nothing() -> Iterator[None]:
    yield


REFUSED: dict[str, tuple[Prepared, list[str], str]] = {
    "more workers than CPUs": (nothing, ["--workers", "999"], "999 workers of 1 CPUs need 999, and the machine has"),
    "more CPUs than there are": (nothing, ["resources.cpus_per_worker=4096"], "need 4096, and the machine has"),
    "in use": (at_work, [], f"another sweep runs in {{here}}/out (process {os.getpid()} on "),
    "another sweep": (begun, [], "out belongs to another sweep ('stub', which differs in "),
    "another sweep, looked at": (begun, ["--dry-run"], "out belongs to another sweep ('stub', which differs in "),
    "a file above": (a_file_in_the_way, ["--out", "file/out"], "cannot write to the output folder"),
    "few images": (few_images, ["--benchmark", "few", "--data-root", "."], "few/day has 3 images; a 20% validation"),
    "no images": (nothing, ["--benchmark", "PACS", "--data-root", "."], "PACS wants the folder"),
    "no such folder for Ray": (no_temporary_folder, [], "RAY_TMPDIR: /tmp/none-here is not a folder"),
    "no cluster": (nothing, ["--address", "127.0.0.1:{free}"], "no Ray cluster answers at 127.0.0.1:{free}"),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_an_error_comes_before_the_plan_and_alone(
    mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_ray(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("Ray was started")

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    prepared, arguments, said = REFUSED[mistake]
    with socket.socket() as unused, prepared():
        unused.bind(("127.0.0.1", 0))
        known = {"here": str(tmp_path), "free": str(unused.getsockname()[1])}
        monkeypatch.setattr("orchestrator.sweep.open_back_end", no_ray)
        before = sorted(tmp_path.rglob("*"))
        capsys.readouterr()
        assert run([*SWEEP, *(argument.format(**known) for argument in arguments)]) == 2
        written = capsys.readouterr()
        assert written.out == "", "the plan was printed"
        assert written.err.startswith("error: ")
        assert written.err.count("\n") == 1
        assert said.format(**known) in written.err
        assert sorted(tmp_path.rglob("*")) == before, "something was written"
