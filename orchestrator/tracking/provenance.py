"""What surrounds a sweep and is worth remembering: git state and environment, without secrets."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

RECORDED_PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "open_clip_torch",
    "safetensors",
    "numpy",
    "pillow",
    "pyarrow",
    "ray",
    "optuna",
    "mlflow",
    "vl2v-orchestrate",
)
"""Packages whose version can change a number."""


def environment() -> dict[str, Any]:
    """Versions and machine facts that can change a number; no environment variable is read."""
    packages = {}
    for name in RECORDED_PACKAGES:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            packages[name] = "not installed"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "byte_order": sys.byteorder,
        "packages": packages,
    }


def git_state(folder: Path | None = None) -> dict[str, Any]:
    """Commit, branch and changed files of the checkout that this code runs from; no remote address, no diff."""
    folder = Path(__file__).resolve().parents[2] if folder is None else folder
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return {"commit": None, "note": "not run from a git checkout with a commit"}
    changed = (_git(folder, "status", "--porcelain") or "").splitlines()
    return {
        "commit": commit,
        "branch": _git(folder, "rev-parse", "--abbrev-ref", "HEAD"),
        "dirty": bool(changed),
        "changed_files": changed,
    }


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.rstrip("\n") if done.returncode == 0 else None
