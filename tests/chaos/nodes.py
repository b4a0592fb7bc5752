"""A Ray cluster of two nodes on this machine, whose second node can be lost and replaced.

python -m tests.chaos.nodes             prints {"address": ..., "raylet": ...}; a line on stdin replaces the second
                                        node, and the end of stdin ends the cluster
python -m tests.chaos.nodes ADDRESS     prints what a cluster still holds
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HEAD = {"num_cpus": 1, "resources": {"driver": 16}}
NODE = {"num_cpus": 1}
OBJECT_STORE_BYTES = 100 * 2**20


class TwoNodes:
    """The cluster as a process of its own: nodes can be added in a main thread only."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.nodes"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                start_new_session=True,
                text=True,
            )
        self._read()

    def replace(self) -> None:
        """Have another second node instead of the one that was lost."""
        assert self.process.stdin is not None
        self.process.stdin.write("replace\n")
        self.process.stdin.flush()
        self._read()

    def end(self) -> int:
        """End the cluster in order; returns the exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(timeout=60)

    def _read(self) -> None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the cluster did not start"
        content = json.loads(line)
        self.address, self.raylet = str(content["address"]), int(content["raylet"])


def leaks(address: str) -> dict[str, Any]:
    """Placement groups that nobody removed, those of dead actors among them, and resources that nobody gave back.

    Connects a driver.
    """
    import ray
    from ray.util import placement_group_table

    from orchestrator.execution.worker_deaths import orphaned_groups

    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    try:
        groups = [group for group in placement_group_table().values() if group["state"] != "REMOVED"]  # type: ignore[no-untyped-call]
        there, free = ray.cluster_resources(), ray.available_resources()
        held = {name: there[name] - free.get(name, 0.0) for name in ("CPU", "driver") if name in there}
        return {
            "placement_groups": len(groups),
            "orphans": len(orphaned_groups()),
            "held": {name: value for name, value in held.items() if value > 1e-6},
        }
    finally:
        ray.shutdown()


def main() -> None:
    """Hold the cluster until stdin ends."""
    from ray.cluster_utils import Cluster

    common = {"object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
    out = os.fdopen(os.dup(1), "w")
    # Ray prints hints to stdout.
    os.dup2(2, 1)
    cluster = Cluster(initialize_head=True, head_node_args={**HEAD, **common})

    def add() -> Any:
        node = cluster.add_node(**NODE, object_store_memory=OBJECT_STORE_BYTES)
        raylet = node.all_processes["raylet"][0].process.pid
        print(json.dumps({"address": cluster.address, "raylet": raylet}), file=out, flush=True)
        return node

    node = add()
    for _ in sys.stdin:
        cluster.remove_node(node, allow_graceful=False)
        node = add()
    cluster.shutdown()


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(leaks(sys.argv[1])))
    else:
        main()
