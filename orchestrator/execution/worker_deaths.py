"""What ended a worker, and what a dead one still holds.

Ray is asked, where its first word leaves open whether the process or the machine is gone.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from orchestrator.execution.failure_kinds import SAID, kind_of_death
from orchestrator.execution.ray_compat import (
    actor_record,
    actor_records,
    driven_controller,
    logs_folder,
    placement_groups,
)
from orchestrator.store.failures import Failure, FailureKind
from trainables.storage.background_threads import beside

VERDICT_S = 5.0
"""How long Ray is given to tell of a dead actor; the raylet beside a dead process does so within a second."""

NODE_VERDICT_S = 20.0
"""How long Ray is given to notice a dead machine (its health checks: five in a row, three seconds apart)."""

LOOK_AGAIN_S = 0.25

ORPHANS_S = 1.0
"""Between two looks for what killed trainers still hold: the next attempt waits for it."""

UNAVAILABLE = re.compile(r"[Tt]he actor ([0-9a-f]{32}) is unavailable")

PROCESS_AND_ADDRESS = re.compile(r"\bpid: (\d+)\n(?:.*\n)*?\s*ip: (\S+)")
"""Of a dead actor, in Ray's words."""

LAST_WORDS = 4000
"""Characters of a dead worker's stderr that are kept: a traceback of C code and what came before."""

PROCESS_DIED = "its worker process has died"

BROKEN_CONNECTION = re.compile(r"gloo|NCCL|ProcessGroup|Dist\w*Error|[Cc]onnection (closed|reset|refused)|Broken pipe")
"""Errors of a worker whose neighbour is gone."""


def death(text: str) -> Failure:
    """The attempt of a worker that died without a word of its own, by what Ray said of it."""
    kind, heard = why_it_died(text), last_words(text)
    details = f"{text}\n\nthe last lines of its stderr:\n{heard}" if heard else text
    return Failure(time=time.time(), kind=kind, error=SAID[kind], details=details)


def last_words(text: str) -> str:
    """The end of the stderr of a dead worker that Ray tells of, where it ran beside this process; else nothing.

    A local Ray's folder goes with it, and the worker's log with that.
    """
    told = PROCESS_AND_ADDRESS.search(text)
    logs = None if told is None else logs_folder(told.group(2))
    if told is None or logs is None:
        return ""
    # Of several processes with one number the last one died.
    files = sorted(logs.glob(f"worker-*-{told.group(1)}.err"), key=lambda file: file.stat().st_mtime)
    return files[-1].read_text(errors="replace")[-LAST_WORDS:].strip() if files else ""


def living_nodes() -> frozenset[str]:
    """Ids of the machines that Ray takes for alive."""
    import ray

    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return frozenset(str(node["NodeID"]) for node in nodes if node["Alive"])


def why_it_died(text: str) -> FailureKind:
    """The kind of a worker's death by what Ray said of it; where the worker merely fell silent, Ray is asked again.

    Ray tells of a dead process through the raylet beside it. Where none tells, the machine is gone, or out of reach.
    """
    silent = UNAVAILABLE.search(text)
    if silent is None:
        return kind_of_death(text)
    until = time.monotonic() + VERDICT_S
    while time.monotonic() < until:
        verdict = _verdict(silent.group(1))
        if verdict is not None:
            return verdict
        time.sleep(LOOK_AGAIN_S)
    return "lost_node"


def trainer_nodes() -> frozenset[str]:
    """Ids of the machines that the trainer's workers are on which this process drives: its controller owns them."""
    controller = driven_controller()
    owner = {} if controller is None else actor_record(controller).get("Address", {})
    if not owner:
        return frozenset()
    place = owner["IPAddress"], owner["Port"]
    owned = (one for one in actor_records() if (one["OwnerAddress"]["IPAddress"], one["OwnerAddress"]["Port"]) == place)
    return _nodes(owned)


def new_actors_nodes() -> Callable[[], frozenset[str]]:
    """Tells on which machines this job's actors are, or were, that did not exist at this call."""
    known = {str(record["ActorID"]) for record in actor_records()}
    return lambda: _nodes(record for record in actor_records() if str(record["ActorID"]) not in known)


def _nodes(records: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    found = (str(record["Address"]["NodeID"]) for record in records)
    # An actor that never had a place has all 0xff.
    return frozenset(node for node in found if node.strip("f"))


def blamed_on_nodes(failure: Failure, used: Callable[[], frozenset[str]]) -> Failure:
    """Correct the kind of a failed group of workers where one of its own machines is gone.

    A worker that lost its neighbour often fails before Ray knows of the dead machine.

    Args:
        failure: what the group said.
        used: tells the machines that the group was on; the loss of any other explains nothing.
    """
    if failure.kind == "lost_node" and UNAVAILABLE.search(failure.details):
        kind = why_it_died(failure.details)
        return replace(failure, kind=kind, error=SAID[kind])
    if failure.kind not in ("crash", "lost") or not (failure.kind == "lost" or BROKEN_CONNECTION.search(failure.error)):
        return failure
    nodes = used()
    if len(nodes) < 2 and failure.kind == "crash":
        return failure
    until = time.monotonic() + NODE_VERDICT_S
    while nodes <= living_nodes():
        if failure.kind == "lost" or time.monotonic() > until:
            return failure
        time.sleep(LOOK_AGAIN_S)
    return replace(failure, kind="lost_node", error=f"{failure.error} (a machine was lost)")


@contextmanager
def orphans_given_back() -> Iterator[None]:
    """While the block runs, give back what nested trainers still hold whose controller was killed.

    Ray ties a placement group to its creator and to the whole job: only the end of both frees it, and the next attempt
    at the fold would wait for its predecessor's workers without end. Ray's own cleaner needs the dashboard (ray#65443).
    """

    def follow(ended: threading.Event) -> None:
        while not ended.wait(ORPHANS_S):
            # A Ray that is slow to answer is asked again.
            with suppress(Exception):
                remove_orphans()

    with beside("orphaned placement groups", follow):
        yield


def remove_orphans() -> int:
    """Remove this job's placement groups whose creator is a dead actor; returns how many there were."""
    import ray
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    job = ray.get_runtime_context().get_job_id()
    orphans = [group for group in orphaned_groups() if group.creator_job_id.hex() == job]
    for group in orphans:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
    return len(orphans)


def orphaned_groups() -> list[Any]:
    """Ray's entries of all placement groups whose creator is a dead actor; Tune's own have no actor for a creator."""
    return [group for group in placement_groups() if _is_orphaned(group)]


def _is_orphaned(group: Any) -> bool:
    # Without an actor the creator is all 0xff, and counts as dead from the start.
    if group.is_detached or not group.creator_actor_id.strip(b"\xff"):
        return False
    return bool(group.creator_actor_dead) or _is_dead(group.creator_actor_id.hex())


def _is_dead(actor: str) -> bool:
    """A group that was on its way when its creator died is not marked."""
    return bool(actor_record(actor).get("State") == "DEAD")


def _verdict(actor: str) -> FailureKind | None:
    """What Ray's tables say of a silent actor's end; None while they say nothing.

    An actor that Tune has ended meanwhile is dead for that reason, which says nothing of the one before.
    """
    found = actor_record(actor)
    if not found:
        return None
    if str(found["Address"]["NodeID"]) not in living_nodes():
        return "lost_node"
    cause = found["DeathCause"]
    if cause.HasField("oom_context"):
        return "out_of_memory"
    text = str(cause.actor_died_error_context.error_message)
    return "lost" if PROCESS_DIED in text else None
