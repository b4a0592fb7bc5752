"""The data benchmark runs, small: what it compares is the same, and what it measures is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from search_spaces.benchmarks import PACS
from tests.bench.data import bench_sharing, bench_tiny_files, identical_batches, write_photographs
from trainables.data.formats.open import open_benchmark
from trainables.data.formats.pack import PackSettings, write_pack

pytestmark = pytest.mark.slow


def test_folder_and_packs_of_photographs_are_identical_and_shared(tmp_path: Path) -> None:
    folder = open_benchmark(PACS, write_photographs(tmp_path / "photographs", 280))
    write_pack(folder, tmp_path / "stored" / "PACS.pack")
    write_pack(folder, tmp_path / "pixels" / "PACS.pack", settings=PackSettings(encoding="pixels"))
    assert identical_batches(tmp_path, image_size=32, steps=2)
    sizes = bench_sharing(tmp_path / "pixels")
    assert sizes["resident"] > 0.8 * sizes["pack"] > 30
    assert sizes["own"] < 0.3 * sizes["resident"], "the pages of the pack are shared"


def test_the_domain_net_look_alike_is_measured(tmp_path: Path) -> None:
    found = bench_tiny_files(tmp_path, 4200)
    assert {facts["images"] for facts in found.values()} == {4200}
    assert all(facts["seconds"] > 0 and facts["peak_mb"] > 10 for facts in found.values())
