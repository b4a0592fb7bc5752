"""From an exception, or from Ray's words about a dead worker, to a kind of failure."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from typing import Any

from orchestrator.store.failures import Failure, FailureKind
from search_spaces.errors import UserError
from trainables.storage.json_files import DamagedFileError
from trainables.storage.leases import LeaseLostError
from trainables.teacher.ledger import BudgetReached

PRECEDENCE: tuple[FailureKind, ...] = (
    "user", "budget", "overtaken", "diverged", "out_of_memory", "lost_node", "lost", "crash"
)  # fmt: skip
"""Of several errors the first kind is the cause: the other workers of a group then fail with broken connections."""


def describe(error: BaseException) -> Failure:
    """Tell failures apart by the exceptions that lie below what the engines wrapped around them."""
    links = list(chain(error))
    kinds = [_kind(link) for link in links]
    kind = min(kinds, key=PRECEDENCE.index)
    root = [link for link, own in zip(links, kinds, strict=True) if own == kind][-1]
    details = "".join(traceback.format_exception(error))
    return Failure(time=time.time(), kind=kind, error=_said(root, kind), details=details)


def chain(error: BaseException) -> Iterator[BaseException]:
    """The exception, then what caused it; errors of Ray Train's workers and controller and Ray's are looked into."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        link = waiting.pop(0)
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        failures: dict[int, Any] = getattr(link, "worker_failures", None) or {}
        wrapped = ("controller_failure", "health_check_failure", "cause", "__cause__")
        inner = [*failures.values(), *(getattr(link, name, None) for name in wrapped)]
        waiting.extend(item for item in inner if isinstance(item, BaseException))


def kind_of_death(text: str) -> FailureKind:
    """What ended a worker, by Ray's own words about it (2.60: `ray.exceptions` and the raylet's messages)."""
    for kind, words in DEATHS.items():
        if any(word in text for word in words):
            return kind
    return "lost"


DEATHS: dict[FailureKind, tuple[str, ...]] = {
    "out_of_memory": ("due to the node running low on memory",),
    "lost_node": ("its node has died", "the node it was running on is dead", "local raylet died", "is unavailable"),
}

SAID: dict[FailureKind, str] = {
    "lost": "the worker process died without a word (killed, or out of memory)",
    "lost_node": "the worker's machine was lost, or preempted",
    "out_of_memory": "the worker process was ended because its machine ran low on memory",
}
"""What is said of a worker that died, by the kind of its death."""

LOST = frozenset({"ActorDiedError", "ActorUnavailableError", "RayActorError", "WorkerCrashedError"})

LOST_NODE = frozenset({"NodeDiedError", "LocalRayletDiedError", "PreemptionError"})

NO_ROOM = "WorkerGroupStartupTimeoutError"
"""Ray Train's: the machines that a fold's workers wait for did not come, or are taken by others."""

NO_ROOM_SAID = "the cluster had no room for the fold's workers for too long; its machines are gone, or others hold them"

NO_MEMORY = ("CUDA out of memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory")
"""Of a `RuntimeError`: not every allocation of torch raises `torch.OutOfMemoryError`."""


def _kind(error: BaseException) -> FailureKind:
    name, text = type(error).__name__, str(error)
    if isinstance(error, DamagedFileError):
        # Of one fold: the others go on.
        return "crash"
    if isinstance(error, UserError):
        return "user"
    if isinstance(error, BudgetReached):
        return "budget"
    if isinstance(error, LeaseLostError):
        return "overtaken"
    if name == "TrainingDivergedError":
        return "diverged"
    if isinstance(error, MemoryError) or name == "OutOfMemoryError":
        return "out_of_memory"
    if isinstance(error, RuntimeError) and any(words in text for words in NO_MEMORY):
        return "out_of_memory"
    if name in LOST_NODE or name == NO_ROOM or getattr(error, "preempted", False) is True:
        return "lost_node"
    if name in LOST:
        return kind_of_death(text)
    # What Tune could not keep as an exception, it keeps as text.
    kind = kind_of_death(text) if name == "TuneError" else "lost"
    return "crash" if kind == "lost" else kind


def _said(error: BaseException, kind: FailureKind) -> str:
    """The last line, or what is said of a death that Ray tells of at length."""
    if type(error).__name__ == NO_ROOM:
        return NO_ROOM_SAID
    by_ray = type(error).__name__ in LOST | LOST_NODE or kind_of_death(str(error)) != "lost"
    return SAID[kind] if by_ray and kind in SAID else _last_line(error)


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    text = lines[-1].strip() if lines else ""
    if isinstance(error, UserError | BudgetReached):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
