"""The import direction, and which few files may import an engine."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Collection, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.support.repository import REPOSITORY

PACKAGES = ("search_spaces", "trainables", "orchestrator")

FORBIDDEN = {
    "search_spaces": {
        "trainables",
        "orchestrator",
        "torch",
        "torchvision",
        "timm",
        "open_clip",
        "ray",
        "mlflow",
        "typer",
    },
    "trainables": {"orchestrator", "mlflow", "optuna", "typer", "rich"},
    "orchestrator": {"torch", "torchvision", "timm", "open_clip", "safetensors"},
}
"""Below a package: what it must not import. The direction is search_spaces <- trainables <- orchestrator."""

ONLY_IN = {
    "mlflow": ("orchestrator/tracking/mlflow_tracker.py", "orchestrator/tracking/mlflow_client.py"),
    "ray": (
        "trainables/worker.py",
        "orchestrator/execution/cluster.py",
        "orchestrator/execution/worker_deaths.py",
        "orchestrator/execution/executors.py",
        "orchestrator/execution/tune_reports.py",
        "orchestrator/execution/tune_searcher.py",
        "orchestrator/execution/tune_run.py",
    ),
    "typer": ("orchestrator/cli/",),
    "optuna": (
        "search_spaces/spaces.py",
        "orchestrator/search/domainbed_random.py",
        "orchestrator/search/cmaes.py",
        "orchestrator/execution/tune_searcher.py",
        "orchestrator/search/sampling.py",
    ),
}
"""Engines stay at the edge: the few files (or folders) that may import each."""

LIGHT = (
    "search_spaces.sweeps",
    "search_spaces.claims",
    "trainables.jobs",
    "trainables.record",
    "trainables.data.open",
    "trainables.data.sample",
    "trainables.data.splits",
    "trainables.fingerprints",
    "orchestrator.store.store",
    "orchestrator.budgets.budget",
    "orchestrator.budgets.remaining_need",
    "orchestrator.scheduler.control",
    "orchestrator.inspection.explain",
    "orchestrator.inspection.export",
    "orchestrator.inspection.logs",
    "orchestrator.inspection.fold_names",
    "orchestrator.store.remembered",
    "orchestrator.budgets.limits",
    "orchestrator.plan.plan",
    "orchestrator.budgets.plan_forecast",
    "orchestrator.inspection.teacher_usage",
    "orchestrator.plan.query_bounds",
    "orchestrator.inspection.status",
    "orchestrator.report.report",
    "orchestrator.report.formats",
    "orchestrator.tracking.mlflow_tracker",
    "orchestrator.doctor",
    "orchestrator.budgets.time_budget",
    "orchestrator.inspection.failure_summary",
    "orchestrator.tracking.mlflow_ui",
    "orchestrator.store.usage",
    "orchestrator.cli",
)
"""Modules that load neither torch nor ray nor mlflow (nor, for a search space, optuna)."""


def sources(package: str) -> list[Path]:
    found = sorted((REPOSITORY / package).rglob("*.py"))
    assert found, package
    return found


def imported(path: Path) -> Iterator[str]:
    """Top-level names that a file imports anywhere, inside functions and `if TYPE_CHECKING` too."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield (node.module or "").split(".")[0]


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_one_way(package: str) -> None:
    wrong = {
        f"{path.relative_to(REPOSITORY)} imports {name}"
        for path in sources(package)
        for name in imported(path)
        if name in FORBIDDEN[package]
    }
    assert not wrong


def imported_modules(path: Path, known: Collection[str]) -> set[str]:
    """Our own modules that a file imports when it runs, inside functions too; what only types need is left out."""
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text(), str(path))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom):
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        waiting.extend(ast.iter_child_nodes(node))
    return found & set(known)


def test_no_two_files_import_each_other() -> None:
    files = {
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts): path
        for package in PACKAGES
        for path in sources(package)
    }
    graph = {name: imported_modules(path, files) for name, path in files.items()}
    # `CycleError` names the files.
    tuple(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("engine", ONLY_IN)
def test_an_engine_stays_in_its_files(engine: str) -> None:
    users = {
        str(path.relative_to(REPOSITORY))
        for package in PACKAGES
        for path in sources(package)
        if engine in set(imported(path))
    }
    assert users, f"nobody imports {engine}: the rule is out of date"
    assert not {user for user in users if not user.startswith(ONLY_IN[engine])}


def test_the_reader_of_imports_sees_nested_ones(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text("def f():\n    from ray.tune import Tuner\n    import torch.nn as nn\n")
    assert list(imported(file)) == ["ray", "torch"]


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_load_no_engine(module: str) -> None:
    program = (
        f"import sys, {module}\n"
        "print(*sorted({'torch', 'ray', 'mlflow', 'optuna', 'timm', 'open_clip'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=REPOSITORY, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""
