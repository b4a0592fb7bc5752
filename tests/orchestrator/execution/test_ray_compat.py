"""Canaries: what is used of Ray's inside is there as it is used, and where a part is gone, one line says so."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import tomllib
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from orchestrator.cli import run
from orchestrator.execution import ray_compat
from orchestrator.execution.cluster import connect
from orchestrator.execution.failure_kinds import DEATHS, LOST, LOST_NODE, NO_ROOM
from orchestrator.execution.ray_compat import (
    ACTOR_PARTS,
    CLUSTER_PARTS,
    PARTS,
    PATIENCE,
    PINNED,
    engine_environment,
    inside,
    stoppable_trainer,
)
from orchestrator.execution.tune_trainables import actor_trainable, nested_trainable
from orchestrator.execution.worker_deaths import PROCESS_DIED
from search_spaces.errors import UserError
from search_spaces.hyperparameters import Resources
from tests.support.repository import REPOSITORY

# Ray warns of its own settings when a trainer is built in this process.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

EVERY_PART = pytest.mark.parametrize("place", PARTS)


def start(place: str) -> None:
    """What a sweep does first of all that needs the part."""
    if place in CLUSTER_PARTS:
        with connect(address="local"):
            raise AssertionError("Ray was started")
    if place in ACTOR_PARTS:
        actor_trainable(Resources())
    nested_trainable({})


def remove(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a module, or a class, in the place of Ray's that lacks one name."""
    path, _, names = place.partition(":")
    *owner, name = names.split(".")
    module, bare = importlib.import_module(path), ModuleType(path)
    vars(bare).update(vars(module))
    if owner:
        whole = getattr(module, owner[0])
        content = {other: getattr(whole, other) for other in dir(whole) if other != name and not other.startswith("__")}
        setattr(bare, owner[0], type(owner[0], (), content))
    else:
        delattr(bare, name)
    monkeypatch.setitem(sys.modules, path, bare)


@EVERY_PART
def test_a_part_that_is_gone_is_one_line_before_anything_starts(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    remove(place, monkeypatch)
    with pytest.raises(UserError) as told:
        start(place)
    line = str(told.value)
    assert re.fullmatch(
        rf"Ray \d+\.\d+\.\d+ has no {re.escape(place.replace(':', '.'))}; Ray 2\.60, which is pinned, has it; "
        rf"without it this stops working: {re.escape(PARTS[place])}",
        line,
    )


def test_a_command_says_it_once_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    remove("ray._private.state:actors", monkeypatch)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    sweep = ["sweep", "--benchmark", "icons", "--method", "erm", "--space", "paper", "--out", str(tmp_path / "out")]
    assert run([*sweep, "--trials", "1", "--tracking", "later", "-y"]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "Ray" in line]
    assert len(said) == 1
    assert said[0].startswith("error: Ray ")
    assert said[0].endswith("a dead worker is told from a lost machine")


CALLS: dict[str, tuple[Any, ...]] = {
    "ray._private.state:actors": ("id",),
    "ray._private.state:GlobalState.get_max_resources_from_cluster_config": ("self",),
    "ray._private.state:GlobalState._connect_and_get_accessor": ("self",),
    "ray._private.node:Node.get_logs_dir_path": ("self",),
    "ray.tune.trainable.function_trainable:wrap_function": ("function",),
    "ray.train._internal.session:get_session": (),
    "ray.train._internal.session:_TrainSession._get_or_create_inter_actor_queue": ("self",),
    "ray.train.v2._internal.constants:get_env_vars_to_propagate": (),
}
"""How the parts that are functions are called."""


@EVERY_PART
def test_every_part_is_in_the_installed_ray_and_takes_what_it_is_given(place: str) -> None:
    found = inside(place)
    if place in CALLS:
        inspect.signature(found).bind(*CALLS[place])


def test_no_part_is_used_that_is_not_looked_for() -> None:
    used = set(re.findall(r'inside\("([^"]+)"\)', inspect.getsource(ray_compat)))
    assert used < set(PARTS)
    assert set(CALLS) < set(PARTS)


def test_what_lies_in_the_parts_is_what_is_read_there() -> None:
    assert inside("ray._private.state:state").__class__.__name__ == "GlobalState"
    assert hasattr(inside("ray._private.worker:global_worker"), "node")
    assert isinstance(importlib.import_module("ray._private.node").Node.node_ip_address, property)
    assert isinstance(inside("ray.tune.execution.class_cache:ENV_VARS_TO_PROPAGATE"), set)
    session = inspect.getsource(importlib.import_module("ray.train._internal.session")._TrainSession)
    assert "self._inter_actor_queue: " in session
    assert "self.stop_event = threading.Event()" in session
    assert isinstance(inside("ray._raylet:RAY_NODE_ID_KEY"), str)
    assert all(isinstance(name, str) for name in inside("ray.train.v2._internal.constants:get_env_vars_to_propagate")())
    assert hasattr(inside("ray.tune.trainable.function_trainable:wrap_function")(lambda config: None), "cleanup")
    controller = inside("ray.train.v2._internal.execution.controller:TrainController")
    assert all(callable(getattr(controller, name)) for name in ("run", "get_result", "abort"))


def test_the_tables_of_the_cluster_have_the_fields_that_are_read() -> None:
    from ray.core.generated import common_pb2

    group = inside("ray.core.generated.gcs_pb2:PlacementGroupTableData")()
    death = common_pb2.ActorDeathCause()  # type: ignore[attr-defined]
    read = ("creator_actor_id", "creator_actor_dead", "creator_job_id", "is_detached", "placement_group_id", "state")
    assert all(hasattr(group, name) for name in read)
    assert isinstance(group.REMOVED, int)
    assert death.HasField("oom_context") is False
    assert death.actor_died_error_context.error_message == ""


def test_the_private_method_that_is_overridden_is_the_one_ray_calls() -> None:
    from ray.train.torch import TorchTrainer

    override = stoppable_trainer()._initialize_and_run_controller  # type: ignore[attr-defined]
    original = inspect.getattr_static(TorchTrainer, "_initialize_and_run_controller", None)
    assert original is not None
    assert override is not original
    calls = inspect.getsource(TorchTrainer.fit)
    assert "self._initialize_and_run_controller(" in calls
    assert "callbacks=" in calls


@cache
def inside_ray(*files: str) -> bytes:
    folder = Path(str(importlib.import_module("ray").__file__)).parent
    return b"".join((folder / file).read_bytes() for file in files)


def test_the_settings_are_ones_that_ray_reads() -> None:
    python = inside_ray(
        "train/v2/_internal/constants.py",
        "train/constants.py",
        "tune/constants.py",
        "air/config.py",
        "_private/ray_constants.py",
        "_private/worker.py",
        "_common/usage/usage_constants.py",
    )
    assert not [name for name in engine_environment(spot=True) if name.encode() not in python]
    core = inside_ray("_raylet.so")
    node = inside_ray("_private/node.py")
    assert not [name for name in PATIENCE if name.removeprefix("RAY_").encode() not in core + node]
    assert b'kwargs.pop("_temp_dir"' in python
    assert b"raylet_start_wait_time_s = 30\n" in node, "the limit can be set now: PATIENCE is the place"
    assert b"timed out during startup" in node
    assert b"Timed out waiting for file" in core


def test_the_words_that_deaths_are_told_by_are_rays() -> None:
    said = inside_ray("exceptions.py", "_raylet.so", "core/src/ray/raylet/raylet", "core/src/ray/gcs/gcs_server")
    words = [word for kind in DEATHS.values() for word in kind]
    assert not [word for word in (*words, PROCESS_DIED) if word.encode() not in said]
    errors = [importlib.import_module(name) for name in ("ray.exceptions", "ray.train.v2.api.exceptions")]
    assert not [name for name in LOST | LOST_NODE if not any(hasattr(module, name) for module in errors)]
    assert NO_ROOM.encode() in inside_ray("train/v2/_internal/exceptions.py")


def test_the_pin_is_the_version_that_the_parts_were_read_in() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    (wanted,) = [line for line in project["dependencies"] if line.startswith("ray[")]
    major, minor = PINNED.split(".")
    assert wanted.endswith(f">={PINNED},<{major}.{int(minor) + 1}")
    assert importlib.import_module("ray").__version__.startswith(f"{PINNED}.")
