"""A benchmark in DomainBed's folder layout: ROOT/FOLDER/DOMAIN/CLASS/image, in torchvision ImageFolder's order.

Ignored: hidden files and folders (`.DS_Store`, `.ipynb_checkpoints`), and plain files beside the domain or class
folders (split lists, licences). A folder beside the domains that is no domain is an error that names it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from search_spaces.benchmarks import Benchmark
from search_spaces.errors import UserError, unknown_name
from trainables.data.formats.images import Indices, Role, decode, is_image_name
from trainables.data.formats.manifest import ManifestRow, ScannedFile, is_utf8, manifest_hash, scan, shown


@dataclass(frozen=True, kw_only=True, slots=True)
class DomainIndex:
    """The images of one domain in ImageFolder's order."""

    paths: tuple[str, ...]
    """`DOMAIN/CLASS/file`, relative to the benchmark's folder."""
    labels: Indices
    """int64 [n]"""


class FolderSource:
    """The images of a benchmark's folder (see `ImageSource`); raises `UserError` for anything out of layout."""

    def __init__(self, folder: Path, benchmark: Benchmark, *, cache: Path | None = None) -> None:
        self.folder = folder
        self.cache = cache
        self._benchmark = benchmark
        check_domain_folders(folder, benchmark)
        self._class_names = check_class_folders(folder, benchmark)
        self._domains = {name: index_domain(folder, name, self._class_names) for name in benchmark.domain_names}

    @property
    def benchmark(self) -> str:
        return self._benchmark.name

    @property
    def domain_names(self) -> tuple[str, ...]:
        return self._benchmark.domain_names

    @property
    def class_names(self) -> tuple[str, ...]:
        return self._class_names

    @property
    def manifest(self) -> str:
        """SHA-256 of the manifest. The first call reads every image (or the cache)."""
        return manifest_hash(self.manifest_rows)

    @cached_property
    def scanned(self) -> list[ScannedFile]:
        """What a look at every file found, domain after domain."""
        return scan(self.folder, self._all_paths(), cache=self.cache)

    @property
    def manifest_rows(self) -> list[ManifestRow]:
        """One row for each image, domain after domain. Raises `UserError` where a file cannot be read at all."""
        names = self.class_names
        labels = [names[label] for name in self.domain_names for label in self._domains[name].labels]
        for path, item in zip(self._all_paths(), self.scanned, strict=True):
            if not item.is_read:
                raise UserError(f"cannot read image {self.benchmark}/{shown(path)}: {item.problem}")
        return [
            ManifestRow(path, item.size, item.sha256, class_name, path.partition("/")[0])
            for path, item, class_name in zip(self._all_paths(), self.scanned, labels, strict=True)
        ]

    def unreadable(self) -> list[str]:
        """`path: reason` of every image that cannot be decoded."""
        found = zip(self._all_paths(), self.scanned, strict=True)
        return [f"{shown(path)}: {item.problem}" for path, item in found if item.problem]

    def labels(self, domain: str) -> Indices:
        return self._domains[domain].labels

    def paths(self, domain: str) -> Sequence[str]:
        return self._domains[domain].paths

    def read(self, domain: str, index: int) -> Image.Image:
        return decode(self.encoded(domain, index), f"{self.benchmark}/{self._domains[domain].paths[index]}")

    def encoded(self, domain: str, index: int) -> bytes:
        """The image file as stored."""
        path = self._domains[domain].paths[index]
        try:
            return (self.folder / path).read_bytes()
        except OSError as error:
            raise UserError(f"cannot read image {self.benchmark}/{path}: {error.strerror or error}") from None

    def pool(self, domain: str, role: Role) -> Indices:
        return np.arange(len(self._domains[domain].paths), dtype=np.int64)

    def _all_paths(self) -> list[str]:
        return [path for name in self.domain_names for path in self._domains[name].paths]

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "scanned"}


def subfolders(folder: Path) -> list[str]:
    """Names of the folders inside, hidden ones left out, in byte order; raises `UserError` where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    except OSError as error:
        raise _cannot_read(folder, error) from None
    for name in names:
        if not is_utf8(name):
            raise UserError(f"{folder} has the folder {shown(name)}, whose name is not UTF-8; rename it")
    return sorted(names, key=os.fsencode)


def case_variants(names: Iterable[str]) -> list[str]:
    """`Photo and photo`: names that differ only in upper and lower case, and would be one folder on some disks."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(name.casefold(), []).append(name)
    return [" and ".join(group) for group in alike.values() if len(group) > 1]


def _cannot_read(folder: str | Path, error: OSError) -> UserError:
    return UserError(f"cannot read the folder {folder}: {error.strerror or error}")


def check_domain_folders(folder: Path, benchmark: Benchmark) -> None:
    """Raise `UserError` unless the folders inside are the benchmark's domains, no more and no less."""
    found = subfolders(folder)
    missing = [name for name in benchmark.domain_names if name not in found]
    stray = [name for name in found if name not in benchmark.domain_names]
    expected = f"{benchmark.name} has the domains {', '.join(benchmark.domain_names)}"
    if missing:
        where = f"looked in {folder}, found {', '.join(found) or 'no folder'}"
        raise UserError(f"{benchmark.name} lacks the domain folder {', '.join(missing)}; {expected}; {where}")
    if stray:
        raise UserError(
            f"{folder} has the folder {', '.join(stray)}, which is no domain; {expected}; move it elsewhere (plain "
            "files and hidden folders may stay)"
        )
    for names in case_variants(found):
        raise UserError(f"{folder} has the domain folders {names}, which differ only in case; keep one of them")


def check_class_folders(folder: Path, benchmark: Benchmark) -> tuple[str, ...]:
    """Return the class names; raise `UserError` where a domain's class folders differ from what they should be."""
    classes = {name: subfolders(folder / name) for name in benchmark.domain_names}
    expected = list(benchmark.class_names)
    reference = f"{benchmark.name}'s classes"
    if not expected:
        first = benchmark.domain_names[0]
        expected, reference = classes[first], f"the domain {first}"
    for names in case_variants(expected):
        raise UserError(f"{benchmark.name} has the classes {names}, which differ only in case; keep one of them")
    for name, found in classes.items():
        if not found:
            raise UserError(f"{folder / name} has no class folder; the layout is DOMAIN/CLASS/image")
        if found != expected:
            raise UserError(f"{benchmark.name}/{name} differs from {reference}: {_difference(found, expected)}")
    return tuple(expected)


def _difference(found: list[str], expected: list[str]) -> str:
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    by_case = {name.lower(): name for name in extra}
    case = [f"{by_case[name.lower()]} instead of {name}" for name in missing if name.lower() in by_case]
    if case and len(case) == len(missing) == len(extra):
        return f"other case: {_first(case)}"
    parts = [f"lacks {_first(missing)}"] if missing else []
    parts += [f"has {_first(extra)} as well"] if extra else []
    return "; ".join(parts)


def _first(names: list[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def index_domain(folder: Path, domain: str, class_names: Sequence[str]) -> DomainIndex:
    """List a domain's images in ImageFolder's order; raises `UserError` when a class has none."""
    per_class = [class_paths(folder, f"{domain}/{name}") for name in class_names]
    empty = [name for name, paths in zip(class_names, per_class, strict=True) if not paths]
    if empty:
        raise UserError(f"{folder / domain} has no image in the class folder {_first(empty)}")
    counts = [len(paths) for paths in per_class]
    labels = np.repeat(np.arange(len(class_names), dtype=np.int64), counts)
    return DomainIndex(paths=tuple(path for paths in per_class for path in paths), labels=labels)


def class_paths(folder: Path, relative: str) -> list[str]:
    """Images of a class folder `DOMAIN/CLASS` as paths relative to `folder`, in ImageFolder's order.

    Raises `UserError` where a folder cannot be read.
    """
    # torchvision.datasets.folder.make_dataset: sorted(os.walk(..., followlinks=True)), then sorted file names.
    root = os.path.join(folder, relative)
    try:
        with os.scandir(root) as entries:
            names = []
            for entry in entries:
                if entry.is_dir():
                    return _nested_class_paths(root, relative)
                names.append(entry.name)
    except OSError as error:
        raise _cannot_read(error.filename or root, error) from None
    return [f"{relative}/{name}" for name in sorted(filter(is_image_name, names))]


def _nested_class_paths(root: str, relative: str) -> list[str]:
    def stop(error: OSError) -> None:
        raise error

    paths = []
    for place, _, names in sorted(os.walk(root, onerror=stop, followlinks=True)):
        below = os.path.relpath(place, root)
        if any(part.startswith(".") and part != "." for part in below.split(os.sep)):
            continue
        prefix = relative if below == "." else f"{relative}/{below}"
        paths += [f"{prefix}/{name}" for name in sorted(filter(is_image_name, names))]
    return paths


def benchmark_folder(root: Path, benchmark: Benchmark) -> Path:
    """The benchmark's folder below a data root, or `UserError`: what was looked for, what was found, how to get it."""
    folder = root / benchmark.folder
    if folder.is_dir():
        return folder
    how = (
        f"'vl2v-orchestrate data fetch --benchmark {benchmark.name} --data-root DIR' downloads it, "
        "'vl2v-orchestrate data sample DIR' writes small look-alikes"
    )
    if not root.is_dir():
        raise UserError(f"the data root {root} is not a folder, so {benchmark.name} cannot be read from it; {how}")
    found = subfolders(root)
    inside = ", ".join(found[:10]) or "no folder"
    raise UserError(f"{benchmark.name} wants the folder {folder}; {root} has {inside}; {how}")


def unknown_folder(name: str, root: Path | None, allowed: Sequence[str]) -> UserError:
    """The error for a name that is neither a registered benchmark nor a folder below the data root."""
    below = [*subfolders(root)] if root is not None and root.is_dir() else []
    hint = "or folder:PATH of a folder in the layout DOMAIN/CLASS/image"
    return unknown_name("benchmark", name, [*allowed, *below], hint=hint)
