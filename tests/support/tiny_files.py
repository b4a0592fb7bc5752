"""A DomainNet-sized look-alike of tiny files, and tasks on it that are measured, each in a process of its own."""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path

from search_spaces.benchmarks import BENCHMARKS
from trainables.data.formats.open import open_benchmark
from trainables.data.formats.pack import write_pack
from trainables.data.formats.verify import verify_benchmark

TASKS = ("index", "verify", "manifest again", "pack", "open pack")
BENCHMARK = BENCHMARKS["DomainNet"]


def write_tiny_files(root: Path, num_files: int) -> None:
    """DomainNet's layout with 2 x 2 pixel images, all different; at least one in each class of each domain (2,070)."""
    total = sum(domain.num_images or 0 for domain in BENCHMARK.domains)
    generator, number = random.Random(0), 0
    for domain in BENCHMARK.domains:
        count = round(num_files * (domain.num_images or 0) / total)
        for place, class_name in enumerate(BENCHMARK.class_names):
            folder = root / BENCHMARK.folder / domain.name / class_name
            folder.mkdir(parents=True)
            for index in range(max(1, count // 345 + (place < count % 345))):
                number += 1
                pixels = number.to_bytes(4, "big") + generator.randbytes(8)
                (folder / f"{domain.name}_{index:06d}.jpg").write_bytes(b"P6 2 2 255\n" + pixels)


def run_task(root: Path, task: str) -> tuple[float, int]:
    """One task; returns seconds and the number of images."""
    import pyarrow.parquet  # noqa: F401  # not to be measured

    start = time.perf_counter()
    if task == "verify":
        found = verify_benchmark(root / BENCHMARK.folder, BENCHMARK, cache=root / "cache")
        assert not found.errors, found.errors
        return time.perf_counter() - start, found.num_images
    source = open_benchmark(BENCHMARK, root / "packs" if task == "open pack" else root, cache=root / "cache")
    if task == "manifest again":
        assert source.manifest
    if task == "pack":
        write_pack(source, root / "packs" / f"{BENCHMARK.folder}.pack")
    count = sum(len(source.labels(domain)) for domain in source.domain_names)
    return time.perf_counter() - start, count


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, in MiB (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    seconds, images = run_task(Path(sys.argv[1]), sys.argv[2])
    print(json.dumps({"seconds": seconds, "peak_mb": peak_memory_mb(), "images": images}))
