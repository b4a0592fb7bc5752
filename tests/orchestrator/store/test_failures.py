"""Failures are told apart by what lies at their bottom, and counted beside the fold."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.execution.failure_kinds import NO_ROOM_SAID, SAID, describe
from orchestrator.store.failures import (
    LOST_NODES_WITHOUT_PROGRESS,
    Failure,
    FailureKind,
    allow_again,
    give_up,
    read_failures,
    record_and_decide,
    record_failure,
)
from search_spaces.errors import UserError
from trainables.storage.fold_folder import FoldFolder
from trainables.storage.json_files import DamagedFileError
from trainables.storage.leases import LeaseLostError


class TrainingDivergedError(RuntimeError):
    """Named as the trainer's own."""


class WorkerGroupError(RuntimeError):
    """As Ray Train's: what went wrong, by rank."""

    def __init__(self, failures: dict[int, Exception]) -> None:
        super().__init__("Training failed due to worker errors:\n[Rank 0 Error Snippet]:\n...")
        self.worker_failures = failures


class OutOfMemoryError(RuntimeError):
    """Named as torch's and Ray's."""


class TuneError(RuntimeError):
    """As Ray Tune's: an error that was kept as text."""


class ActorDiedError(RuntimeError):
    """As Ray's."""


class WorkerGroupStartupTimeoutError(RuntimeError):
    """As Ray Train's."""


class ControllerError(RuntimeError):
    """As Ray Train's error about what kept its workers from starting."""

    def __init__(self, failure: Exception) -> None:
        super().__init__("Training failed due to controller error.")
        self.controller_failure = failure


class Preempted(RuntimeError):
    """As Ray's errors about actors: a flag says that the machine was reclaimed."""

    preempted = True


class Unhealthy(RuntimeError):
    """As Ray Train's error about a worker that does not answer."""

    def __init__(self, failure: Exception) -> None:
        super().__init__("A worker health check failed.")
        self.health_check_failure = failure


KILLED = (
    "The actor died unexpectedly before finishing this task.\n"
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker "
    "unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was "
    "killed by the OOM killer due to high memory usage, (2) ray stop --force was called"
)
NODE_GONE = (
    "The actor died unexpectedly before finishing this task.\n"
    "The actor died because its node has died. Node Id: 6788620429365f88eabfd73bbc2c87a5d1456bba0dbd677ce2e73202\n"
    "\tthe actor's node was terminated expectedly: received SIGTERM"
)
LOW_MEMORY = "2 worker(s) were killed due to the node running low on memory."
"""As Ray 2.60 words them."""


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    try:
        raise error from cause
    except Exception as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (RuntimeError("first\nlast"), "crash", "RuntimeError: last"),
        (KeyError(), "crash", "KeyError"),
        (DamagedFileError("x.json is damaged"), "crash", "x.json is damaged"),
        (LeaseLostError("process 7 has taken over"), "overtaken", "LeaseLostError: process 7 has taken over"),
        (UserError("PACS has no domain 'scetch'"), "user", "PACS has no domain 'scetch'"),
        (TrainingDivergedError("loss nan at step 7"), "diverged", "TrainingDivergedError: loss nan at step 7"),
        (raised(RuntimeError("wrapper"), ValueError("inner")), "crash", "ValueError: inner"),
        (raised(RuntimeError("wrapper"), WorkerGroupError({1: UserError("no such file")})), "user", "no such file"),
        (WorkerGroupError({0: MemoryError("12 GiB")}), "out_of_memory", "MemoryError: 12 GiB"),
        (OutOfMemoryError("CUDA out of memory."), "out_of_memory", "OutOfMemoryError: CUDA out of memory."),
        (RuntimeError("CUDA error: out of memory"), "out_of_memory", "RuntimeError: CUDA error: out of memory"),
        (ActorDiedError(KILLED), "lost", SAID["lost"]),
        (ActorDiedError(NODE_GONE), "lost_node", SAID["lost_node"]),
        (TuneError(f"Failure # 1\n{LOW_MEMORY}"), "out_of_memory", SAID["out_of_memory"]),
        (TuneError("Failure # 1\nno GPU"), "crash", "TuneError: no GPU"),
        (Preempted("spot"), "lost_node", "Preempted: spot"),
        (ControllerError(WorkerGroupStartupTimeoutError("after 60 seconds")), "lost_node", NO_ROOM_SAID),
        (
            WorkerGroupError(
                {0: RuntimeError("gloo: Connection closed by peer"), 1: Unhealthy(ActorDiedError(NODE_GONE))}
            ),
            "lost_node",
            SAID["lost_node"],
        ),
        (
            WorkerGroupError({0: RuntimeError("gloo: Connection closed by peer"), 1: OutOfMemoryError("12 GiB")}),
            "out_of_memory",
            "OutOfMemoryError: 12 GiB",
        ),
    ],
)
def test_the_kind_and_the_last_line(error: Exception, kind: str, text: str) -> None:
    failure = describe(error)
    assert (failure.kind, failure.error) == (kind, text)
    assert type(error).__name__ in failure.details


def test_attempts_add_up_and_a_retry_forgives_without_forgetting(tmp_path: Path) -> None:
    folder = FoldFolder(tmp_path)
    assert read_failures(folder).spent == 0
    for number in range(2):
        record_failure(folder, Failure(time=float(number), kind="crash", error=f"error {number}"))
    give_up(folder)
    assert (read_failures(folder).spent, read_failures(folder).failed) == (2, True)
    assert read_failures(folder).error == "error 1"
    allow_again(folder)
    again = read_failures(folder)
    assert (again.spent, again.failed, len(again.attempts)) == (0, False, 2)


def fail(folder: FoldFolder, kind: FailureKind, *, max_failures: int = 1) -> bool:
    return record_and_decide(folder, Failure(time=0.0, kind=kind, error="no"), align=None, max_failures=max_failures)


@pytest.mark.parametrize(("max_failures", "again"), [(0, [False]), (1, [True, False]), (2, [True, True, False])])
@pytest.mark.parametrize("kind", ["crash", "lost"])
def test_crashes_are_counted(tmp_path: Path, kind: FailureKind, max_failures: int, again: list[bool]) -> None:
    folder = FoldFolder(tmp_path)
    assert [fail(folder, kind, max_failures=max_failures) for _ in again] == again
    assert read_failures(folder).failed


@pytest.mark.parametrize("kind", ["diverged", "no_metric"])
def test_what_would_come_back_is_not_tried_again(tmp_path: Path, kind: FailureKind) -> None:
    assert not fail(FoldFolder(tmp_path), kind, max_failures=9)


def test_memory_that_runs_out_halves_the_pieces_once_and_once_more_for_a_retry(tmp_path: Path) -> None:
    folder = FoldFolder(tmp_path)
    assert fail(folder, "out_of_memory", max_failures=0)
    assert (read_failures(folder).doublings, read_failures(folder).spent) == (1, 0)
    assert not fail(folder, "out_of_memory", max_failures=9)
    allow_again(folder)
    assert read_failures(folder).doublings == 2, "two pieces were not enough: a retry takes four"
    assert fail(folder, "out_of_memory")
    assert not fail(folder, "out_of_memory")


def test_lost_machines_count_only_without_progress(tmp_path: Path) -> None:
    folder = FoldFolder(tmp_path)
    for step in range(3):
        folder.append_journal([{"kind": "evaluation", "stage": "distill", "step": step}])
        for _ in range(LOST_NODES_WITHOUT_PROGRESS - 1):
            assert fail(folder, "lost_node", max_failures=0)
    assert read_failures(folder).spent == 0
    assert not fail(folder, "lost_node", max_failures=0)
    allow_again(folder)
    assert fail(folder, "lost_node", max_failures=0)


def test_progress_is_the_align_stages_too(tmp_path: Path) -> None:
    folder, align = FoldFolder(tmp_path / "fold"), FoldFolder(tmp_path / "align")
    failure = Failure(time=0.0, kind="lost_node", error="no")
    for step in range(2 * LOST_NODES_WITHOUT_PROGRESS):
        align.append_journal([{"kind": "evaluation", "stage": "align", "step": step}])
        assert record_and_decide(folder, failure, align=align, max_failures=0)
