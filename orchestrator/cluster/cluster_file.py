"""Check a `cluster.yaml` for what Ray's own schema lets pass.

Ray's offline validation accepts a misspelled instance type, an unknown provider key, a node type with more minimum than
maximum workers, a top-level `min_workers` (ignored since Ray 2.0), a head that starts without `--autoscaling-config`
(workers never come) and a file without a cluster name (everyone shares `default`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from orchestrator.events import Finding
from search_spaces.errors import UserError
from search_spaces.yaml_text import parse_yaml, resolved

PROVIDER_KEYS = (
    "type",
    "region",
    "availability_zone",
    "cache_stopped_nodes",
    "security_group",
    "use_internal_ips",
    "disable_node_updaters",
    "disable_launch_config_check",
    "cloudwatch",
    "foreground_node_launch",
)
"""What Ray 2.60 reads below `provider` for AWS, credentials left out on purpose."""

SECRET_KEYS = (
    "aws_credentials",
    "aws_access_key_id",
    "aws_secret_access_key",
    "aws_session_token",
    "password",
    "token",
)
"""Keys that carry a secret; such a file must not be committed."""

_SIZES = ("large", "xlarge", *(f"{count}xlarge" for count in (2, 3, 4, 6, 8, 9, 10, 12, 16, 18, 24, 32, 48)), "metal")
_FAMILIES = {
    "t3": ("nano", "micro", "small", "medium", "large", "xlarge", "2xlarge"),
    **dict.fromkeys(("m5", "m6i", "m6a", "m7i", "m7a", "c5", "c6i", "c7i", "r5", "r6i", "r7i"), _SIZES),
    "g4dn": ("xlarge", "2xlarge", "4xlarge", "8xlarge", "12xlarge", "16xlarge", "metal"),
    **dict.fromkeys(
        ("g5", "g6", "g6e"), ("xlarge", "2xlarge", "4xlarge", "8xlarge", "12xlarge", "16xlarge", "24xlarge", "48xlarge")
    ),
    "p3": ("2xlarge", "8xlarge", "16xlarge"),
    "p3dn": ("24xlarge",),
    "p4d": ("24xlarge",),
    "p4de": ("24xlarge",),
    "p5": ("4xlarge", "48xlarge"),
    "p5e": ("48xlarge",),
    "p5en": ("48xlarge",),
}
INSTANCE_TYPES = frozenset(f"{family}.{size}" for family, sizes in _FAMILIES.items() for size in sizes)
"""EC2 types that a head or a GPU worker would use."""


def read_cluster_file(path: str | Path) -> dict[str, Any]:
    """Read a cluster file; one line where it is missing or is no YAML mapping.

    Raises:
        UserError: there is no such file, or it is not a YAML mapping.
    """
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read cluster file {str(path)!r}: {error.strerror}") from None
    content = resolved(parse_yaml(raw, f"cluster file {str(path)!r}"))
    if not isinstance(content, dict):
        raise UserError(f"cluster file {str(path)!r} is not a mapping")
    return content


def lint_cluster(cluster: Mapping[str, Any]) -> list[str]:
    """One line per finding; empty when nothing is wrong."""
    provider = _mapping(cluster.get("provider"))
    findings: list[str] = []
    if not cluster.get("cluster_name"):
        findings.append("cluster_name is missing: everyone without one shares the cluster named 'default'")
    if "min_workers" in cluster:
        findings.append("min_workers on the top level is ignored; set it on a node type")
    findings += _secrets(cluster, "")
    if provider.get("type") == "aws":
        findings += _unknown_provider_keys(provider)
    for name, node_type in _mapping(cluster.get("available_node_types")).items():
        findings += _node_type(str(name), _mapping(node_type), cluster, aws=provider.get("type") == "aws")
    commands = cluster.get("head_start_ray_commands")
    if commands is not None and not any("--autoscaling-config" in str(command) for command in commands):
        findings.append("head_start_ray_commands lacks --autoscaling-config: the head would never start a worker")
    return findings


def _unknown_provider_keys(provider: Mapping[str, Any]) -> Iterator[str]:
    for key in provider:
        if key not in PROVIDER_KEYS and key not in SECRET_KEYS:
            yield f"provider.{key} is no key that Ray reads for aws{_nearest(str(key), PROVIDER_KEYS)}"


def _node_type(name: str, node_type: Mapping[str, Any], cluster: Mapping[str, Any], *, aws: bool) -> Iterator[str]:
    smallest = node_type.get("min_workers", 0)
    largest = node_type.get("max_workers", cluster.get("max_workers", 2))
    if isinstance(smallest, int) and isinstance(largest, int) and smallest > largest:
        yield f"node type {name}: min_workers {smallest} is above max_workers {largest}"
    node_config = _mapping(node_type.get("node_config"))
    if "PrivateIpAddress" in str(node_config):
        yield f"node type {name}: a fixed PrivateIpAddress lets only one node of the type start"
    if not aws or "LaunchTemplate" in node_config:
        return
    instance_type = str(node_config.get("InstanceType", ""))
    if not instance_type:
        yield f"node type {name}: node_config has no InstanceType"
    elif instance_type not in INSTANCE_TYPES:
        yield f"node type {name}: unknown InstanceType {instance_type!r}{_nearest(instance_type, INSTANCE_TYPES)}"


def _secrets(value: Any, where: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            dotted = f"{where}.{key}" if where else str(key)
            if str(key).lower() in SECRET_KEYS:
                yield f"{dotted} would put a secret into the file; use a profile or an instance role"
            else:
                yield from _secrets(item, dotted)
    elif isinstance(value, list):
        for position, item in enumerate(value):
            yield from _secrets(item, f"{where}[{position}]")
    elif isinstance(value, str) and re.search(r"\bAKIA[0-9A-Z]{16}\b|://[^/\s:@]+:[^/\s@]+@", value):
        yield f"{where} holds what looks like a secret"


def _nearest(name: str, allowed: Any) -> str:
    names = get_close_matches(name, sorted(allowed), n=3, cutoff=0.6)
    return f"; nearest: {', '.join(names)}" if names else ""


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def check_cluster_file(path: str) -> Iterator[Finding]:
    """Our own lint of a cluster file."""
    try:
        findings = lint_cluster(read_cluster_file(path))
    except UserError as error:
        yield Finding(state="wrong", subject="cluster file", text=str(error))
        return
    for line in findings:
        yield Finding(state="wrong", subject="cluster file", text=line)
    if not findings:
        yield Finding(state="ok", subject="cluster file", text=f"{path}: nothing found")
