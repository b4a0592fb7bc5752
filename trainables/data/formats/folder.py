"""A benchmark in DomainBed's folder layout: ROOT/FOLDER/DOMAIN/CLASS/image, in torchvision ImageFolder's order.

Ignored: hidden files and folders (`.DS_Store`, `.ipynb_checkpoints`), folders that systems leave (`LEFT_BY_SYSTEMS`:
an unpacked archive's `__MACOSX`, a NAS's thumbnails), and plain files beside the domain or class
folders (split lists, licences). A folder beside the domains that is no domain is an error that names it. Files in class
folders whose ending is no image's are left out, as ImageFolder does; `verify` lists them.

Deviation: a link that leads back to a folder it stands in is not followed; ImageFolder goes round until the system
stops it, and takes every image dozens of times. `verify` lists such links.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from search_spaces.benchmarks import Benchmark
from search_spaces.errors import UserError, unknown_name
from trainables.data.formats.images import Indices, Role, decode, is_image_name, is_other_picture
from trainables.data.formats.manifest import ManifestRow, ScannedFile, is_utf8, manifest_hash, scan, shown

LEFT_BY_SYSTEMS = frozenset(
    {"__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
)
"""Folders beside or below a user's own: of macOS's archives, of Synology and QNAP, of Windows, of ext4."""


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
    """Names of the folders inside in byte order, without hidden ones and links back; may raise `UserError`."""
    names = _folders(folder)[0]
    for name in names:
        if not is_utf8(name):
            raise UserError(f"{folder} has the folder {shown(name)}, whose name is not UTF-8; rename it")
    return names


def is_left_by_system(name: str) -> bool:
    """Whether a folder is hidden, or left by a system or a program: no domain and no class."""
    return name.startswith(".") or name in LEFT_BY_SYSTEMS


def links_back(folder: Path) -> list[str]:
    """Names of the links inside that lead to the folder itself or above it: they are no domains and no classes."""
    return _folders(folder)[1]


def _folders(folder: Path) -> tuple[list[str], list[str]]:
    names: dict[bool, list[str]] = {False: [], True: []}
    passed = [os.path.realpath(folder)]
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if _is_folder(entry) and not is_left_by_system(entry.name):
                    names[_leads_back(entry, passed)].append(entry.name)
    except OSError as error:
        raise _cannot_read(folder, error) from None
    return sorted(names[False], key=os.fsencode), sorted(names[True], key=os.fsencode)


def name_twins(names: Iterable[str]) -> list[tuple[str, str]]:
    """`Photo and photo` with `case`: names that would be one folder on some disks, and what they differ in."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(unicodedata.normalize("NFC", name).casefold(), []).append(name)
    return [
        (" and ".join(map(in_form, group)), "case" if len(set(map(str.casefold, group))) == 1 else "Unicode form")
        for group in alike.values()
        if len(group) > 1
    ]


def in_form(name: str) -> str:
    """A name with its Unicode form behind it, where it has one: names that look the same may be spelt differently."""
    forms = [form for form in ("NFC", "NFD") if unicodedata.is_normalized(form, name)]
    return name if len(forms) == 2 else f"{name} ({forms[0] if forms else 'neither NFC nor NFD'})"


def _same_to_the_eye(found: Iterable[str], expected: Iterable[str]) -> list[str]:
    """`é (NFD) instead of é (NFC)` for each name that is there in another Unicode form."""
    composed = {unicodedata.normalize("NFC", name): name for name in found}
    pairs = [(composed.get(unicodedata.normalize("NFC", name)), name) for name in expected]
    return [f"{in_form(there)} instead of {in_form(name)}" for there, name in pairs if there not in (None, name)]


def _cannot_read(folder: str | Path, error: OSError) -> UserError:
    return UserError(f"cannot read the folder {folder}: {error.strerror or error}")


def check_domain_folders(folder: Path, benchmark: Benchmark) -> None:
    """Raise `UserError` unless the folders inside are the benchmark's domains, no more and no less."""
    found = subfolders(folder)
    missing = [name for name in benchmark.domain_names if name not in found]
    stray = [name for name in found if name not in benchmark.domain_names]
    expected = f"{benchmark.name} has the domains {', '.join(benchmark.domain_names)}"
    if twins := _same_to_the_eye(stray, missing):
        raise UserError(f"{folder} has the domain folder {_first(twins)}: the same letters spelt otherwise; rename it")
    if missing:
        where = f"looked in {folder}, found {', '.join(found) or 'no folder'}"
        raise UserError(f"{benchmark.name} lacks the domain folder {', '.join(missing)}; {expected}; {where}")
    if stray:
        raise UserError(
            f"{folder} has the folder {', '.join(stray)}, which is no domain; {expected}; move it elsewhere (plain "
            "files and hidden folders may stay)"
        )
    for names, how in name_twins(found):
        raise UserError(f"{folder} has the domain folders {names}, which differ only in {how}; keep one of them")


def check_class_folders(folder: Path, benchmark: Benchmark) -> tuple[str, ...]:
    """Return the class names; raise `UserError` where a domain's class folders differ from what they should be."""
    classes = {name: subfolders(folder / name) for name in benchmark.domain_names}
    expected = list(benchmark.class_names)
    reference = f"{benchmark.name}'s classes"
    if not expected:
        first = benchmark.domain_names[0]
        expected, reference = classes[first], f"the domain {first}"
    for names, how in name_twins(expected):
        raise UserError(f"{benchmark.name} has the classes {names}, which differ only in {how}; keep one of them")
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
    if twins := _same_to_the_eye(extra, missing):
        return f"the same letters spelt otherwise: {_first(twins)}; rename them"
    parts = [f"lacks {_first(missing)}"] if missing else []
    parts += [f"has {_first(extra)} as well"] if extra else []
    return "; ".join(parts)


def _first(names: list[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def index_domain(folder: Path, domain: str, class_names: Sequence[str]) -> DomainIndex:
    """List a domain's images in ImageFolder's order; raises `UserError` when a class has none."""
    listings = {name: list_class(folder, f"{domain}/{name}") for name in class_names}
    empty = [name for name, listing in listings.items() if not listing.images]
    if empty:
        pictures = [path for name in empty for path in listings[name].left_out if is_other_picture(path)]
        other = f"; left out because of the ending: {_first(pictures)}" if pictures else ""
        raise UserError(f"{folder / domain} has no image in the class folder {_first(empty)}{other}")
    counts = [len(listing.images) for listing in listings.values()]
    labels = np.repeat(np.arange(len(class_names), dtype=np.int64), counts)
    paths = tuple(path for listing in listings.values() for path in listing.images)
    return DomainIndex(paths=paths, labels=labels)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassListing:
    """What is in a class folder; paths are relative to the benchmark's folder."""

    images: tuple[str, ...]
    """In ImageFolder's order."""
    left_out: tuple[str, ...] = ()
    """Files that are not hidden, and no images by their ending."""
    links_back: tuple[str, ...] = ()
    """Links to a folder that they stand in, which are not followed."""


def list_class(folder: Path, relative: str) -> ClassListing:
    """List a class folder `DOMAIN/CLASS`; raises `UserError` where a folder cannot be read."""
    # torchvision.datasets.folder.make_dataset: sorted(os.walk(..., followlinks=True)), then sorted file names.
    files: dict[str, list[str]] = {}
    links: list[str] = []
    place = f"{folder}/{relative}"
    # Each folder with all that were passed on the way to it, links resolved.
    waiting = [(relative, [os.path.realpath(above) for above in (folder, os.path.dirname(place), place)])]
    while waiting:
        below, passed = waiting.pop()
        files[below] = []
        try:
            with os.scandir(f"{folder}/{below}") as entries:
                for entry in (entry for entry in entries if not entry.name.startswith(".")):
                    if entry.name in LEFT_BY_SYSTEMS:
                        continue
                    if not _is_folder(entry):
                        files[below].append(entry.name)
                    elif _leads_back(entry, passed):
                        links.append(f"{below}/{entry.name}")
                    else:
                        waiting.append((f"{below}/{entry.name}", [*passed, os.path.realpath(entry.path)]))
        except OSError as error:
            raise _cannot_read(error.filename or place, error) from None
    paths = [f"{below}/{name}" for below in sorted(files) for name in sorted(files[below])]
    images = tuple(filter(is_image_name, paths))
    left_out = tuple(path for path in paths if not is_image_name(path))
    return ClassListing(images=images, left_out=left_out, links_back=tuple(sorted(links)))


def _leads_back(entry: os.DirEntry[str], passed: Sequence[str]) -> bool:
    """Whether a folder is a link to a folder passed on the way to it (links resolved), or above one."""
    if not entry.is_symlink():
        return False
    target = os.path.join(os.path.realpath(entry.path), "")
    return any(f"{place}/".startswith(target) for place in passed)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link to itself is none; where an image was expected, reading it says so.
        return False


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
