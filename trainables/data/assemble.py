"""From fetched files to DomainBed's folders. Each step may be interrupted anywhere and run again.

take           move the domain folders out of an unpacked archive
parquet        write the images of a Hugging Face Parquet file as DOMAIN/CLASS/file
camera_traps   TerraIncognita: sort the camera traps' images by location and category
remove_listed  delete the images that a list names (DomainNet's duplicates), and check how many there were
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from search_spaces.benchmarks import Benchmark
from search_spaces.errors import UserError
from trainables.data.parquet import bounded_batches
from trainables.data.sources import Step, read_sources
from trainables.record import read_json, write_json


def run_step(step: Step, number: int, files: Mapping[str, Path], target: Path, benchmark: Benchmark) -> None:
    """Run one step into the folder `target`; `files` gives each fetched file, or the folder it was unpacked into.

    Raises `UserError` when the files are not as the step expects. Progress is kept beside `target`.
    """
    done_file = target.with_name("steps.json")
    done: list[int] = (read_json(done_file) or {}).get("done", [])
    if number in done:
        return
    target.mkdir(parents=True, exist_ok=True)
    try:
        _STEPS[step.step](step, files, target, benchmark)
    except OSError as error:
        raise UserError(f"cannot assemble {benchmark.name}: {error.strerror or error}") from None
    write_json(done_file, {"done": [*done, number]})


def _take(step: Step, files: Mapping[str, Path], target: Path, benchmark: Benchmark) -> None:
    name, _, inside = step.source.partition("/")
    folder = files[name] / inside
    if not folder.is_dir():
        found = ", ".join(sorted(entry.name for entry in files[name].iterdir())[:10])
        raise UserError(f"{name} has no folder {inside}; it has {found}")
    for entry in sorted(folder.iterdir()):
        # One rename each: after an interruption the rest is still there.
        if entry.is_dir():
            entry.rename(target / entry.name)


def _remove_listed(step: Step, files: Mapping[str, Path], target: Path, benchmark: Benchmark) -> None:
    lines = files[step.source].read_text(encoding="utf-8", errors="replace").splitlines()
    listed = sorted({line.strip() for line in lines if line.strip()})
    for path in listed:
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise UserError(f"{step.source} names a path outside the benchmark: {path!r}")
    if step.count is not None and len(listed) != step.count:
        raise UserError(f"{step.source} lists {len(listed):,} images instead of {step.count:,}")
    begun = target.with_name("removing.json")
    present = (read_json(begun) or {}).get("present")
    if present is None:
        present = sum((target / path).is_file() for path in listed)
        if present not in (0, len(listed)):
            raise UserError(f"of the {len(listed):,} images in {step.source} only {present:,} are there to remove")
        write_json(begun, {"present": present})
    for path in listed:
        (target / path).unlink(missing_ok=True)


def _camera_traps(step: Step, files: Mapping[str, Path], target: Path, benchmark: Benchmark) -> None:
    """Sort images into location_L/CATEGORY, as DomainBed does.

    Images and annotations of all annotation files are merged by id. An image goes into the folder of every category
    that one of its annotations names, once each: one with a cat and a dog stands in both, one with two cats once.
    Other locations and categories are left out.
    """
    images, annotations, categories = _merged_annotations(files[step.annotations])
    pictures = {path.name: path for path in sorted(files[step.source].rglob("*")) if path.is_file()}
    wanted = {name.removeprefix("location_"): name for name in benchmark.domain_names}
    classes_of: dict[str, set[str]] = {}
    for image_id, category_id in annotations:
        classes_of.setdefault(image_id, set()).add(categories[category_id])
    missing = []
    for image_id, (location, file_name) in sorted(images.items()):
        if location not in wanted:
            continue
        for category in sorted(classes_of.get(image_id, set()) & set(benchmark.class_names)):
            name = PurePosixPath(file_name).name
            if name not in pictures:
                missing.append(name)
                continue
            _link(pictures[name], target / wanted[location] / category / name)
    if missing:
        some = ", ".join(missing[:5])
        raise UserError(f"{len(missing):,} annotated images are missing from {step.source}: {some}")


def _merged_annotations(folder: Path) -> tuple[dict[str, tuple[str, str]], set[tuple[str, int]], dict[int, str]]:
    """Images (id -> location, file name), annotations (image id, category id) and categories of all JSON files."""
    images: dict[str, tuple[str, str]] = {}
    annotations: set[tuple[str, int]] = set()
    categories: dict[int, str] = {}
    found = sorted(path for path in folder.rglob("*.json") if not path.name.startswith("."))
    if not found:
        raise UserError(f"there is no annotation file (.json) in {folder.name}")
    for file in found:
        try:
            content = json.loads(file.read_text())
            images |= {str(item["id"]): (str(item["location"]), item["file_name"]) for item in content["images"]}
            annotations |= {(str(item["image_id"]), int(item["category_id"])) for item in content["annotations"]}
            categories |= {int(item["id"]): item["name"] for item in content["categories"]}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file.name} is no annotation file: {' '.join(str(error).split())}") from None
    return images, annotations, categories


def _link(source: Path, destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    if destination.exists():
        return
    try:
        os.link(source, destination)
    except OSError:
        aside = destination.with_name(f".{destination.name}.part")
        shutil.copyfile(source, aside)
        aside.rename(destination)


def _parquet(step: Step, files: Mapping[str, Path], target: Path, benchmark: Benchmark) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        table = parquet.ParquetFile(files[step.source])
    except pa.ArrowInvalid as error:
        raise UserError(f"{step.source} is no Parquet file: {' '.join(str(error).split())}") from None
    names = table.schema_arrow.names
    absent = [name for name in ("image", "domain", "label") if name not in names]
    if absent:
        raise UserError(f"{step.source} lacks the column {', '.join(absent)}; it has {', '.join(names)}")
    classes, domains = (_value_names(table.schema_arrow, column) for column in ("label", "domain"))
    row_number = 0
    known = read_sources().get(benchmark.name)
    max_bytes = 2 * known.unpacked_bytes if known is not None else shutil.disk_usage(target).free
    for batch in bounded_batches(table, step.source, max_bytes=max_bytes):
        for row in batch.to_pylist():
            domain = _matching(domains.get(row["domain"], row["domain"]), benchmark.domain_names, "domain")
            label = classes.get(row["label"], row["label"])
            label = benchmark.class_names[label] if isinstance(label, int) else label
            class_name = _matching(label, benchmark.class_names, "class")
            image = row["image"]["bytes"] if isinstance(row["image"], dict) else row["image"]
            name = _file_name(row, image, f"{Path(step.source).stem}-{row_number:06d}")
            _write_whole(target / domain / class_name / name, image)
            row_number += 1


def _value_names(schema: Any, column: str) -> dict[Any, str]:
    """Names of a column's numbers, where Hugging Face's own metadata gives them."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return dict(enumerate(features[column]["names"]))
    except (TypeError, KeyError, ValueError):
        return {}


def _matching(name: Any, known: tuple[str, ...], kind: str) -> str:
    def loose(text: str) -> str:
        return "".join(letter for letter in text.lower() if letter.isalnum())

    for candidate in known:
        if loose(candidate) == loose(str(name)):
            return candidate
    raise UserError(f"the Parquet file has the {kind} {name!r}; known: {', '.join(known[:10])}")


def _file_name(row: Mapping[str, Any], image: bytes, fallback: str) -> str:
    """The original file name where the row has it, else one from file and row number."""
    given = row.get("image_path") or (row["image"].get("path") if isinstance(row["image"], dict) else None)
    name = PurePosixPath(given).name if given else ""
    if name and not name.startswith("."):
        return name
    with Image.open(io.BytesIO(image)) as opened:
        return f"{fallback}.{(opened.format or 'jpeg').lower()}"


def _write_whole(place: Path, data: bytes) -> None:
    if place.exists() and place.stat().st_size == len(data):
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    aside = place.with_name(f".{place.name}.part")
    aside.write_bytes(data)
    aside.replace(place)


_STEPS: dict[str, Callable[[Step, Mapping[str, Path], Path, Benchmark], None]] = {
    "take": _take,
    "parquet": _parquet,
    "camera_traps": _camera_traps,
    "remove_listed": _remove_listed,
}
