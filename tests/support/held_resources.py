"""What a cluster still holds."""

from __future__ import annotations

from orchestrator.execution.cluster import DRIVER_RESOURCE


def held() -> list[str]:
    """What the cluster has not got back."""
    import ray
    from ray.util import placement_group_table

    groups = [f"a placement group: {entry['state']}" for entry in placement_group_table().values()]
    there, free = ray.cluster_resources(), ray.available_resources()  # type: ignore[no-untyped-call]
    return [group for group in groups if "REMOVED" not in group] + [
        f"{name}: {free.get(name, 0.0):g} of {there[name]:g} are free"
        for name in ("CPU", DRIVER_RESOURCE)
        if free.get(name) != there[name]
    ]
