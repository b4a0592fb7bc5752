"""Look at every file of a benchmark's folder and say what it is: which known variant, and everything that is wrong.

Unlike `open_benchmark`, which stops at the first mistake, this goes on and lists them all.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from search_spaces.benchmarks import Benchmark
from search_spaces.errors import UserError
from trainables.data.folder import class_paths, subfolders
from trainables.data.manifest import ManifestRow, ScannedFile, manifest_hash, manifest_lines, scan
from trainables.data.variants import Variant, known_variants, nearest_variant
from trainables.record import write_atomically

LISTED = 10
"""Examples that a finding names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What a look at a benchmark's folder found."""

    benchmark: str
    folder: str
    variant: str
    """Name of the known variant, `unknown`, or `damaged: nearest NAME` where something is missing or wrong."""
    accepted: bool
    """Whether nothing is wrong and, for a registered benchmark, the variant is one that papers use."""
    counts: dict[str, int]
    """Images per domain."""
    class_counts: dict[str, dict[str, int]]
    """Images per domain and class."""
    errors: tuple[str, ...]
    """What makes the folder unusable, one line each."""
    notes: tuple[str, ...]
    """What is worth knowing: duplicates, differences from the nearest variant."""
    manifest: str
    """SHA-256 of the manifest; empty when there are errors."""
    rows: tuple[ManifestRow, ...] = field(repr=False, default=())
    """The manifest itself, one row for each image."""

    @property
    def num_images(self) -> int:
        return sum(self.counts.values())

    def to_mapping(self) -> dict[str, object]:
        """Plain values for `--json`."""
        names = ("benchmark", "folder", "variant", "accepted", "counts", "class_counts", "errors", "notes", "manifest")
        return {name: getattr(self, name) for name in names} | {"num_images": self.num_images}


def verify(
    folder: Path, benchmark: Benchmark, *, cache: Path | None = None, variants: Sequence[Variant] | None = None
) -> Verification:
    """Verify a benchmark's folder; every file is read once (or found in the `cache` folder).

    `variants` are those of the registry unless given. Raises `UserError` only when there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder} to verify")
    errors = _domain_errors(folder, benchmark)
    found = {domain: subfolders(folder / domain) for domain in benchmark.domain_names if (folder / domain).is_dir()}
    expected = list(benchmark.class_names) or _most_common_classes(found.values())
    errors += _class_errors(found, expected)
    paths = {(domain, name): class_paths(folder, f"{domain}/{name}") for domain in found for name in found[domain]}
    errors += [f"{domain}/{name} has no image" for (domain, name), files in paths.items() if not files]
    flat = [(domain, name, path) for (domain, name), files in paths.items() for path in files]
    scanned = scan(folder, [path for _, _, path in flat], cache=cache)
    errors += _unreadable(flat, scanned)
    rows = tuple(
        ManifestRow(path, item.size, item.sha256, name, domain)
        for (domain, name, path), item in zip(flat, scanned, strict=True)
    )
    class_counts = {domain: {name: len(paths[domain, name]) for name in found[domain]} for domain in found}
    known = known_variants(benchmark.name) if variants is None else variants
    variant, accepted, variant_notes = _name_variant(known, class_counts, expected, bool(errors))
    return Verification(
        benchmark=benchmark.name,
        folder=str(folder),
        variant=variant,
        accepted=accepted,
        counts={domain: sum(counts.values()) for domain, counts in class_counts.items()},
        class_counts=class_counts,
        errors=tuple(errors),
        notes=(*variant_notes, *_duplicate_notes(rows)),
        manifest="" if errors else manifest_hash(rows),
        rows=rows,
    )


def write_manifest(verification: Verification, file: Path) -> None:
    """Write the manifest (path, size, SHA-256, class, domain; tab-separated, sorted by path), whole or not at all.

    The SHA-256 of the file is the verification's `manifest`. Raises `UserError` when it cannot be written.
    """
    text = "".join(f"{line}\n" for line in manifest_lines(verification.rows))
    try:
        write_atomically(file, text.encode(errors="surrogateescape"))
    except OSError as error:
        raise UserError(f"cannot write the manifest {file}: {error.strerror or error}") from None


def _domain_errors(folder: Path, benchmark: Benchmark) -> list[str]:
    found = subfolders(folder)
    missing = [name for name in benchmark.domain_names if name not in found]
    stray = [name for name in found if name not in benchmark.domain_names]
    errors = []
    for name in list(missing):
        other = next((item for item in stray if _loose(item) == _loose(name)), None)
        if other is not None:
            errors.append(f"the domain folder {name} is spelled {other}")
            missing.remove(name)
            stray.remove(other)
    if missing:
        have = len(benchmark.domains) - len(missing) - len(errors)
        errors.append(f"{len(missing)} of {len(benchmark.domains)} domain folders are missing: {', '.join(missing)}")
        if not have and stray:
            errors[-1] += f"; the folder has {', '.join(stray[:LISTED])}"
    errors += [f"the folder {name} is no domain of {benchmark.name}" for name in stray]
    return errors


def _class_errors(found: dict[str, list[str]], expected: list[str]) -> list[str]:
    errors = []
    for domain, names in found.items():
        missing = [name for name in expected if name not in names]
        extra = [name for name in names if name not in expected]
        if extra and all(name.isdecimal() for name in extra):
            errors.append(f"{domain} has class folders named by numbers ({_some(extra)}), which say nothing of labels")
            continue
        for name in list(missing):
            other = next((item for item in extra if _loose(item) == _loose(name)), None)
            if other is not None:
                errors.append(f"{domain}: the class folder {name} is spelled {other}")
                missing.remove(name)
                extra.remove(other)
        if missing:
            errors.append(f"{domain} lacks the class folder {_some(missing)}")
        if extra:
            errors.append(f"{domain} has the folder {_some(extra)}, which is no class")
    return errors


def _unreadable(flat: Sequence[tuple[str, str, str]], scanned: Sequence[ScannedFile]) -> list[str]:
    bad = [f"{path} ({item.problem})" for (_, _, path), item in zip(flat, scanned, strict=True) if item.problem]
    return [f"{len(bad)} image{'s' if len(bad) > 1 else ''} cannot be read: {_some(bad)}"] if bad else []


def _name_variant(
    variants: Sequence[Variant], class_counts: dict[str, dict[str, int]], expected: list[str], has_errors: bool
) -> tuple[str, bool, list[str]]:
    """The variant's name, whether it is accepted, and notes on how the folder differs from the nearest one."""
    counts = {domain: sum(classes.values()) for domain, classes in class_counts.items()}
    per_class = {domain: [classes.get(name, 0) for name in expected] for domain, classes in class_counts.items()}
    nearest = nearest_variant(variants, counts, per_class)
    if nearest is None:
        return ("damaged" if has_errors else "unknown"), not has_errors, []
    variant, differences = nearest
    if not differences:
        return (f"damaged: {variant.name}" if has_errors else variant.name), variant.accepted and not has_errors, []
    notes = [f"nearest known variant: {variant.name}; {_some(differences)}"]
    notes += [
        f"{domain}: the class counts are those of {variant.name} in another order; labels may be mixed up"
        for domain, wanted in variant.classes.items()
        if (have := per_class.get(domain, [])) != wanted and sorted(have) == sorted(wanted)
    ]
    return (f"damaged: nearest {variant.name}" if has_errors else "unknown"), False, notes


def _duplicate_notes(rows: Sequence[ManifestRow]) -> list[str]:
    repeated = {content for content, count in Counter(row.sha256 for row in rows).items() if count > 1}
    groups: dict[str, list[ManifestRow]] = defaultdict(list)
    for row in rows:
        if row.sha256 in repeated:
            groups[row.sha256].append(row)

    def note(words: str, matching: Callable[[list[ManifestRow]], bool]) -> list[str]:
        hits = [" = ".join(row.path for row in group) for group in groups.values() if matching(group)]
        return [f"{len(hits)} {words}: {_some(hits, 3)}"] if hits else []

    def classes(group: list[ManifestRow]) -> int:
        return len({row.class_name for row in group})

    def domains(group: list[ManifestRow]) -> int:
        return len({row.domain for row in group})

    return [
        *note("pictures stand in several classes", lambda group: classes(group) > 1),
        *note("pictures stand in several domains", lambda group: domains(group) > 1),
        *note("pictures stand twice in one class", lambda group: classes(group) == domains(group) == 1),
    ]


def _most_common_classes(found: Iterable[list[str]]) -> list[str]:
    most = Counter(tuple(names) for names in found).most_common(1)
    return list(most[0][0]) if most else []


def _loose(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _some(items: Sequence[str], limit: int = LISTED) -> str:
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more
