"""cluster.yaml passes Ray's own offline validation and our lint; the lint catches what Ray lets pass."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.cluster.cluster_file import lint_cluster, read_cluster_file
from search_spaces.errors import UserError
from tests.support.repository import REPOSITORY

CLUSTER = REPOSITORY / "cluster.yaml"


def cluster() -> dict[str, Any]:
    return read_cluster_file(CLUSTER)


def ray_validates(raw: dict[str, Any]) -> dict[str, Any]:
    """Ray's own offline check, in the order in which `ray up` does it."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared: dict[str, Any] = prepare_config(copy.deepcopy(raw))
    for node_type in prepared["available_node_types"].values():
        node_type.setdefault("resources", {})
    validate_config(prepared)
    return prepared


def test_ray_accepts_the_file() -> None:
    prepared = ray_validates(cluster())
    assert prepared["available_node_types"]["gpu_spot"]["max_workers"] == 8
    assert prepared["docker"]["container_name"] == "vl2v"


def test_rays_validation_can_fail() -> None:
    raw = cluster()
    raw["available_node_types"]["gpu_spot"]["min_worker"] = 1
    with pytest.raises(Exception, match="min_worker"):
        ray_validates(raw)


def test_our_lint_finds_nothing() -> None:
    assert lint_cluster(cluster()) == []


def test_the_head_runs_drivers_only_and_workers_are_spot_gpus() -> None:
    types = cluster()["available_node_types"]
    assert types["head"]["resources"]["CPU"] == 0
    assert set(types["head"]["resources"]) - {"CPU"}, "the head needs a custom resource for the drivers"
    assert types["gpu_spot"]["resources"]["GPU"] == 1
    assert types["gpu_spot"]["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"


def test_the_images_match_the_pinned_ray() -> None:
    pinned = dict(
        line.split("==")
        for line in (REPOSITORY / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    )
    docker = cluster()["docker"]
    assert docker["head_image"] == f"rayproject/ray:{pinned['ray']}-py311-cpu"
    assert docker["worker_image"] == f"rayproject/ray:{pinned['ray']}-py311-gpu"


def _gpu(raw: dict[str, Any]) -> dict[str, Any]:
    node_type: dict[str, Any] = raw["available_node_types"]["gpu_spot"]
    return node_type


MISTAKES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "size": (lambda raw: _gpu(raw)["node_config"].update(InstanceType="g5.2xlarg"), "nearest: g5.2xlarge"),
    "family": (lambda raw: _gpu(raw)["node_config"].update(InstanceType="gg5.xlarge"), "gg5.xlarge"),
    "no type": (lambda raw: _gpu(raw)["node_config"].pop("InstanceType"), "no InstanceType"),
    "provider key": (lambda raw: raw["provider"].update(regoin="us-east-1"), "nearest: region"),
    "min above max": (lambda raw: _gpu(raw).update(min_workers=3, max_workers=1), "min_workers 3 is above"),
    "min above default max": (lambda raw: (_gpu(raw).pop("max_workers"), _gpu(raw).update(min_workers=9)), "above"),
    "top-level min": (lambda raw: raw.update(min_workers=1), "top level"),
    "autoscaling": (lambda raw: raw.update(head_start_ray_commands=["ray start --head"]), "--autoscaling-config"),
    "name": (lambda raw: raw.pop("cluster_name"), "cluster_name is missing"),
    "fixed address": (lambda raw: _gpu(raw)["node_config"].update(PrivateIpAddress="10.0.0.9"), "PrivateIpAddress"),
    "secret key": (lambda raw: raw["provider"].update(aws_credentials={"aws_access_key_id": "x"}), "secret"),
    "secret value": (lambda raw: raw.update(setup_commands=["curl https://me:pw@host/x"]), "setup_commands[0]"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_lint_names_each_mistake(mistake: str) -> None:
    change, expected = MISTAKES[mistake]
    raw = cluster()
    change(raw)
    findings = lint_cluster(raw)
    assert len(findings) == 1, findings
    assert expected in findings[0]


def test_a_missing_or_broken_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read cluster file"):
        read_cluster_file(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text(yaml.safe_dump([1]))
    with pytest.raises(UserError, match="is not a mapping"):
        read_cluster_file(tmp_path / "list.yaml")
    (tmp_path / "torn.yaml").write_text("a: [1")
    with pytest.raises(UserError, match="is not YAML") as caught:
        read_cluster_file(tmp_path / "torn.yaml")
    assert "\n" not in str(caught.value)
