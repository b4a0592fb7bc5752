"""Look-alikes of the benchmarks' known variants: tiny, all different images with a variant's counts."""

from __future__ import annotations

from pathlib import Path

from search_spaces.benchmarks import Benchmark
from trainables.data.formats.variants import Variant, known_variants


def write_counts(folder: Path, benchmark: Benchmark, variant: Variant) -> None:
    """A look-alike with a variant's counts; where these are not known per domain or class, evenly spread."""
    number = 0
    domains = variant.domains or dict.fromkeys(benchmark.domain_names, variant.total // len(benchmark.domains))
    rest = variant.total - sum(domains.values())
    for domain, total in domains.items():
        total += rest if domain == benchmark.domain_names[-1] else 0
        classes = benchmark.class_names
        even = [total // len(classes) + (place < total % len(classes)) for place in range(len(classes))]
        for class_name, count in zip(classes, variant.classes.get(domain, even), strict=True):
            place = folder / domain / class_name
            place.mkdir(parents=True)
            for index in range(count):
                number += 1
                (place / f"{index:05d}.jpg").write_bytes(b"P6 1 2 255\n" + number.to_bytes(6, "big"))


def variants_to_write(benchmark: str) -> list[Variant]:
    """The registry's variants of a benchmark; DomainNet's at a hundredth of their size, all else as they are."""
    known = known_variants(benchmark)
    return [_scaled(variant) for variant in known] if benchmark == "DomainNet" else known


def _scaled(variant: Variant) -> Variant:
    domains = {name: count // 100 for name, count in variant.domains.items()}
    total = sum(domains.values()) if domains else variant.total // 100
    return Variant(name=variant.name, accepted=variant.accepted, total=total, domains=domains)
