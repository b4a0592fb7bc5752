"""Measure the data path: `python -m tests.bench.data [--images N] [--files N] [--scratch DIR] [--json]`.

1. Images per second of reading, decoding and augmenting with two loader processes, in one run: a plain torchvision
   `ImageFolder` + `DataLoader`, our folder, our pack of the files as stored, our pack of raw pixels.
2. Memory of two workers that share one pack.
3. Seconds and peak memory of indexing, verifying and packing a DomainNet-sized look-alike of tiny files, and of
   opening its pack.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch.utils.data import ConcatDataset, DataLoader, RandomSampler
from torchvision import transforms
from torchvision.datasets import ImageFolder

from search_spaces.benchmarks import PACS
from tests.trainables.data.tiny_files import TASKS, write_tiny_files
from trainables.data.batches import BatchStream
from trainables.data.images import ImageSource
from trainables.data.open import open_benchmark
from trainables.data.pack import PackSettings, pack

BATCH_SIZE_PER_DOMAIN = 32
WARM_UP, MEASURED = 8, 40
PROCESSES = 2


def write_photographs(root: Path, num_images: int, side: int = 227) -> Path:
    """A PACS look-alike of JPEGs of PACS's size; contents repeat, files are all different (trailing bytes)."""
    generator = np.random.RandomState(0)
    pictures = []
    for _ in range(64):
        noise = Image.fromarray(generator.randint(0, 256, (14, 14, 3), dtype=np.uint8)).resize((side, side))
        grain = Image.fromarray(generator.randint(0, 60, (side, side, 3), dtype=np.uint8))
        stream = io.BytesIO()
        Image.blend(noise, grain.filter(ImageFilter.SMOOTH), 0.25).save(stream, "JPEG", quality=90)
        pictures.append(stream.getvalue())
    places = [(domain, name) for domain in PACS.domain_names for name in PACS.class_names]
    for domain, name in places:
        (root / "PACS" / domain / name).mkdir(parents=True)
    for number in range(num_images):
        domain, name = places[number % len(places)]
        file = root / "PACS" / domain / name / f"{number:06d}.jpg"
        file.write_bytes(pictures[number % len(pictures)] + number.to_bytes(8, "big"))
    return root


def plain_batches(root: Path, image_size: int) -> Iterator[Any]:
    """What most public code does."""
    view = transforms.Compose(
        [
            transforms.RandomResizedCrop(image_size, scale=(0.7, 1.0)),
            transforms.RandomHorizontalFlip(),
            transforms.ColorJitter(0.3, 0.3, 0.3, 0.3),
            transforms.RandomGrayscale(),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    sources = [ImageFolder(str(root / "PACS" / name), view) for name in PACS.domain_names[1:]]
    images = ConcatDataset(sources)
    size = BATCH_SIZE_PER_DOMAIN * len(sources)
    sampler = RandomSampler(images, replacement=True, num_samples=size * (WARM_UP + MEASURED))
    return iter(DataLoader(images, batch_size=size, sampler=sampler, num_workers=PROCESSES, persistent_workers=True))


def our_batches(source: ImageSource, image_size: int, steps: int = WARM_UP + MEASURED) -> Iterator[Any]:
    """The batches of our training loop, from whatever source."""
    indices = {name: np.arange(len(source.labels(name))) for name in PACS.domain_names[1:]}
    stream = BatchStream(
        source,
        PACS,
        indices,
        batch_size_per_domain=BATCH_SIZE_PER_DOMAIN,
        image_size=image_size,
        seed=0,
        stage="align",
        num_steps=steps,
        loader_processes=PROCESSES,
    )
    return iter(stream)


def images_per_second(batches: Iterator[Any]) -> float:
    """Images per second after a warm-up, in this process and its loader processes together."""
    for _ in range(WARM_UP):
        next(batches)
    start, images = time.perf_counter(), 0
    for batch in batches:
        images += len(batch.images if hasattr(batch, "images") else batch[0])
    return images / (time.perf_counter() - start)


def bench_reading(scratch: Path, num_images: int, image_size: int = 224) -> dict[str, float]:
    """Images per second by way of reading, rounds interleaved so that a busy machine slows all alike."""
    root = write_photographs(scratch / "photographs", num_images)
    folder = open_benchmark(PACS, root)
    packs: dict[str, ImageSource] = {}
    for encoding in ("stored", "pixels"):
        place = scratch / encoding
        pack(folder, place / "PACS.pack", settings=PackSettings(encoding=encoding))  # type: ignore[arg-type]
        packs[encoding] = open_benchmark(PACS, place)
    rates: dict[str, list[float]] = {name: [] for name in ("plain", "folder", "pack stored", "pack pixels")}
    for _ in range(2):
        rates["plain"].append(images_per_second(plain_batches(root, image_size)))
        rates["folder"].append(images_per_second(our_batches(folder, image_size)))
        rates["pack stored"].append(images_per_second(our_batches(packs["stored"], image_size)))
        rates["pack pixels"].append(images_per_second(our_batches(packs["pixels"], image_size)))
    return {name: max(values) for name, values in rates.items()}


def identical_batches(scratch: Path, image_size: int = 224, steps: int = 5) -> bool:
    """Whether folder and packs give the same batches, bit for bit."""
    places = [scratch / "photographs", scratch / "stored", scratch / "pixels"]
    streams = [our_batches(open_benchmark(PACS, place), image_size, steps) for place in places]
    return all(
        torch.equal(first.images, other.images) and torch.equal(first.labels, other.labels)
        for first, *others in zip(*streams, strict=True)
        for other in others
    )


def memory_mb() -> dict[str, float]:
    """Resident memory of this process: all, its own, and its share when shared pages are divided (Linux)."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    sizes = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.endswith("kB")}
    own = sizes["Private_Clean"] + sizes["Private_Dirty"]
    return {"resident": sizes["Rss"], "proportional": sizes["Pss"], "own": own}


def _read_all(root: str, queue: Any, barrier: Any) -> None:
    source = open_benchmark(PACS, root)
    before = memory_mb()
    for domain in source.domain_names:
        for index in range(len(source.labels(domain))):
            source.read(domain, index)
    barrier.wait()
    after = memory_mb()
    barrier.wait()
    queue.put({name: after[name] - before[name] for name in after})


def bench_sharing(root: Path) -> dict[str, float]:
    """Growth in memory (MiB) of each of two processes that read a whole pack at the same time; the larger."""
    context = multiprocessing.get_context("spawn")
    queue, barrier = context.Queue(), context.Barrier(2)
    workers = [context.Process(target=_read_all, args=(str(root), queue, barrier)) for _ in range(2)]
    for worker in workers:
        worker.start()
    found = [queue.get(timeout=600) for _ in workers]
    for worker in workers:
        worker.join()
    pack_mb = sum(file.stat().st_size for file in (root / "PACS.pack").iterdir()) / 2**20
    return {"pack": pack_mb, **{name: max(item[name] for item in found) for name in found[0]}}


def bench_tiny_files(scratch: Path, num_files: int) -> dict[str, dict[str, float]]:
    """Seconds and peak memory (MiB) of each task, each in a process of its own."""
    root = scratch / "tiny"
    write_tiny_files(root, num_files)
    found = {}
    for task in TASKS:
        command = [sys.executable, "-m", "tests.trainables.data.tiny_files", str(root), task]
        found[task] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def main() -> None:
    """Run the benchmarks and print them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000, help="photographs of the reading benchmark; 0 for none")
    parser.add_argument("--files", type=int, default=600_000, help="tiny files of the DomainNet look-alike; 0 for none")
    parser.add_argument("--scratch", type=Path, default=None, help="folder for the files (default: a temporary one)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.scratch is not None:
        arguments.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        scratch = Path(folder)
        result: dict[str, Any] = {}
        if arguments.images:
            result["images_per_second"] = bench_reading(scratch, arguments.images)
            result["identical_batches"] = identical_batches(scratch)
            result["two_workers_mb"] = {name: bench_sharing(scratch / name) for name in ("stored", "pixels")}
            shutil.rmtree(scratch / "pixels")
        if arguments.files:
            result["tiny_files"] = bench_tiny_files(scratch, arguments.files)
    print(json.dumps(result, indent=1) if arguments.json else _text(result))


def _text(result: dict[str, Any]) -> str:
    lines = []
    for name, rate in result.get("images_per_second", {}).items():
        ratio = rate / result["images_per_second"]["plain"]
        lines.append(f"{name:12s} {rate:7.0f} images/s to 224 px, {PROCESSES} loader processes  {ratio:5.2f} x plain")
    if "identical_batches" in result:
        lines.append(f"folder and packs give identical batches: {result['identical_batches']}")
    for name, sizes in result.get("two_workers_mb", {}).items():
        lines.append(
            f"two workers on one pack ({name}, {sizes['pack']:.0f} MiB): each grows by {sizes['resident']:.0f} MiB "
            f"resident, {sizes['own']:.0f} of it its own; {sizes['proportional']:.0f} with shared pages divided"
        )
    for task, facts in result.get("tiny_files", {}).items():
        lines.append(
            f"{task:15s} {facts['seconds']:8.3f} s, peak {facts['peak_mb']:6.0f} MiB, {facts['images']:,} images"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
