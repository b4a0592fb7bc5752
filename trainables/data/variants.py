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
    """The variant with the fewest differences, and these; None when no variant is known."""
    judged = [(variant, variant.differences(counts, per_class)) for variant in variants]
    total = sum(counts.values())
    # Between equals, the one nearer in size: a damaged copy is named after what it was.
    return min(judged, key=lambda pair: (len(pair[1]), abs(pair[0].total - total)), default=None)
