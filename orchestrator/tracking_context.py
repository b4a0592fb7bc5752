"""What surrounds a sweep and is worth remembering: git state and environment; and what must not be: secrets."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
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

_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_?KEY", re.IGNORECASE)
_USER_INFO = re.compile(r"(?<=://)[^/\s@]+(?=@)")
_SHORTEST_SECRET = 6
_REDACTED = "***"


def redact(text: str, environment: Mapping[str, str] | None = None) -> str:
    """Replace credentials inside addresses, and values of environment variables that are named like a secret.

    >>> redact("postgresql://me:pw@host/db", {})
    'postgresql://***@host/db'
    """
    environment = os.environ if environment is None else environment
    for name, value in environment.items():
        if _SECRET_NAME.search(name) and len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, _REDACTED)
    return _USER_INFO.sub(_REDACTED, text)


def redacted(value: Any) -> Any:
    """Redact every text inside nested plain values."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {redact(str(key)): redacted(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item) for item in value]
    return value


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
    folder = Path(__file__).resolve().parent.parent if folder is None else folder
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
