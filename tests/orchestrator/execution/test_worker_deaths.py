"""Whose fault a failed group of workers is: only the machines that it was on count, whatever else the cluster loses."""

from __future__ import annotations

import time
from typing import Any

import pytest

from orchestrator.execution import worker_deaths
from orchestrator.execution.cluster import connect
from orchestrator.execution.worker_deaths import blamed_on_nodes, living_nodes, new_actors_nodes, trainer_nodes
from orchestrator.store.failures import Failure, FailureKind

OWN = frozenset({"a" * 56, "b" * 56})
IDLE = "c" * 56
BROKEN = "RuntimeError: gloo: Connection closed by peer"
OF_ITS_OWN = "ConnectionRefusedError: [Errno 111] Connection refused"


def failed(kind: FailureKind, error: str) -> Failure:
    return Failure(time=time.time(), kind=kind, error=error)


@pytest.fixture
def living(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The nodes that Ray takes for alive; its verdict takes no time."""
    nodes = {*OWN, IDLE}
    monkeypatch.setattr(worker_deaths, "living_nodes", lambda: frozenset(nodes))
    monkeypatch.setattr(worker_deaths, "NODE_VERDICT_S", 0.0)
    return nodes


@pytest.mark.parametrize(("kind", "error"), [("crash", BROKEN), ("crash", OF_ITS_OWN), ("lost", "killed")])
def test_a_machine_that_vanished_elsewhere_excuses_nothing(kind: FailureKind, error: str, living: set[str]) -> None:
    failure = failed(kind, error)
    living.discard(IDLE)
    assert blamed_on_nodes(failure, lambda: OWN) == failure
    living.discard(min(OWN))
    assert blamed_on_nodes(failure, lambda: OWN).kind == "lost_node"


def test_what_no_machine_explains_is_not_asked_about(living: set[str]) -> None:
    def never() -> frozenset[str]:
        raise AssertionError("Ray was asked")

    living.clear()
    failure = failed("crash", "ValueError: an error of its own")
    assert blamed_on_nodes(failure, never) == failure


def test_a_trainers_machines_are_those_of_the_actors_that_its_controller_owns(monkeypatch: pytest.MonkeyPatch) -> None:
    def actor(name: str, node: str, port: int, owner: int) -> dict[str, Any]:
        address = {"IPAddress": "10.0.0.1", "Port": port, "NodeID": node}
        return {"ActorID": name, "Address": address, "OwnerAddress": {"IPAddress": "10.0.0.1", "Port": owner}}

    records = [
        actor("controller", "d" * 56, 1, owner=9),
        *(actor(f"worker {node[0]}", node, 2, owner=1) for node in OWN),
        actor("worker without a place", "f" * 56, 0, owner=1),
        actor("worker of another fold", IDLE, 3, owner=7),
    ]
    monkeypatch.setattr(worker_deaths, "actor_records", lambda: records)
    monkeypatch.setattr(worker_deaths, "actor_record", lambda wanted: {one["ActorID"]: one for one in records}[wanted])
    assert trainer_nodes() == frozenset(), "this process drives no trainer"
    monkeypatch.setattr(worker_deaths, "driven_controller", lambda: "controller")
    assert trainer_nodes() == OWN


@pytest.mark.slow
def test_ray_tells_who_owns_an_actor_when_both_are_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    class Owner:
        def make(self) -> str:
            self.child = ray.remote(Owner).options(num_cpus=0).remote()
            return str(ray.get(self.child.name.remote()))

        def name(self) -> str:
            return ray.get_runtime_context().get_actor_id() or ""

    with connect(address="local", cpus=1):
        before = new_actors_nodes()
        assert before() == frozenset()
        owner = ray.remote(Owner).options(num_cpus=0).remote()
        ray.get(owner.make.remote())
        monkeypatch.setattr(worker_deaths, "driven_controller", owner._actor_id.hex)
        for _ in range(2):
            assert before() == trainer_nodes() == living_nodes()
            ray.kill(owner)
            time.sleep(1.0)
