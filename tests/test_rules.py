"""The rules of the house: which room may import which, where engines and test numbers stay, and how large a room gets.

A failure prints what breaks. Rule 4 knows two offenders; the list only gets shorter.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.support.repository import REPOSITORY

PACKAGES = ("search_spaces", "trainables", "orchestrator")
"""A package imports those before it, and itself."""

LEVELS = (
    ("plan", "run_options", "events", "exit_codes"),
    ("store",),
    ("search",),
    ("budgets", "inspection"),
    ("scheduler", "report", "tracking"),
    ("execution",),
    ("sweep", "train", "rerun", "embed", "doctor", "cluster"),
    ("cli",),
)
"""The rooms of `orchestrator` from the bottom up: one imports what is below it, never beside or above."""

ONLY_IN = {
    "ray": ("orchestrator/execution/", "orchestrator/cluster/", "trainables/worker.py"),
    "mlflow": ("orchestrator/tracking/",),
    "optuna": ("orchestrator/search/", "search_spaces/spaces.py"),
    "typer": ("orchestrator/cli/",),
    "rich": ("orchestrator/cli/",),
    "torch": ("trainables/",),
    "timm": ("trainables/",),
    "open_clip": ("trainables/",),
    "safetensors": ("trainables/",),
}
"""Engines stay at the edge: the few folders or files that may import each."""

ENGINES = ("torch", "ray", "mlflow", "optuna", "timm", "open_clip")

HEAVY = (
    "orchestrator/execution/",
    "orchestrator/cluster/",
    "orchestrator/sweep.py",
    "orchestrator/train.py",
    "orchestrator/rerun.py",
    "orchestrator/embed.py",
    "orchestrator/doctor.py",
)
"""The part of `orchestrator` that may load an engine when it is imported."""

PRIVATE_RAY = ("ray._private", "._internal", "_raylet")
"""Words that name Ray's inside: one file alone holds them, so that a new Ray breaks nothing else."""
RAY_COMPAT = "orchestrator/execution/ray_compat.py"

LIGHT_TRAINABLES = (
    "trainables.jobs",
    "trainables.storage.fold_folder",
    "trainables.data.formats.open",
    "trainables.data.formats.sample",
    "trainables.data.loading.splits",
    "trainables.teacher.fingerprint",
)
"""Modules of `trainables` that a plan or a status reads."""

TEST_NUMBERS = {
    "read_test": ("orchestrator/report/",),
    "read_held_out": ("orchestrator/search/leave_one_domain_out.py",),
}
"""Who may call what reads numbers of a test domain, or of a pair fold's domains."""

MOST_MODULES = 15
MOST_METHODS = 20
MOST_PARAMETERS = 8

LARGE_CLASSES = {
    "orchestrator/store/remote/mirrors.py:StoreMirrors",
    "trainables/storage/mirror.py:Mirror",
}


def sources(package: str) -> list[Path]:
    """The files of a package."""
    found = sorted((REPOSITORY / package).rglob("*.py"))
    assert found, package
    return found


def everything() -> list[Path]:
    return [path for package in PACKAGES for path in sources(package)]


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def name_of(path: Path) -> str:
    """A file as a module: `orchestrator.plan.plan`."""
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def place(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def imported(path: Path) -> Iterator[str]:
    """Modules that a file imports anywhere, inside functions and `if TYPE_CHECKING` too, with the names taken."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def arrows() -> dict[str, set[str]]:
    """Each of our modules, and those of ours that it imports."""
    modules = {name_of(path): path for path in everything()}
    found: dict[str, set[str]] = {}
    for name, path in modules.items():
        whole = {target if target in modules else target.rpartition(".")[0] for target in imported(path)}
        found[name] = {target for target in whole if target in modules} - {name}
    return found


def room_of(module: str) -> str:
    """`orchestrator.plan.plan` is in `plan`."""
    return module.split(".")[1] if "." in module else ""


def test_packages_import_one_way() -> None:
    order = {package: position for position, package in enumerate(PACKAGES)}
    wrong = {
        f"{name} imports {target}"
        for name, targets in arrows().items()
        for target in targets
        if order[target.split(".")[0]] > order[name.split(".")[0]]
    }
    assert not wrong


def test_rooms_import_what_is_below_them() -> None:
    level = {room: number for number, rooms in enumerate(LEVELS) for room in rooms}
    ours = {name: targets for name, targets in arrows().items() if name.startswith("orchestrator.")}
    unknown = {room_of(name) for name in ours} - set(level)
    assert not unknown, f"rooms that the drawing lacks: {unknown}"
    wrong = {
        f"{name} imports {target}"
        for name, targets in ours.items()
        for target in targets
        if target.startswith("orchestrator.") and room_of(target) != room_of(name)
        if level[room_of(target)] >= level[room_of(name)]
    }
    assert not wrong


def test_no_circle_types_included() -> None:
    # `CycleError` names the files.
    tuple(TopologicalSorter(arrows()).static_order())


@pytest.mark.parametrize("engine", ONLY_IN)
def test_an_engine_stays_in_its_rooms(engine: str) -> None:
    users = {place(path) for path in everything() if engine in {name.split(".")[0] for name in imported(path)}}
    assert users, f"nobody imports {engine}: the rule is out of date"
    assert not {user for user in users if not user.startswith(ONLY_IN[engine])}


def test_the_inside_of_ray_is_named_in_one_file() -> None:
    users = {place(path) for path in everything() if any(word in path.read_text() for word in PRIVATE_RAY)}
    assert users == {RAY_COMPAT}


def test_the_reader_of_imports_sees_nested_ones(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text("def f():\n    from ray.tune import Tuner\n    import torch.nn as nn\n")
    assert list(imported(file)) == ["ray.tune.Tuner", "torch.nn"]


def test_light_modules_load_no_engine() -> None:
    """One process imports them all; each that brings an engine in is named."""
    light = [
        name_of(path)
        for package in ("search_spaces", "orchestrator")
        for path in sources(package)
        if not place(path).startswith(HEAVY)
    ]
    program = (
        "import importlib, sys\n"
        f"engines = {set(ENGINES)!r}\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    if loaded := engines & set(sys.modules):\n"
        "        print(name, *sorted(loaded))\n"
        "        engines -= loaded\n"
    )
    command = [sys.executable, "-c", program, *light, *LIGHT_TRAINABLES]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("reader", TEST_NUMBERS)
def test_test_numbers_are_read_in_one_place(reader: str) -> None:
    callers = {
        place(path)
        for path in everything()
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Attribute) and node.attr == reader
    }
    assert callers, f"nobody calls {reader}: the rule is out of date"
    assert not {caller for caller in callers if not caller.startswith(TEST_NUMBERS[reader])}


def test_no_folder_is_crowded() -> None:
    count: dict[str, int] = defaultdict(int)
    for path in everything():
        if path.name != "__init__.py":
            count[str(path.parent.relative_to(REPOSITORY))] += 1
    assert not {folder for folder, number in count.items() if number > MOST_MODULES}


def test_no_class_is_large() -> None:
    large = {
        f"{place(path)}:{node.name}"
        for path in everything()
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ClassDef)
        if sum(isinstance(member, ast.FunctionDef) for member in node.body) > MOST_METHODS
    }
    assert large == LARGE_CLASSES


def test_no_signature_is_long() -> None:
    long = {
        f"{place(path)}:{name}"
        for path in everything()
        if not place(path).startswith("orchestrator/cli/")
        for name, function in _functions(parsed(path))
        if len(_parameters(function)) > MOST_PARAMETERS
    }
    assert not long


def _functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Every function with its name, methods as `Class.method`."""
    within = {member: node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for member in node.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            yield (f"{within[node]}.{node.name}" if node in within else node.name), node


def _parameters(function: ast.FunctionDef) -> list[str]:
    given = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
    return [argument.arg for argument in given if argument.arg not in ("self", "cls")]


def test_no_public_name_is_defined_twice() -> None:
    places: dict[str, set[str]] = defaultdict(set)
    for path in everything():
        for node in parsed(path).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                places[node.name].add(place(path))
    assert {name for name, files in places.items() if len(files) > 1} == set()
