"""A Ray cluster of two nodes on this machine that share no mirror; every fold runs on the second one.

python -m tests.support.two_disks SECOND    prints the address; mirrors of the second node lie in SECOND; the end
                                                 of stdin ends the cluster
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OBJECT_STORE_BYTES = 100 * 2**20


@contextmanager
def two_disks(mirrors: Path, log: Path) -> Iterator[str]:
    """Run the cluster as a process of its own; yields its address."""
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.two_disks", str(mirrors)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        address = process.stdout.readline().strip()
        assert address, log.read_text()
        yield address
    finally:
        process.stdin.close()
        process.wait(timeout=120)
        process.stdout.close()


def main() -> None:
    from ray.cluster_utils import Cluster

    out = os.fdopen(os.dup(1), "w")
    # Ray prints hints to stdout.
    os.dup2(2, 1)
    head = {"num_cpus": 0, "resources": {"driver": 16}, "object_store_memory": OBJECT_STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args={**head, "include_dashboard": False})
    cluster.add_node(num_cpus=2, object_store_memory=OBJECT_STORE_BYTES, env_vars={"VL2V_MIRRORS": sys.argv[1]})
    print(cluster.address, file=out, flush=True)
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main()
