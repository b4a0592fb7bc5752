"""Indexing, verifying, packing and fetching load neither torch nor an engine."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.repository import REPOSITORY

LIGHT = [
    "archives",
    "assemble",
    "choices",
    "fetch",
    "folder",
    "http_transport",
    "images",
    "manifest",
    "open",
    "pack",
    "packed",
    "parquet",
    "sample",
    "sources",
    "splits",
    "transports",
    "variants",
    "verify",
]


@pytest.mark.parametrize("heavy", ["torch", "ray", "mlflow", "gdown", "huggingface_hub", "httpx", "pyarrow"])
def test_light_modules_stay_light(heavy: str) -> None:
    imports = "; ".join(f"import trainables.data.{name}" for name in LIGHT)
    code = f"{imports}; import sys; sys.exit({heavy!r} in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)
