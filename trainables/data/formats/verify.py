"""Look at every image of a benchmark and say what it is: which known variant, and everything that is wrong.

Unlike `open_benchmark`, which stops at the first mistake, this lists them all. It looks at what training
would open: the pack where there is one (and whether the folder beside it is still the same), else the folder.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

from search_spaces.benchmarks import Benchmark
from search_spaces.errors import UserError
from trainables.data.formats.findings import (
    class_errors,
    domain_errors,
    duplicate_notes,
    image_errors,
    label_notes,
    left_out_notes,
    name_variant,
    some,
)
from trainables.data.formats.folder import links_back, list_class, subfolders
from trainables.data.formats.manifest import ManifestRow, manifest_hash, manifest_lines, scan
from trainables.data.formats.open import find_unreadable, locate, not_found, packaged_icons
from trainables.data.formats.pack import PACK_SUFFIX
from trainables.data.formats.pack_check import checked_rows
from trainables.data.formats.pack_reader import PackSource, read_description
from trainables.data.formats.parquet import ParquetSource
from trainables.data.formats.variants import Variant, known_variants
from trainables.storage.json_files import write_atomically

Form = Literal["folder", "pack", "package"]
"""What training would open."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What a look at a benchmark's images found."""

    benchmark: str
    form: Form
    place: str
    """Where it lies: a folder, a pack or a file."""
    variant: str
    """Name of the known variant, `unknown`, or `damaged: nearest NAME` where something is missing or wrong."""
    accepted: bool
    """Whether nothing is wrong and, for a registered benchmark, the variant is one that papers use."""
    counts: dict[str, int]
    """Images per domain."""
    class_counts: dict[str, dict[str, int]]
    """Images per domain and class."""
    errors: tuple[str, ...]
    """What makes it unusable, one line each."""
    notes: tuple[str, ...]
    """What is worth knowing: differences from the nearest variant, duplicates, how far labels could be checked."""
    manifest: str
    """SHA-256 of the manifest; empty when there are errors."""
    rows: tuple[ManifestRow, ...] = field(repr=False, default=())
    """The manifest itself, one row for each image."""

    @property
    def num_images(self) -> int:
        return sum(self.counts.values())

    def to_mapping(self) -> dict[str, object]:
        """Plain values for `--json`."""
        names = [item.name for item in fields(self) if item.name != "rows"]
        return {name: getattr(self, name) for name in names} | {"num_images": self.num_images}


def verify_opened(
    benchmark: Benchmark,
    data_root: str | Path | None = None,
    *,
    cache: Path | None = None,
    variants: Sequence[Variant] | None = None,
) -> Verification:
    """Verify what training would open below a data root (a folder or a URI); arguments as of `verify`.

    Of a pack, every byte is read and compared with what was packed; where its folder lies beside it, that one too.
    Raises `UserError` when there is neither pack nor folder.
    """
    place = locate(benchmark, data_root)
    if place is None:
        if benchmark.name != "icons":
            raise not_found(benchmark, data_root)
        return _of_package(packaged_icons(benchmark), benchmark, variants)
    if not place.endswith(PACK_SUFFIX):
        return verify_benchmark(Path(place), benchmark, cache=cache, variants=variants)
    found = _of_pack(place, benchmark, variants)
    folder = Path(place.removesuffix(PACK_SUFFIX))
    if "://" in place or not folder.is_dir():
        return found
    beside = verify_benchmark(folder, benchmark, cache=cache, variants=variants)
    return replace(found, notes=(*_differences(found, beside), *found.notes))


def verify_benchmark(
    folder: Path, benchmark: Benchmark, *, cache: Path | None = None, variants: Sequence[Variant] | None = None
) -> Verification:
    """Verify a benchmark's folder; every file is read once (or found in the `cache` folder).

    `variants` are those of the registry unless given. Raises `UserError` only when there is no such folder, or when it
    cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder} to verify")
    errors = domain_errors(subfolders(folder), benchmark)
    found: dict[str, list[str]] = {}
    for domain in benchmark.domain_names:
        if os.path.isdir(folder / domain):
            with _listed(errors):
                found[domain] = subfolders(folder / domain)
    expected = list(benchmark.class_names) or _most_common_classes(found.values())
    errors += class_errors(found, expected)
    left_out: list[str] = []
    links = [*links_back(folder), *(f"{domain}/{name}" for domain in found for name in links_back(folder / domain))]
    files: dict[tuple[str, str], list[str]] = {(domain, name): [] for domain in found for name in found[domain]}
    for (domain, name), paths in files.items():
        with _listed(errors):
            listing = list_class(folder, f"{domain}/{name}")
            left_out += listing.left_out
            links += listing.links_back
            paths += listing.images
            if not paths:
                errors.append(f"{domain}/{name} has no image")
    flat = [(domain, name, path) for (domain, name), paths in files.items() for path in paths]
    scanned = scan(folder, [path for _, _, path in flat], cache=cache)
    errors += image_errors([path for _, _, path in flat], [item.problem for item in scanned])
    rows = [
        ManifestRow(path, item.size, item.sha256, name, domain)
        for (domain, name, path), item in zip(flat, scanned, strict=True)
    ]
    counts = {domain: {name: len(files[domain, name]) for name in found[domain]} for domain in found}
    judged = _judged(
        benchmark, rows, counts, form="folder", place=str(folder), expected=expected, errors=errors, variants=variants
    )
    return replace(judged, notes=(*judged.notes, *left_out_notes(left_out, links)))


def _of_pack(place: str, benchmark: Benchmark, variants: Sequence[Variant] | None) -> Verification:
    errors: list[str] = []
    rows: list[ManifestRow] = []
    with _listed(errors):
        # Its index is looked at once it is known whether its bytes are those that were packed.
        source = PackSource(place, benchmark, is_new=False)
        source.check_files()
        rows, errors = checked_rows(source)
    return _judged(benchmark, rows, _class_counts(rows), form="pack", place=place, errors=errors, variants=variants)


def _of_package(source: ParquetSource, benchmark: Benchmark, variants: Sequence[Variant] | None) -> Verification:
    rows = source.manifest_rows
    problems = find_unreadable(source)
    errors = [f"{len(problems)} images cannot be read: {some(problems)}"] if problems else []
    return _judged(
        benchmark,
        rows,
        _class_counts(rows),
        form="package",
        place=str(source.file),
        errors=errors,
        variants=variants,
    )


def _judged(
    benchmark: Benchmark,
    rows: Sequence[ManifestRow],
    class_counts: dict[str, dict[str, int]],
    *,
    form: Form,
    place: str,
    errors: Sequence[str],
    variants: Sequence[Variant] | None,
    expected: Sequence[str] = (),
) -> Verification:
    known = known_variants(benchmark.name) if variants is None else variants
    classes = expected or benchmark.class_names
    variant, accepted, variant_notes = name_variant(known, class_counts, classes, bool(errors))
    return Verification(
        benchmark=benchmark.name,
        form=form,
        place=place,
        variant=variant,
        accepted=accepted,
        counts={domain: sum(counts.values()) for domain, counts in class_counts.items()},
        class_counts=class_counts,
        errors=tuple(errors),
        notes=(*variant_notes, *duplicate_notes(rows), *label_notes(known, benchmark)),
        manifest="" if errors else manifest_hash(rows),
        rows=tuple(rows),
    )


def _class_counts(rows: Iterable[ManifestRow]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for row in rows:
        of_domain = counts.setdefault(row.domain, {})
        of_domain[row.class_name] = of_domain.get(row.class_name, 0) + 1
    return counts


def _differences(pack: Verification, folder: Verification) -> list[str]:
    """How the folder beside a pack differs from what was packed: training reads the pack and sees none of it."""
    reads = "training reads the pack: pack the folder again with --overwrite, or move one of the two away"
    if folder.errors:
        return [f"the folder {folder.place} beside the pack is damaged ({folder.errors[0]}); {reads}"]
    if pack.errors:
        return []
    description = read_description(pack.place)
    if folder.manifest == description["packed_from"]:
        return []
    packed, present = ({row.path: row.sha256 for row in found.rows} for found in (pack, folder))
    both = [] if description["is_reencoded"] else [path for path in packed if path in present]
    groups = {
        "only in the pack": [path for path in packed if path not in present],
        "only in the folder": [path for path in present if path not in packed],
        "of other content": [path for path in both if packed[path] != present[path]],
    }
    found = "; ".join(f"{len(paths):,} {words}: {some(paths, 3)}" for words, paths in groups.items() if paths)
    return [
        f"the folder {folder.place} differs from the pack beside it: {folder.num_images:,} images instead of "
        f"{pack.num_images:,}; {found}; {reads}"
    ]


@contextmanager
def _listed(errors: list[str]) -> Iterator[None]:
    """What cannot be opened is one more error, and the rest is looked at."""
    try:
        yield
    except UserError as error:
        errors.append(str(error))


def write_manifest(verification: Verification, file: Path) -> None:
    """Write the manifest (path, size, SHA-256, class, domain; tab-separated, sorted by path), whole or not at all.

    The SHA-256 of the file is the verification's `manifest`. Raises `UserError` when it cannot be written.
    """
    text = "".join(f"{line}\n" for line in manifest_lines(verification.rows))
    try:
        write_atomically(file, text.encode(errors="surrogateescape"))
    except OSError as error:
        raise UserError(f"cannot write the manifest {file}: {error.strerror or error}") from None


def _most_common_classes(found: Iterable[list[str]]) -> list[str]:
    most = Counter(tuple(names) for names in found).most_common(1)
    return list(most[0][0]) if most else []
