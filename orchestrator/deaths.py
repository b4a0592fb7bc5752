"""What ended a worker: Ray is asked, where its first word leaves open whether the process or the machine is gone."""

from __future__ import annotations

import re
import time
from dataclasses import replace

from orchestrator.attempts import SAID, Attempt, FailureKind, kind_of_death

VERDICT_S = 5.0
"""How long Ray is given to tell of a dead actor; the raylet beside a dead process does so within a second."""

NODE_VERDICT_S = 20.0
"""How long Ray is given to notice a dead machine (its health checks: five in a row, three seconds apart)."""

LOOK_AGAIN_S = 0.25

UNAVAILABLE = re.compile(r"[Tt]he actor ([0-9a-f]{32}) is unavailable")

PROCESS_DIED = "its worker process has died"

BROKEN_CONNECTION = re.compile(r"gloo|NCCL|ProcessGroup|Dist\w*Error|[Cc]onnection (closed|reset|refused)|Broken pipe")
"""Errors of a worker whose neighbour is gone."""


def death(text: str) -> Attempt:
    """The attempt of a worker that died without a word of its own, by what Ray said of it."""
    kind = why_it_died(text)
    return Attempt(time=time.time(), kind=kind, error=SAID[kind], details=text)


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


def blamed_on_nodes(attempt: Attempt, before: frozenset[str]) -> Attempt:
    """Correct the kind of a failed group of workers where one of the machines that lived before is gone.

    A worker that lost its neighbour often fails before Ray knows of the dead machine.
    """
    if attempt.kind == "lost_node" and UNAVAILABLE.search(attempt.details):
        kind = why_it_died(attempt.details)
        return replace(attempt, kind=kind, error=SAID[kind])
    if attempt.kind not in ("crash", "lost") or not (attempt.kind == "lost" or BROKEN_CONNECTION.search(attempt.error)):
        return attempt
    if len(before) < 2:
        return attempt
    until = time.monotonic() + NODE_VERDICT_S
    while before <= living_nodes():
        if attempt.kind == "lost" or time.monotonic() > until:
            return attempt
        time.sleep(LOOK_AGAIN_S)
    return replace(attempt, kind="lost_node", error=f"{attempt.error} (a machine was lost)")


def _verdict(actor: str) -> FailureKind | None:
    """What Ray's tables say of a silent actor's end; None while they say nothing.

    A private function of Ray 2.60 (pinned): the public one needs the dashboard. An actor that Tune has let go of
    meanwhile is dead for that reason, which says nothing of the one before.
    """
    from ray._private.state import actors

    found = actors(actor)
    if not found:
        return None
    if str(found["Address"]["NodeID"]) not in living_nodes():
        return "lost_node"
    cause = found["DeathCause"]
    if cause.HasField("oom_context"):
        return "out_of_memory"
    text = str(cause.actor_died_error_context.error_message)
    return "lost" if PROCESS_DIED in text else None
