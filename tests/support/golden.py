"""The golden data in tests/golden: what the reference implementation computes. A missing file fails the test."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "golden"


def golden_path(name: str) -> Path:
    """Path of one golden file."""
    return FOLDER / name


def golden_json(name: str) -> Any:
    """Content of one golden JSON file."""
    return json.loads(golden_path(name).read_text())


def golden_lines(name: str) -> list[dict[str, Any]]:
    """Objects of one golden gzipped JSON-lines file, in file order."""
    with gzip.open(golden_path(name), "rt") as file:
        return [json.loads(line) for line in file]
