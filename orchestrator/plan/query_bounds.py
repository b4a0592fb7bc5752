"""Teacher queries that are still to come, as upper bounds: what a plan shows and a budget admits by. No torch.

In `live` a fold asks for every image of every batch. With stored views (`views:K`, `clean`) an image of the source
pools is asked for once per view, by whichever fold comes first. The teacher's own row (`zero_shot`) asks for the images
that it is evaluated on, and every fold for the prompts of its classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import floor
from typing import Literal

from orchestrator.plan.costs import teacher_queries_per_fold
from search_spaces.benchmarks import Benchmark
from search_spaces.fold_groups import FoldGroup
from search_spaces.hyperparameters import Hyperparameters, check_teacher_mode
from search_spaces.methods import method_facts
from search_spaces.spaces import search_space
from search_spaces.sweeps import Sweep
from trainables.data.loading.splits import VALIDATION_FRACTION
from trainables.teacher.names import SHARD_ROWS, batch_multiple

PoolSize = Callable[[str, Literal["source", "test"]], int]
"""Images of a domain that may serve in a role."""

PREFLIGHT_IMAGES = 1
"""The check before the first fold pushes one image through a `zero_shot` teacher."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """Queries that are still to be asked, at most."""

    images: int = 0
    texts: int = 0
    shared: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """What several folds need and one asks for: images and texts of each such thing, by its name."""

    @property
    def all_images(self) -> int:
        return self.images + sum(images for images, _ in self.shared.values())

    @property
    def all_texts(self) -> int:
        return self.texts + sum(texts for _, texts in self.shared.values())

    @property
    def queries(self) -> int:
        """Images and texts together: what a budget counts."""
        return self.all_images + self.all_texts

    def __add__(self, other: Need) -> Need:
        shared = {**self.shared, **other.shared}
        return Need(images=self.images + other.images, texts=self.texts + other.texts, shared=shared)

    def times(self, count: int) -> Need:
        """The need of `count` equal folds; what they share counts once."""
        if count == 0:
            return Need()
        return replace(self, images=self.images * count, texts=self.texts * count)

    def price(self, per_1000: float) -> float:
        return self.queries / 1000.0 * per_1000


def total(needs: Iterable[Need]) -> Need:
    """The need of all together."""
    return sum(needs, Need())


def own_need(
    benchmark: Benchmark,
    hyperparameters: Hyperparameters,
    method: str,
    test_domain: str,
    *,
    pool: PoolSize,
    classes: int,
    num_test_domains: int = 1,
    steps: Sequence[int] | None = None,
) -> Need:
    """What one fold asks for that it shares with no other; `steps` as in `teacher_queries_per_fold`."""
    facts = method_facts(method)
    if not facts.trains:
        sources = benchmark.source_domains((test_domain,))
        validation = sum(int(pool(name, "source") * VALIDATION_FRACTION) for name in sources)
        return Need(images=validation + pool(test_domain, "test"), texts=classes)
    if hyperparameters.teacher_mode != "live":
        return Need()
    images = teacher_queries_per_fold(
        benchmark, hyperparameters, method, num_test_domains=num_test_domains, steps=steps
    )
    return Need(images=images, texts=classes if facts.asks else 0)


def preflight_need(method: str, *, teacher_mode: str, classes: int) -> Need:
    """What the check before the first fold of a benchmark and method asks for."""
    facts = method_facts(method)
    if not facts.asks or (facts.trains and teacher_mode != "live"):
        return Need()
    return Need(images=0 if facts.trains else PREFLIGHT_IMAGES, texts=classes)


def largest(sweep: Sweep, benchmark: Benchmark, method: str) -> Hyperparameters:
    """The sweep's hyperparameters with the largest batch that its space holds: no trial asks for more."""
    hyperparameters = sweep.hyperparameters_for(benchmark.name)
    dimension = (
        search_space(sweep.space).dimensions(benchmark, method, hyperparameters).get("log2_batch_size_per_domain")
    )
    high = getattr(dimension, "high", None)
    if high is None:
        return hyperparameters
    return replace(hyperparameters, batch_size_per_domain=floor(2.0**high + 1e-9))


def planned_need(sweep: Sweep, benchmark: Benchmark, method: str, groups: Iterable[FoldGroup]) -> Need | None:
    """What a benchmark's folds of one method ask for with an empty store; None where its images are not counted."""
    facts, hyperparameters = method_facts(method), largest(sweep, benchmark, method)
    if not facts.asks:
        return Need()
    sizes = {(domain.name, role): domain.pool_size(role) for domain in benchmark.domains for role in ("source", "test")}
    live, classes = hyperparameters.teacher_mode == "live", benchmark.num_classes
    if None in sizes.values() and not (facts.trains and live):
        return None

    def pool(name: str, role: Literal["source", "test"]) -> int:
        return sizes[name, role] or 0

    folds = total(
        own_need(benchmark, hyperparameters, method, domain, pool=pool, classes=classes).times(
            group.num_folds // len(group.test_domains)
        )
        for group in groups
        for domain in group.test_domains
    )
    folds += preflight_need(method, teacher_mode=hyperparameters.teacher_mode, classes=classes)
    if facts.trains and not live:
        views = check_teacher_mode(hyperparameters.teacher_mode)
        sizes_of_pools = [pool(name, "source") for name in benchmark.domain_names]
        padding = (batch_multiple(hyperparameters.teacher) - 1) * sum(-(-size // SHARD_ROWS) for size in sizes_of_pools)
        images = views * (sum(sizes_of_pools) + padding)
        folds += Need(
            shared={f"{benchmark.name} {hyperparameters.teacher} {hyperparameters.teacher_mode}": (images, classes)}
        )
    return folds
