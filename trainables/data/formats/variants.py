"""Known variants of each benchmark, and which one a set of counts is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

VARIANTS_FILE = Path(__file__).parent / "variants.yaml"


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """Image counts that a known copy of a benchmark has."""

    name: str
    accepted: bool
    """Whether papers use it, so that a fetch may end in it."""
    total: int
    """Images of the whole benchmark."""
    domains: dict[str, int] = field(default_factory=dict)
    """Images per domain; empty where only the total is known."""
    classes: dict[str, list[int]] = field(default_factory=dict)
    """Images per class of each domain, in byte order of the classes; empty where unknown."""

    def differences(self, counts: Mapping[str, int], per_class: Mapping[str, Sequence[int]]) -> list[str]:
        """What sets the counts apart from this variant, in words; empty when nothing does."""
        found = []
        total = sum(counts.values())
        for domain, wanted in self.domains.items():
            have = counts.get(domain, 0)
            if have != wanted:
                found.append(f"{domain} {have:,} instead of {wanted:,} ({have - wanted:+,})")
            elif domain in self.classes and list(per_class.get(domain, ())) != self.classes[domain]:
                have_classes, wanted_classes = list(per_class.get(domain, ())), self.classes[domain]
                found.append(f"{domain} has {have_classes} images per class instead of {wanted_classes}")
        if not self.domains and total != self.total:
            found.append(f"{total:,} images instead of {self.total:,}")
        return found

    def distance(
        self, counts: Mapping[str, int], per_class: Mapping[str, Sequence[int]], num_domains: int
    ) -> tuple[int, int]:
        """By how many images the domains that are there differ from this variant; then, by how many the whole."""
        whole = abs(self.total - sum(counts.values()))
        if not self.domains:
            # A domain may have any share of the total: only a copy that has all of them is compared.
            return (whole if len(counts) == num_domains else 0), whole
        present = sum(abs(count - self.domains.get(domain, 0)) for domain, count in counts.items() if count)
        for domain, wanted in self.classes.items():
            have = list(per_class.get(domain, ()))
            if len(have) == len(wanted):
                present += sum(abs(one - other) for one, other in zip(have, wanted, strict=True))
        return present, sum(abs(count - counts.get(domain, 0)) for domain, count in self.domains.items())


def known_variants(benchmark: str) -> list[Variant]:
    """The variants of a benchmark, the papers' first; none for one that is not registered."""
    return _all_variants().get(benchmark, [])


@cache
def _all_variants() -> dict[str, list[Variant]]:
    content: dict[str, Any] = yaml.safe_load(VARIANTS_FILE.read_text())
    return {name: [_variant(item) for item in entry["variants"]] for name, entry in content.items()}


def _variant(item: dict[str, Any]) -> Variant:
    domains = item.get("domains", {})
    total = item.get("total", sum(domains.values()))
    return Variant(
        name=item["name"],
        accepted=item["accepted"],
        total=total,
        domains=domains,
        classes=item.get("classes", {}),
    )


def nearest_variant(
    variants: Sequence[Variant], counts: Mapping[str, int], per_class: Mapping[str, Sequence[int]]
) -> tuple[Variant, list[str]] | None:
    """The variant that the counts are nearest to, and the differences; None when no variant is known.

    What is there decides: a damaged copy is named after what it was, whichever domains it has lost.
    """
    num_domains = max((len(variant.domains) for variant in variants), default=0)
    nearest = min(variants, key=lambda variant: variant.distance(counts, per_class, num_domains), default=None)
    return None if nearest is None else (nearest, nearest.differences(counts, per_class))
