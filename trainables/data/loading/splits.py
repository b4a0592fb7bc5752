"""DomainBed's splits, index for index: every domain gives its first 20% of a seeded shuffle to validation."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from search_spaces.benchmarks import Benchmark
from search_spaces.errors import UserError
from search_spaces.folds import Fold
from trainables.data.formats.images import ImageSource, Indices, Role

VALIDATION_FRACTION = 0.2
"""DomainBed's holdout fraction."""


LEAST_IMAGES = 5
"""Of a domain: fewer leave its validation part empty."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FoldSplits:
    """Indices into each domain, in the split's order."""

    source_train: dict[str, Indices]
    """The 80% part of each source domain."""
    source_validation: dict[str, Indices]
    """The 20% part of each source domain: the only part that selection sees; also the ID accuracy."""
    test_in: dict[str, Indices]
    """The 80% part of each test domain: the reported OOD accuracy."""
    test_out: dict[str, Indices]
    """The 20% part of each test domain."""


def seed_hash(*arguments: object) -> int:
    """DomainBed's seed from any arguments: `md5(str(tuple)) % 2**31`, with plain Python numbers."""
    plain = tuple(int(item) if isinstance(item, np.integer) else item for item in arguments)
    return int(hashlib.md5(str(plain).encode(), usedforsecurity=False).hexdigest(), 16) % 2**31


def split_indices(
    num_images: int, seed: int, domain_index: int, fraction: float = VALIDATION_FRACTION
) -> tuple[Indices, Indices]:
    """Return (validation, training) indices of a domain, each in shuffled order, as DomainBed's `split_dataset`."""
    order = np.arange(num_images, dtype=np.int64)
    np.random.RandomState(seed_hash(seed, domain_index)).shuffle(order)
    num_validation = int(num_images * fraction)
    return order[:num_validation], order[num_validation:]


def split_fold(source: ImageSource, benchmark: Benchmark, fold: Fold) -> FoldSplits:
    """Split every domain of a fold; raises `UserError` when a domain is too small for a validation part."""
    source_train, source_validation, test_in, test_out = {}, {}, {}, {}
    for domain in benchmark.domain_names:
        is_test = domain in fold.test_domains
        validation, training = _split_domain(source, benchmark, domain, "test" if is_test else "source", fold.seed)
        if is_test:
            test_in[domain], test_out[domain] = training, validation
        else:
            source_train[domain], source_validation[domain] = training, validation
    if not source_train:
        raise UserError(
            f"{benchmark.name} has no source domain left; the fold leaves out {', '.join(fold.test_domains)}"
        )
    return FoldSplits(
        source_train=source_train, source_validation=source_validation, test_in=test_in, test_out=test_out
    )


def check_splits(source: ImageSource, benchmark: Benchmark) -> None:
    """Raises `UserError` where a domain is too small for a validation part, in whichever role."""
    roles: tuple[Role, ...] = ("source", "test")
    for domain in benchmark.domain_names:
        for role in roles:
            count = len(source.pool(domain, role))
            if count < LEAST_IMAGES:
                raise too_small(f"{benchmark.name}/{domain}", count, f" in the {role} role")


def too_small(domain: str, count: int, role: str = "") -> UserError:
    """What is said of a domain that cannot be split."""
    images = f"{count} image{'' if count == 1 else 's'}"
    return UserError(f"{domain} has {images}{role}; a 20% validation part needs {LEAST_IMAGES}")


def _split_domain(
    source: ImageSource, benchmark: Benchmark, domain: str, role: Role, seed: int
) -> tuple[Indices, Indices]:
    pool = source.pool(domain, role)
    validation, training = split_indices(len(pool), seed, benchmark.domain_index(domain))
    if not len(validation):
        raise too_small(f"{benchmark.name}/{domain}", len(pool), f" in the {role} role")
    return pool[validation], pool[training]
