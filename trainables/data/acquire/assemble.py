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
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from search_spaces.benchmarks import Benchmark
from search_spaces.errors import UserError
from trainables.data.acquire.archives import ArchiveError, is_disk_fault
from trainables.data.acquire.http_transport import Progress, quiet
from trainables.data.acquire.sources import Step
from trainables.data.formats.parquet import bounded_batches
from trainables.storage.json_files import read_json, write_json


class StepError(UserError):
    """A file is not as the step expects it: another copy may be better."""

    def __init__(self, file: str, message: str) -> None:
        super().__init__(message)
        self.file = file


@dataclass(frozen=True, kw_only=True, slots=True)
class Assembly:
    """What the steps of one route work on."""

    benchmark: Benchmark
    files: Mapping[str, Path]
    """Each fetched file, or the folder it was unpacked into, by name."""
    target: Path
    """The folder that the steps fill; beside it stands what is done."""
    max_bytes: int
    """What the images of one Parquet file may take."""
    stages: Progress = quiet
    """Told the images done and all there are."""


def run_step(step: Step, number: int, assembly: Assembly) -> None:
    """Run one step, unless it is noted as done.

    Raises `StepError` when a file is not as the step expects, whatever the step stumbles over; `UserError` when the
    disk is at fault.
    """
    target, benchmark = assembly.target, assembly.benchmark
    done_file = target.with_name("steps.json")
    advice = f"remove {target.parent} and run the same again"
    done: list[int] = (read_json(done_file, advice=advice) or {}).get("done", [])
    if number in done:
        return
    try:
        target.mkdir(parents=True, exist_ok=True)
        _STEPS[step.step](step, assembly)
        write_json(done_file, {"done": [*done, number]})
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and is_disk_fault(error):
            raise UserError(
                f"cannot assemble {benchmark.name} in {target}: {error.strerror or error}; what has arrived is kept"
            ) from None
        # Annotations, names and pictures are of any kind, and so are the errors of those who read them.
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise StepError(step.source, f"{step.source} cannot be read: {said}") from None


def _take(step: Step, assembly: Assembly) -> None:
    name, _, inside = step.source.partition("/")
    files, target = assembly.files, assembly.target
    folder = files[name] / inside
    if not folder.is_dir():
        found = ", ".join(sorted(entry.name for entry in files[name].iterdir())[:10])
        raise StepError(name, f"{name} has no folder {inside}; it has {found}")
    for entry in sorted(folder.iterdir()):
        # One rename each: after an interruption the rest is still there.
        if entry.is_dir():
            if (target / entry.name).exists():
                raise StepError(name, f"{name} has the folder {entry.name}, which another file gave already")
            entry.rename(target / entry.name)


def _remove_listed(step: Step, assembly: Assembly) -> None:
    target = assembly.target
    lines = assembly.files[step.source].read_text(encoding="utf-8", errors="replace").splitlines()
    listed = sorted({line.strip() for line in lines if line.strip()})
    for path in listed:
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise StepError(step.source, f"{step.source} names a path outside the benchmark: {path!r}")
    if step.count is not None and len(listed) != step.count:
        raise StepError(step.source, f"{step.source} lists {len(listed):,} images instead of {step.count:,}")
    begun = target.with_name("removing.json")
    present = (read_json(begun) or {}).get("present")
    if present is None:
        present = sum((target / path).is_file() for path in listed)
        if present not in (0, len(listed)):
            message = f"of the {len(listed):,} images in {step.source} only {present:,} are there to remove"
            raise StepError(step.source, message)
        write_json(begun, {"present": present})
    for path in listed:
        (target / path).unlink(missing_ok=True)


def _camera_traps(step: Step, assembly: Assembly) -> None:
    """Sort images into location_L/CATEGORY, as DomainBed does.

    Images and annotations of all annotation files are merged by id. An image goes into the folder of every category
    that one of its annotations names, once each: one with a cat and a dog stands in both, one with two cats once.
    Other locations and categories are left out.
    """
    files, benchmark = assembly.files, assembly.benchmark
    images, annotations, categories = _merged_annotations(files[step.annotations], step.annotations)
    pictures = {path.name: path for path in sorted(files[step.source].rglob("*")) if path.is_file()}
    wanted = {name.removeprefix("location_"): name for name in benchmark.domain_names}
    classes_of: dict[str, set[str]] = {}
    for image_id, category_id in annotations:
        if category_id not in categories:
            message = f"{step.annotations}: the image {image_id} has the category {category_id}, which has no name"
            raise StepError(step.annotations, message)
        classes_of.setdefault(image_id, set()).add(categories[category_id])
    missing = []
    for number, (image_id, (location, file_name)) in enumerate(sorted(images.items())):
        assembly.stages(f"assembling {benchmark.name}", number, len(images))
        if location not in wanted:
            continue
        for category in sorted(classes_of.get(image_id, set()) & set(benchmark.class_names)):
            name = PurePosixPath(file_name).name
            if name not in pictures:
                missing.append(name)
                continue
            _link(pictures[name], assembly.target / wanted[location] / category / name)
    if missing:
        some = ", ".join(missing[:5])
        raise StepError(step.source, f"{len(missing):,} annotated images are missing from {step.source}: {some}")


def _merged_annotations(
    folder: Path, archive: str
) -> tuple[dict[str, tuple[str, str]], set[tuple[str, int]], dict[int, str]]:
    """Images (id -> location, file name), annotations (image id, category id) and categories of all JSON files."""
    images: dict[str, tuple[str, str]] = {}
    annotations: set[tuple[str, int]] = set()
    categories: dict[int, str] = {}
    found = sorted(path for path in folder.rglob("*.json") if not path.name.startswith("."))
    if not found:
        raise StepError(archive, f"there is no annotation file (.json) in {archive}")
    for file in found:
        try:
            content = json.loads(file.read_text())
            images |= {str(item["id"]): (str(item["location"]), str(item["file_name"])) for item in content["images"]}
            annotations |= {(str(item["image_id"]), int(item["category_id"])) for item in content["annotations"]}
            categories |= {int(item["id"]): str(item["name"]) for item in content["categories"]}
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise StepError(archive, f"{file.name} is no annotation file: {' '.join(str(error).split())}") from None
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


def _parquet(step: Step, assembly: Assembly) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    benchmark = assembly.benchmark
    try:
        with parquet.ParquetFile(assembly.files[step.source]) as table:
            names = table.schema_arrow.names
            absent = [name for name in ("image", "domain", "label") if name not in names]
            if absent:
                message = f"{step.source} lacks the column {', '.join(absent)}; it has {', '.join(names)}"
                raise StepError(step.source, message)
            value_names = {column: _value_names(table.schema_arrow, column) for column in ("label", "domain")}
            batches = bounded_batches(table, step.source, max_bytes=assembly.max_bytes)
            rows = (row for batch in batches for row in batch.to_pylist())
            for row_number, row in enumerate(rows):
                assembly.stages(f"assembling {benchmark.name}", row_number, table.metadata.num_rows)
                place, image = _placed(row, row_number, step, value_names, benchmark)
                _write_whole(assembly.target / place, image)
    except ArchiveError as error:
        raise StepError(step.source, str(error)) from None
    except (pa.ArrowException, UnicodeDecodeError) as error:
        kind = "is no Parquet file, or is damaged"
        raise StepError(step.source, f"{step.source} {kind}: {' '.join(str(error).split())}") from None


def _placed(
    row: Mapping[str, Any], number: int, step: Step, names: Mapping[str, dict[Any, str]], benchmark: Benchmark
) -> tuple[str, bytes]:
    """Where a row's image goes (DOMAIN/CLASS/file), and its bytes."""
    try:
        domain = _matching(names["domain"].get(row["domain"], row["domain"]), benchmark.domain_names)
        label = names["label"].get(row["label"], row["label"])
        if isinstance(label, int):
            # Not a number from behind, which -1 would be.
            label = dict(enumerate(benchmark.class_names))[label]
        class_name = _matching(label, benchmark.class_names)
        image = row["image"]["bytes"] if isinstance(row["image"], dict) else row["image"]
        if not isinstance(image, bytes):
            raise ValueError("there is no image in it")
        name = _file_name(row, image, f"{Path(step.source).stem}-{number:06d}")
    except (LookupError, TypeError, ValueError, OSError) as error:
        said = " ".join(str(error).split())
        raise StepError(step.source, f"row {number:,} of {step.source} is not as expected: {said}") from None
    return f"{domain}/{class_name}/{name}", image


def _value_names(schema: Any, column: str) -> dict[Any, str]:
    """Names of a column's numbers, where Hugging Face's own metadata gives them."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return dict(enumerate(features[column]["names"]))
    except (TypeError, KeyError, ValueError):
        return {}


def _matching(name: Any, known: tuple[str, ...]) -> str:
    def loose(text: str) -> str:
        return "".join(letter for letter in text.lower() if letter.isalnum())

    for candidate in known:
        if loose(candidate) == loose(str(name)):
            return candidate
    raise ValueError(f"{name!r} is none of {', '.join(known[:10])}")


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


_STEPS: dict[str, Callable[[Step, Assembly], None]] = {
    "take": _take,
    "parquet": _parquet,
    "camera_traps": _camera_traps,
    "remove_listed": _remove_listed,
}
