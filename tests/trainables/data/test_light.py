"""Indexing, verifying, packing and fetching load neither torch nor an engine."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.repository import REPOSITORY

LIGHT = [
    "acquire.archives",
    "acquire.assemble",
    "acquire.fetch",
    "acquire.http_transport",
    "acquire.sources",
    "acquire.transports",
    "formats.folder",
    "formats.images",
    "formats.manifest",
    "formats.open",
    "formats.pack",
    "formats.pack_reader",
    "formats.parquet",
    "formats.sample",
    "formats.variants",
    "formats.verify",
    "loading.splits",
    "loading.view_seeds",
]


@pytest.mark.parametrize("heavy", ["torch", "ray", "mlflow", "gdown", "huggingface_hub", "httpx", "pyarrow"])
def test_light_modules_stay_light(heavy: str) -> None:
    imports = "; ".join(f"import trainables.data.{name}" for name in LIGHT)
    code = f"{imports}; import sys; sys.exit({heavy!r} in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)
