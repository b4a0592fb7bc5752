"""Where the golden data lies: `VL2V_GOLDEN`, by default the folder beside the project."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def golden_path(name: str) -> Path:
    """Path of one golden file; skips the test, with the reason, where it is missing."""
    folder = Path(os.environ.get("VL2V_GOLDEN", "../shared/golden"))
    path = (folder if folder.is_absolute() else REPOSITORY / folder) / name
    if not path.exists():
        pytest.skip(f"no golden data: {path} is missing (VL2V_GOLDEN names the folder)")
    return path


def golden_json(name: str) -> Any:
    """Content of one golden JSON file."""
    return json.loads(golden_path(name).read_text())


def golden_lines(name: str) -> list[dict[str, Any]]:
    """Objects of one golden gzipped JSON-lines file, in file order."""
    with gzip.open(golden_path(name), "rt") as file:
        return [json.loads(line) for line in file]
