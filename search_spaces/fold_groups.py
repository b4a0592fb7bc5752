"""A fold group: the folds that one search is about. Its fields are those that a sweep's folder keeps."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class FoldGroup:
    """The folds that one search is about: a benchmark, a method and, in scope `domain`, one test domain.

    Where each seed has a search of its own, also one seed.
    """

    name: str
    """`PACS/vl2v_adip/sketch`, `PACS/vl2v_adip/*` for all test domains, or with `/seed1` for a seed of its own."""
    benchmark: str
    method: str
    test_domains: tuple[str, ...]
    """The domains that a trial leaves out, one fold each: one domain, or all of a benchmark's in scope `benchmark`."""
    trials: int
    """Configurations tried, on seed 0 or on the seed of its own."""
    seeds: int
    """Repetitions of the selected trial, the search's own seed among them."""
    own_seed: int | None = None
    """The one seed that is searched and judged here, where each seed has its own search; None for seed 0 and on."""

    @property
    def all_seeds(self) -> range:
        """The seed that is searched, and those on which the selected trial is repeated."""
        first = self.own_seed or 0
        return range(first, first + self.seeds)

    @property
    def num_folds(self) -> int:
        """Folds of the search and of the repeats, if every trial is a new configuration."""
        return (self.trials + self.seeds - 1) * len(self.test_domains)


def fold_group_name(benchmark: str, method: str, *, test_domain: str | None, own_seed: int | None = None) -> str:
    """The name of a fold group; no test domain stands for all of them.

    >>> fold_group_name("PACS", "erm", test_domain=None, own_seed=1)
    'PACS/erm/*/seed1'
    """
    own = "" if own_seed is None else f"/seed{own_seed}"
    return f"{benchmark}/{method}/{test_domain or '*'}{own}"
