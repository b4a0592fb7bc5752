"""What `verify` finds, in words: domain and class folders, unreadable images, the variant, duplicates, labels."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import PurePosixPath

from search_spaces.benchmarks import Benchmark
from trainables.data.formats.folder import name_twins
from trainables.data.formats.images import IMAGE_SUFFIXES
from trainables.data.formats.manifest import ManifestRow, is_utf8, shown
from trainables.data.formats.variants import Variant, nearest_variant

LISTED = 10
"""Examples that a finding names."""


def domain_errors(found: Sequence[str], benchmark: Benchmark) -> list[str]:
    """What is wrong with the names of the domain folders."""
    missing = [name for name in benchmark.domain_names if name not in found]
    stray = [name for name in found if name not in benchmark.domain_names]
    errors = _differ_in_case("domain", [name for name in found if name not in stray])
    respelled = 0
    for name in list(missing):
        other = next((item for item in stray if _loose(item) == _loose(name)), None)
        if other is not None:
            errors.append(f"the domain folder {name} is spelled {other}")
            respelled += 1
            missing.remove(name)
            stray.remove(other)
    if missing:
        have = len(benchmark.domains) - len(missing) - respelled
        errors.append(f"{len(missing)} of {len(benchmark.domains)} domain folders are missing: {', '.join(missing)}")
        if not have and stray:
            errors[-1] += f"; the folder has {', '.join(stray[:LISTED])}"
    errors += [f"the folder {name} is no domain of {benchmark.name}" for name in stray]
    return errors


def class_errors(found: Mapping[str, Sequence[str]], expected: Sequence[str]) -> list[str]:
    """What is wrong with the names of the class folders of each domain."""
    errors = _differ_in_case("class", expected)
    for domain, names in found.items():
        missing = [name for name in expected if name not in names]
        extra = [name for name in names if name not in expected]
        if extra and all(name.isdecimal() for name in extra):
            errors.append(f"{domain} has class folders named by numbers ({some(extra)}), which say nothing of labels")
            continue
        for name in list(missing):
            other = next((item for item in extra if _loose(item) == _loose(name)), None)
            if other is not None:
                errors.append(f"{domain}: the class folder {name} is spelled {other}")
                missing.remove(name)
                extra.remove(other)
        if missing:
            errors.append(f"{domain} lacks the class folder {some(missing)}")
        if extra:
            errors.append(f"{domain} has the folder {some(extra)}, which is no class")
    return errors


def image_errors(paths: Sequence[str], problems: Sequence[str]) -> list[str]:
    """Images that cannot be read, and names that no table or pack can hold."""
    bad = [f"{path} ({problem})" for path, problem in zip(paths, problems, strict=True) if problem]
    names = [path for path in paths if not is_utf8(path)]
    errors = [f"{_count(bad, 'image')} cannot be read: {some(bad)}"] if bad else []
    if names:
        errors.append(f"{_count(names, 'file name')} cannot be read as UTF-8: {some(names)}; rename them")
    return errors


def name_variant(
    variants: Sequence[Variant],
    class_counts: Mapping[str, Mapping[str, int]],
    expected: Sequence[str],
    has_errors: bool,
) -> tuple[str, bool, list[str]]:
    """The variant's name, whether it is accepted, and notes on how the copy differs from the nearest one."""
    counts = {domain: sum(classes.values()) for domain, classes in class_counts.items()}
    per_class = {domain: [classes.get(name, 0) for name in expected] for domain, classes in class_counts.items()}
    nearest = nearest_variant(variants, counts, per_class)
    if nearest is None:
        return ("damaged" if has_errors else "unknown"), not has_errors, []
    variant, differences = nearest
    if not differences:
        return (f"damaged: {variant.name}" if has_errors else variant.name), variant.accepted and not has_errors, []
    notes = [f"nearest known variant: {variant.name}; {some(differences)}"]
    notes += [
        f"{domain}: the class counts are those of {variant.name} in another order; labels may be mixed up"
        for domain, wanted in variant.classes.items()
        if (have := per_class.get(domain, [])) != wanted and sorted(have) == sorted(wanted)
    ]
    return (f"damaged: nearest {variant.name}" if has_errors else "unknown"), False, notes


def duplicate_notes(rows: Sequence[ManifestRow]) -> list[str]:
    """Pictures (the same bytes) that stand in several places, by what that says of labels and domains."""
    groups = _same_pictures(rows)

    def note(words: str, matching: Callable[[list[ManifestRow]], bool]) -> list[str]:
        hits = [" = ".join(row.path for row in group) for group in groups if matching(group)]
        return [f"{len(hits)} {words}: {some(hits, 3)}"] if hits else []

    def classes(group: list[ManifestRow]) -> int:
        return len({row.class_name for row in group})

    def domains(group: list[ManifestRow]) -> int:
        return len({row.domain for row in group})

    def contradicts(group: list[ManifestRow]) -> bool:
        """Whether two domains have no class of the picture in common."""
        classes_of: dict[str, set[str]] = defaultdict(set)
        for row in group:
            classes_of[row.domain].add(row.class_name)
        return any(one.isdisjoint(other) for one, other in combinations(classes_of.values(), 2))

    return [
        *note("pictures have another class in another domain; labels may be mixed up", contradicts),
        *note("pictures stand in several classes", lambda group: classes(group) > 1 and not contradicts(group)),
        *note("pictures stand in several domains", lambda group: domains(group) > 1 and not contradicts(group)),
        *note("pictures stand twice in one class", lambda group: classes(group) == domains(group) == 1),
    ]


def label_notes(variants: Sequence[Variant], benchmark: Benchmark) -> list[str]:
    """How far labels could be checked; nothing for a folder of one's own, of which nothing is published."""
    if not variants:
        return []
    checked = f"the {benchmark.num_classes} class folders by name and order, and pictures that stand in several domains"
    if any(variant.classes for variant in variants):
        return [f"labels checked: the counts per class, {checked}"]
    return [f"labels could not be checked by counts: no counts per class are known; checked: {checked}"]


def left_out_notes(files: Sequence[str], links: Sequence[str]) -> list[str]:
    """What lies in class folders and is not read: files of other endings, and links that lead back."""
    notes = []
    if files:
        endings = Counter(PurePosixPath(file).suffix.lower() or "no ending" for file in files)
        counted = ", ".join(f"{count:,} {shown(ending)}" for ending, count in endings.most_common(LISTED))
        notes.append(
            f"{_count(files, 'file')} left out because of the ending ({counted}): {some(files, 3)}; "
            f"an image ends in {' '.join(IMAGE_SUFFIXES)}"
        )
    if links:
        notes.append(f"{_count(links, 'link')} not followed, back to a folder that it stands in: {some(links)}")
    return notes


def some(items: Sequence[str], limit: int = LISTED) -> str:
    """The first items, printable, and how many more there are."""
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(map(shown, items[:limit])) + more


def _same_pictures(rows: Sequence[ManifestRow]) -> list[list[ManifestRow]]:
    repeated = {content for content, count in Counter(row.sha256 for row in rows if row.sha256).items() if count > 1}
    groups: dict[str, list[ManifestRow]] = defaultdict(list)
    for row in rows:
        if row.sha256 in repeated:
            groups[row.sha256].append(row)
    return list(groups.values())


def _differ_in_case(kind: str, names: Iterable[str]) -> list[str]:
    return [f"the {kind} folders {pair} differ only in {how}" for pair, how in name_twins(names)]


def _count(items: Sequence[str], noun: str) -> str:
    return f"{len(items)} {noun}{'s' if len(items) > 1 else ''}"


def _loose(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
