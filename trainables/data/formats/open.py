"""Open a benchmark: the packaged icons, a pack, a folder in DomainBed's layout, or any folder given as `folder:PATH`.

Below a data root, `FOLDER.pack` goes before `FOLDER`: both give the same batches, and the pack is quicker. (A pack
whose images were re-encoded is never written beside the folder.)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from search_spaces.benchmarks import BENCHMARKS, Benchmark, Domain
from search_spaces.errors import UserError
from trainables.data.formats.folder import (
    FolderSource,
    benchmark_folder,
    check_class_folders,
    check_domain_folders,
    list_class,
    subfolders,
    unknown_folder,
)
from trainables.data.formats.images import ImageSource
from trainables.data.formats.pack import PACK_SUFFIX
from trainables.data.formats.pack_place import recover
from trainables.data.formats.pack_reader import PackSource, is_pack, read_description
from trainables.data.formats.parquet import ParquetSource
from trainables.data.loading.splits import LEAST_IMAGES, too_small

FOLDER_PREFIX = "folder:"
LISTED = 10
"""Unreadable images that an error names."""


def open_benchmark(
    benchmark: Benchmark, data_root: str | Path | None = None, *, cache: Path | None = None
) -> ImageSource:
    """Index a benchmark's images; `cache` is a folder that remembers what a scan of the files found.

    `data_root` is a folder, or a URI of object storage that holds packs. Raises `UserError` for a missing or stray
    domain folder, class folders that differ between domains, an empty class and fewer than two domains.
    """
    if len(benchmark.domains) < 2:
        raise UserError(
            f"{benchmark.name} has {len(benchmark.domains)} domain; leaving one out needs two or more, as folders "
            "DOMAIN/CLASS/image"
        )
    place = locate(benchmark, data_root)
    if place is None:
        if benchmark.name == "icons":
            return packaged_icons(benchmark)
        raise not_found(benchmark, data_root)
    if place.endswith(PACK_SUFFIX):
        return PackSource(place, benchmark)
    return FolderSource(Path(place), benchmark, cache=cache)


def check_place(benchmark: Benchmark, data_root: str | Path | None = None, *, needed: bool = True) -> None:
    """Look whether a benchmark lies where it is read from, and has enough images to split; indexes nothing.

    Args:
        benchmark: of a folder, each domain is looked into until it has enough images.
        data_root: as in `open_benchmark`.
        needed: False lets it lie nowhere.

    Raises:
        UserError: it lies nowhere, its folder is out of layout, or a domain is too small to split.
    """
    place = locate(benchmark, data_root)
    if place is None and benchmark.name != "icons" and needed:
        raise not_found(benchmark, data_root)
    if place is None or place.endswith(PACK_SUFFIX):
        return
    folder = Path(place)
    check_domain_folders(folder, benchmark)
    class_names = check_class_folders(folder, benchmark)
    for domain in benchmark.domain_names:
        count = 0
        for name in class_names:
            count += len(list_class(folder, f"{domain}/{name}").images)
            if count >= LEAST_IMAGES:
                break
        else:
            raise too_small(f"{benchmark.name}/{domain}", count)


def locate(benchmark: Benchmark, data_root: str | Path | None = None) -> str | None:
    """Where a benchmark lies below a data root: its pack, else its folder, else None.

    A pack that a killed overwrite had moved away is put back.
    """
    if data_root is not None and "://" in str(data_root):
        pack = f"{str(data_root).rstrip('/')}/{benchmark.folder}{PACK_SUFFIX}"
        return pack if is_pack(pack) else None
    if data_root is None and not os.path.isabs(benchmark.folder):
        return None
    folder = Path(data_root or "/").expanduser() / benchmark.folder
    packed = _pack_of(folder)
    if packed is not None:
        return str(packed)
    return str(folder) if folder.is_dir() else None


def packaged_icons(benchmark: Benchmark) -> ParquetSource:
    """The demo benchmark that the package brings."""
    from trainables.data.icons import ICONS_PARQUET

    return ParquetSource(ICONS_PARQUET, benchmark)


def resolve_benchmark(name: str, data_root: str | Path | None = None) -> Benchmark:
    """A registered benchmark (any case), `folder:PATH`, or a folder or pack below the data root.

    Raises `UserError` with the nearest names.
    """
    for known in BENCHMARKS.values():
        if known.name.lower() == name.lower():
            return known
    root = Path(data_root).expanduser() if data_root is not None else None
    is_below = root is not None and bool(name) and ((root / name).is_dir() or _pack_of(root / name) is not None)
    if name.startswith(FOLDER_PREFIX) or is_below:
        return benchmark_from_folder(name, data_root)
    raise unknown_folder(name, root, list(BENCHMARKS))


def benchmark_from_folder(path_or_name: str, data_root: str | Path | None = None) -> Benchmark:
    """Describe a folder in the layout DOMAIN/CLASS/image, or its pack, as a benchmark; its name is the folder's.

    `path_or_name` is a path (with or without `folder:`) or the name of a folder below the data root. Steps, interval
    and image size are the defaults of the headline benchmarks. Raises `UserError` when it is not such a folder.
    """
    text = path_or_name.removeprefix(FOLDER_PREFIX).removesuffix(PACK_SUFFIX)
    given = Path(text).expanduser().absolute()
    places = [given] if data_root is None else [Path(data_root).expanduser().absolute() / text, given]
    for folder in places if text else []:
        pack = _pack_of(folder)
        if pack is not None:
            description = read_description(pack)
            return _benchmark(folder, list(description["domains"]), description["class_names"])
        if folder.is_dir():
            domains = subfolders(folder)
            if len(domains) < 2:
                found = ", ".join(domains) or "no folder"
                raise UserError(f"{folder} has {found}; leaving a domain out needs two or more domain folders")
            return _benchmark(folder, domains, subfolders(folder / domains[0]))
    tried = " and ".join(str(place) for place in places)
    raise UserError(f"{path_or_name} is no folder (looked for {tried}); the layout is FOLDER/DOMAIN/CLASS/image")


def find_unreadable(source: ImageSource) -> list[str]:
    """`path: reason` of every image that cannot be decoded; every image is decoded once (or found in the cache).

    A pack's images were decoded when it was written: its files are compared with what was written then.
    """
    if isinstance(source, PackSource):
        return [f"{name} of {source.location} is not what was packed" for name in source.changed_files()]
    if isinstance(source, FolderSource):
        return source.unreadable()

    def check(place: tuple[str, int]) -> str:
        try:
            source.read(*place)
        except UserError as error:
            return str(error).removeprefix("cannot read image ")
        return ""

    places = [(domain, index) for domain in source.domain_names for index in range(len(source.labels(domain)))]
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        return [problem for problem in pool.map(check, places, chunksize=64) if problem]


def check_readable(source: ImageSource) -> None:
    """Raise `UserError` with the number of unreadable images and the first ten of them."""
    problems = find_unreadable(source)
    if problems:
        raise UserError(f"{source.benchmark}: {_listed(problems)}")


def not_found(benchmark: Benchmark, data_root: str | Path | None) -> UserError:
    """The error for a benchmark that is neither packed nor a folder below the data root."""
    if data_root is None:
        return UserError(f"{benchmark.name} needs --data-root DIR, the folder that holds {benchmark.folder}")
    if "://" in str(data_root):
        return UserError(
            f"{benchmark.name} wants the pack {data_root}/{benchmark.folder}{PACK_SUFFIX}, which is not there"
        )
    try:
        benchmark_folder(Path(data_root).expanduser(), benchmark)
    except UserError as error:
        return error
    raise AssertionError("a folder that is there was not located")


def _benchmark(folder: Path, domains: Sequence[str], class_names: Sequence[str]) -> Benchmark:
    name = folder.name
    if name.lower() in {known.lower() for known in BENCHMARKS}:
        name = f"{name}-folder"
    letters = _letters(domains)
    return Benchmark(
        name=name,
        folder=str(folder),
        domains=tuple(Domain(name=domain, letter=letter) for domain, letter in zip(domains, letters, strict=True)),
        class_names=tuple(class_names),
    )


def _pack_of(folder: Path) -> Path | None:
    """The pack beside a folder (which need not be there); one that a killed overwrite moved away is put back."""
    pack = Path(f"{folder}{PACK_SUFFIX}")
    recover(pack)
    return pack if pack.is_dir() else None


def _listed(problems: Sequence[str]) -> str:
    count = f"{len(problems)} image{'s' if len(problems) > 1 else ''} cannot be read"
    more = f"; and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
    return f"{count}: {'; '.join(problems[:LISTED])}{more}"


def _letters(names: Sequence[str]) -> list[str]:
    """The shortest beginnings that tell the domains apart, all of the same length."""
    for length in range(1, max(map(len, names))):
        letters = [name[:length].upper() if length == 1 else name[:length] for name in names]
        if len(set(letters)) == len(names):
            return letters
    return list(names)
