"""Folds in this process: no Ray, a signal or a debugger stops in order, and what cannot be is refused."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import run
from orchestrator.cli.progress import LogLines, progress_for
from orchestrator.events import ProgressEvent
from orchestrator.execution.executors import chosen_executor
from orchestrator.execution.in_process import InProcess
from orchestrator.execution.one_fold import FoldFailedError, train_one
from orchestrator.run_options import RunOptions, WorkerFunctions
from orchestrator.store.remote.mirrors import StoreMirrors
from search_spaces.errors import UserError
from search_spaces.hyperparameters import Resources
from tests.support.nested_folds import one_fold
from tests.support.stub_sweep import STUB, command, run_stub, stub_sweep
from tests.support.stub_worker import starts
from tests.support.terminals import Terminal
from tests.support.waiting import eventually
from trainables.storage.json_files import write_json

FEW = 3
"""Steps of a real fold."""


def no_ray(*arguments: Any, **options: Any) -> Any:
    raise AssertionError("Ray was started")


def test_a_sweep_runs_to_its_end_without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.execution.back_ends.connect", no_ray)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    outcome, events = run_stub(tmp_path, stub_sweep(trials=2, seeds=2), executor="inline", address=None)
    assert (outcome.exit_code, outcome.counts.done, outcome.counts.planned) == (0, 12, 12)
    assert len({start["process"] for start in starts(tmp_path)}) == 1
    assert set(Counter(start["key"] for start in starts(tmp_path)).values()) == {1}
    assert Counter(event.kind for event in events)["fold_reported"] == 12 * 4


def test_one_fold_by_itself_is_tried_again_and_says_why_it_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.execution.back_ends.connect", no_ray)
    told = list[ProgressEvent]()
    write_json(tmp_path / "BEHAVIOUR", {"memory": "line"})
    job = one_fold(tmp_path)
    result = train_one(job, RunOptions(executor="inline", functions=STUB, max_failures=0), told.append)
    assert (result.key, result.batch_pieces) == (job.spec.key, 2)
    assert [event.kind for event in told if event.kind != "fold_reported"] == ["fold_started", "fold_retried"]
    assert [event.metrics["step"] for event in told if event.kind == "fold_reported"] == [0, 1, 2]
    assert train_one(job, RunOptions(executor="inline", functions=WorkerFunctions(run_job="no:where"))) == result
    assert not [path for name in ("lease.json", "ray") for path in tmp_path.rglob(name)]

    write_json(tmp_path / "other" / "BEHAVIOUR", {"crash": "line"})
    with pytest.raises(FoldFailedError, match=r"icons/line/seed0 failed: RuntimeError: the machine is on fire"):
        train_one(one_fold(tmp_path / "other"), RunOptions(executor="inline", functions=STUB))
    assert len(starts(tmp_path / "other")) == 2
    with pytest.raises(UserError, match="executor inline runs a fold in one process, got 2 workers"):
        train_one(one_fold(tmp_path / "two", Resources(workers=2)), RunOptions(executor="inline", functions=STUB))


def test_a_preflight_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(tmp_path / "BEHAVIOUR", {"preflight": "erm"})
    with pytest.raises(UserError, match=r"^the teacher embeds into 5 dimensions, the student into 7$"):
        run_stub(tmp_path, executor="inline", address=None)

    def breaks(job: Any) -> Any:
        raise RuntimeError("first line\nno room")

    monkeypatch.setattr("tests.support.stub_worker.preflight", breaks)
    with pytest.raises(UserError, match=r"^checking .* failed: RuntimeError: no room; the same command tries again$"):
        run_stub(tmp_path, executor="inline", address=None)
    assert not starts(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workers", "2"], "executor inline runs a fold in one process, got 2 workers; use train or auto"),
        (["--address", "127.0.0.1:6379"], "without Ray; leave --address 127.0.0.1:6379 out"),
        (["--gpus-per-worker", "1"], "sees no GPU; leave --gpus-per-worker out"),
    ],
    ids=["workers", "address", "gpu"],
)
def test_what_one_process_cannot_do_is_refused_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.setattr("trainables.fitting.gpu_memory.num_gpus", lambda: 0)
    sweep = ["sweep", "--benchmark", "icons", "--method", "erm", "--space", "paper", "--trials", "1", "--out"]
    options = ["--executor", "inline", "--tracking", "later", "-y", *arguments]
    assert run([*sweep, str(tmp_path / "out"), *options]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert words in line
    assert not list(tmp_path.rglob("journal.jsonl"))


def test_a_gpu_that_is_there_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainables.fitting.gpu_memory.num_gpus", lambda: 1)
    here = InProcess(resources=Resources(gpus_per_worker=1.0), functions=STUB)
    here.check(tmp_path, mirrors=StoreMirrors(), query_budget=None)
    assert chosen_executor("inline", Resources(gpus_per_worker=1.0)) == "inline"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_in_order_and_the_same_command_resumes(tmp_path: Path, number: signal.Signals) -> None:
    out, arguments = tmp_path / "out", {"executor": "inline", "address": None}
    write_json(out / "BEHAVIOUR", {"pause": 0.3})
    process = command(out, {"trials": 1, "space": "paper"}, **arguments)
    assert eventually(lambda: len(starts(out)) == 2, 60), (tmp_path / "out.log").read_text()
    process.send_signal(number)
    assert process.wait(timeout=60) == 130, (tmp_path / "out.log").read_text()
    assert "Traceback" not in (tmp_path / "out.log").read_text()
    assert not [path for name in ("lease", "error", "running") for path in out.rglob(f"{name}.json")]
    assert len(starts(out)) == 2
    assert len(list(out.glob("folds/*/result.json"))) == 1
    write_json(out / "BEHAVIOUR", {})
    assert command(out, {"trials": 1, "space": "paper"}, **arguments).wait(timeout=120) == 0
    assert sorted(Counter(start["key"] for start in starts(out)).values()) == [1] * 7 + [2]


def test_the_terminal_is_the_debuggers(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress_for([], live=False) as progress:
        assert isinstance(progress, LogLines)


STOPS_IN_ITS_LOSS = """
import sys
from torch.nn import functional
from orchestrator.cli import run

ordinary, calls = functional.cross_entropy, []

def cross_entropy(logits, labels, **options):
    loss_before = ordinary(logits, labels, **options)
    calls.extend([] if options else [1])
    if len(calls) == 2 and not options:
        breakpoint()
    return loss_before

functional.cross_entropy = cross_entropy
sys.exit(run(sys.argv[1:]))
"""


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[Terminal]:
    """A sweep on a terminal, at the breakpoint in its second step."""
    few = [f"distill.num_steps={FEW}", "evaluate_every=2", "batch_size_per_domain=4"]
    sweep = ["sweep", "--benchmark", "icons", "--method", "erm", "--space", "paper", "--trials", "1", "--seeds", "1"]
    options = ["--executor", "inline", "--tracking", "later", "-y", "--out", tmp_path / "out", *few]
    terminal = Terminal(STOPS_IN_ITS_LOSS, *sweep, *options)
    try:
        terminal.read_until("(Pdb) ")
        yield terminal
    finally:
        terminal.close()


@pytest.mark.slow
def test_a_breakpoint_inside_a_loss_stops_there_and_the_sweep_goes_on(tmp_path: Path, stopped: Terminal) -> None:
    stopped.say("p 'of', len(labels), 'images', loss_before.isfinite().item()")
    assert "('of', 12, 'images', True)" in stopped.read_until("(Pdb) ")
    stopped.say("where")
    assert "cross_entropy" in stopped.read_until("(Pdb) ")
    stopped.say("continue")
    assert stopped.exit_code() == 0, stopped.seen
    assert "8/8" in stopped.seen
    assert len(list((tmp_path / "out").glob("folds/*/result.json"))) == 8


@pytest.mark.slow
def test_leaving_the_debugger_stops_the_sweep_and_the_fold_waits(tmp_path: Path, stopped: Terminal) -> None:
    stopped.say("quit")
    assert stopped.exit_code() == 130, stopped.seen
    assert "interrupted; run the same command to resume" in stopped.seen
    assert "Traceback" not in stopped.seen
    out = tmp_path / "out"
    assert not [path for name in ("lease", "error", "running") for path in out.rglob(f"{name}.json")]
    begun, done = ({path.parent for path in out.glob(f"folds/*/{name}.json")} for name in ("spec", "result"))
    assert (len(begun - done), len(done)) == (1, 4), "the teacher's own folds were done, the first student's was not"
