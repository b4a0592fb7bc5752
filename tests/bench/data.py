"""Measure the data path: `python -m tests.bench.data [--images N] [--rounds N] [--files N] [--scratch DIR] [--json]`.

1. Images per second, and CPU time per image, of reading, decoding and augmenting with two loader processes: a plain
   torchvision `ImageFolder` + `DataLoader`, our folder, our pack of the files as stored, our pack of raw pixels. The
   four take turns in every round, and a ratio to the plain one is of the same round. All four start their loader
   processes the same way (a fork server), fetch two batches ahead in each, and keep no decoded images; what they do
   before the last batch of the warm-up is not measured.
2. Memory of two workers that share one pack.
3. Seconds and peak memory of indexing, verifying and packing a DomainNet-sized look-alike of tiny files, and of
   opening its pack.

Each measurement is printed when it is made; with --json on stderr, and one JSON object at the end on stdout.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch.utils.data import ConcatDataset, DataLoader, RandomSampler
from torchvision import transforms
from torchvision.datasets import ImageFolder

from search_spaces.benchmarks import PACS
from tests.support.tiny_files import TASKS, write_tiny_files
from trainables.data.formats.images import ImageSource
from trainables.data.formats.open import open_benchmark
from trainables.data.formats.pack import PackSettings, write_pack
from trainables.data.loading.batches import BatchStream

BATCH_SIZE_PER_DOMAIN = 32
WARM_UP, MEASURED = 8, 40
STEPS = WARM_UP + MEASURED + 1
"""One more than is looked at: loader processes, whose time is counted, end with the last batch."""
PROCESSES = 2
PIPELINES = ("plain", "folder", "pack stored", "pack pixels")

Tell = Callable[[str], None]
"""Called with the line of a measurement."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """One pipeline in one round."""

    images_per_s: float
    cpu_ms_per_image: float
    """User and system time of this process and its loader processes, in milliseconds."""

    @classmethod
    def of(cls, batches: Iterator[Any]) -> Reading:
        """Measure the batches after the warm-up."""
        for _ in range(WARM_UP):
            next(batches)
        images = 0
        started, cpu = time.perf_counter(), cpu_seconds()
        for batch in islice(batches, MEASURED):
            images += len(batch.images if hasattr(batch, "images") else batch[0])
        return cls(
            images_per_s=images / (time.perf_counter() - started),
            cpu_ms_per_image=1000 * (cpu_seconds() - cpu) / images,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """Values of several rounds."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        return cls(median=median(values), lowest=min(values), highest=max(values))


def cpu_seconds() -> float:
    """User and system time so far of this process and of the loader processes that live (Linux).

    These are children of a fork server, so `getrusage` does not count them.
    """
    processes = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    ticks = 0
    for process in processes:
        # The second field is a name in brackets, which may hold spaces.
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


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
    sampler = RandomSampler(images, replacement=True, num_samples=size * STEPS)
    return iter(
        DataLoader(
            images,
            batch_size=size,
            sampler=sampler,
            num_workers=PROCESSES,
            persistent_workers=True,
            multiprocessing_context="forkserver",
        )
    )


def our_batches(source: ImageSource, image_size: int, steps: int = STEPS) -> Iterator[Any]:
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
        decode_cache_mb=0,
    )
    return iter(stream)


def bench_reading(
    scratch: Path, num_images: int, *, rounds: int, tell: Tell, image_size: int = 224
) -> dict[str, list[Reading]]:
    """Every pipeline in every round; rounds are interleaved so that a busy machine slows all alike."""
    root = write_photographs(scratch / "photographs", num_images)
    folder = open_benchmark(PACS, root)
    sources: dict[str, ImageSource] = {"folder": folder}
    for encoding in ("stored", "pixels"):
        place = scratch / encoding
        write_pack(folder, place / "PACS.pack", settings=PackSettings(encoding=encoding))
        sources[f"pack {encoding}"] = open_benchmark(PACS, place)
    readings: dict[str, list[Reading]] = {name: [] for name in PIPELINES}
    for number in range(1, rounds + 1):
        for name in PIPELINES:
            batches = plain_batches(root, image_size) if name == "plain" else our_batches(sources[name], image_size)
            reading = Reading.of(batches)
            # The loader processes end with their iterator.
            del batches
            readings[name].append(reading)
            tell(
                f"round {number}: {name:12s} {reading.images_per_s:7.0f} images/s, "
                f"{reading.cpu_ms_per_image:6.2f} ms of CPU per image"
            )
    return readings


def summary(readings: dict[str, list[Reading]]) -> dict[str, dict[str, Spread]]:
    """By pipeline: rate and CPU time, and both as ratios to the plain pipeline of the same round."""
    plain = readings["plain"]
    return {
        name: {
            "images_per_s": Spread.of([one.images_per_s for one in rounds]),
            "times_plain": Spread.of(
                [one.images_per_s / base.images_per_s for one, base in zip(rounds, plain, strict=True)]
            ),
            "cpu_ms_per_image": Spread.of([one.cpu_ms_per_image for one in rounds]),
            "cpu_of_plain": Spread.of(
                [one.cpu_ms_per_image / base.cpu_ms_per_image for one, base in zip(rounds, plain, strict=True)]
            ),
        }
        for name, rounds in readings.items()
    }


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


def bench_tiny_files(scratch: Path, num_files: int, tell: Tell = print) -> dict[str, dict[str, float]]:
    """Seconds and peak memory (MiB) of each task, each in a process of its own."""
    root = scratch / "tiny"
    write_tiny_files(root, num_files)
    found = {}
    for task in TASKS:
        command = [sys.executable, "-m", "tests.support.tiny_files", str(root), task]
        facts = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        found[task] = facts
        tell(f"{task:15s} {facts['seconds']:8.3f} s, peak {facts['peak_mb']:6.0f} MiB, {facts['images']:,} images")
    return found


def main() -> None:
    """Run the benchmarks and print them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000, help="photographs of the reading benchmark; 0 for none")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the reading benchmark")
    parser.add_argument("--files", type=int, default=600_000, help="tiny files of the DomainNet look-alike; 0 for none")
    parser.add_argument("--scratch", type=Path, default=None, help="folder for the files (default: a temporary one)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds is 1 or more")
    torch.set_num_threads(1)
    # Loader processes of all pipelines then start from the same memory, with torch in it.
    multiprocessing.set_forkserver_preload(["trainables.data.loading.batches"])
    stream = sys.stderr if arguments.json else sys.stdout

    def tell(line: str) -> None:
        print(line, file=stream, flush=True)

    if arguments.scratch is not None:
        arguments.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        scratch = Path(folder)
        result: dict[str, Any] = {}
        if arguments.images:
            result |= _of_photographs(scratch, arguments.images, arguments.rounds, tell)
        if arguments.files:
            result["tiny_files"] = bench_tiny_files(scratch, arguments.files, tell)
    if arguments.json:
        print(json.dumps(result, indent=1))


def _of_photographs(scratch: Path, num_images: int, rounds: int, tell: Tell) -> dict[str, Any]:
    readings = bench_reading(scratch, num_images, rounds=rounds, tell=tell)
    summed = summary(readings)
    for name, found in summed.items():
        rate, ratio, cpu, cpu_ratio = (
            found[fact] for fact in ("images_per_s", "times_plain", "cpu_ms_per_image", "cpu_of_plain")
        )
        tell(
            f"{name:12s} {rate.median:7.0f} images/s to 224 px, {PROCESSES} loader processes, median of {rounds} "
            f"rounds; {ratio.median:5.2f} x plain ({ratio.lowest:.2f} to {ratio.highest:.2f}); {cpu.median:6.2f} ms of "
            f"CPU per image, {cpu_ratio.median:5.2f} x plain ({cpu_ratio.lowest:.2f} to {cpu_ratio.highest:.2f})"
        )
    identical = identical_batches(scratch)
    tell(f"folder and packs give identical batches: {identical}")
    two_workers = {}
    for name in ("stored", "pixels"):
        two_workers[name] = sizes = bench_sharing(scratch / name)
        tell(
            f"two workers on one pack ({name}, {sizes['pack']:.0f} MiB): each grows by {sizes['resident']:.0f} MiB "
            f"resident, {sizes['own']:.0f} of it its own; {sizes['proportional']:.0f} with shared pages divided"
        )
    shutil.rmtree(scratch / "pixels")
    return {
        "rounds": {name: [asdict(one) for one in found] for name, found in readings.items()},
        "reading": {name: {fact: asdict(spread) for fact, spread in found.items()} for name, found in summed.items()},
        "identical_batches": identical,
        "two_workers_mb": two_workers,
    }


if __name__ == "__main__":
    main()
