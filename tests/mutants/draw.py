"""What is run: the named errors, and errors drawn over the whole core.

The draw is a pure function of its seed and of the sources. A change is ranked by a hash of the seed, its area and its
line, so an edit moves the draw of its own lines alone, and a file that moves none. The areas take turns, and within an
area the operators do: a long file and a common operator come no more often than others.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import TypeVar

from tests.mutants.areas import AREAS
from tests.mutants.equivalent import EQUIVALENT, Equivalent
from tests.mutants.named import NAMED, NamedError
from tests.mutants.operators import Change, changes

DRAWN = 90
DRAW_SEED = "0"

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mutant:
    """A source with one error."""

    name: str
    """A drawn one's is that of its area and a hash of its line: it stays when other lines change."""
    area: str
    operator: str
    """`named`, or what was drawn."""
    line: int
    was: str
    becomes: str
    source: str
    """The whole file with the error."""


def read_sources(root: Path) -> dict[str, str]:
    """The core's sources by area."""
    return {name: (root / area.file).read_text("utf-8") for name, area in AREAS.items()}


def all_mutants(sources: Mapping[str, str], *, drawn: int = DRAWN, seed: str = DRAW_SEED) -> list[Mutant]:
    """The named errors, then so many drawn ones."""
    return [*(named_mutant(error, sources[error.area]) for error in NAMED), *draw(sources, drawn, seed)]


def named_mutant(error: NamedError, source: str) -> Mutant:
    """A named error in its source.

    Raises:
        ValueError: the piece does not stand there exactly once.
    """
    count = source.count(error.piece)
    if count != 1:
        raise ValueError(f"{error.name}: {error.piece!r} stands {count} times in the area {error.area}, not once")
    return Mutant(
        name=error.name,
        area=error.area,
        operator="named",
        line=source.count("\n", 0, source.index(error.piece)) + 1,
        was=" ".join(error.piece.split()),
        becomes=" ".join(error.replacement.split()),
        source=source.replace(error.piece, error.replacement),
    )


def draw(
    sources: Mapping[str, str], number: int, seed: str, equivalent: Sequence[Equivalent] = EQUIVALENT
) -> list[Mutant]:
    """So many errors in sources by area, none of them equivalent; fewer where the sources have no more."""
    left_out = {(one.area, one.line, one.becomes) for one in equivalent}
    queues = [
        [(area, name, change) for name, change in _of_area(area, source, seed, left_out)]
        for area, source in sources.items()
    ]
    return [_drawn(area, name, change, sources[area]) for area, name, change in _in_turns(queues)[:number]]


def sample(mutants: Sequence[Mutant], number: int, seed: str) -> list[Mutant]:
    """So many of them, in their order; another seed takes others."""
    ranked = sorted(mutants, key=lambda mutant: _hash(seed, mutant.name))
    chosen = {mutant.name for mutant in ranked[:number]}
    return [mutant for mutant in mutants if mutant.name in chosen]


def _of_area(area: str, source: str, seed: str, left_out: set[tuple[str, str, str]]) -> list[tuple[str, Change]]:
    """Every change of an area with its name, the operators in turns."""
    by_operator: dict[str, list[tuple[str, tuple[str, Change]]]] = {}
    seen: Counter[tuple[str, str]] = Counter()
    for change in changes(source):
        pair = change.original, change.becomes
        seen[pair] += 1
        if (area, *pair) not in left_out:
            identity = (area, *pair, str(seen[pair]))
            named = f"{area.replace(' ', '-')}-{_hash(*identity)[:6]}", change
            by_operator.setdefault(change.operator, []).append((_hash(seed, *identity), named))
    queues = [sorted(ranked, key=lambda pair: pair[0]) for ranked in by_operator.values()]
    queues.sort(key=lambda ranked: ranked[0][0])
    return [change for _, change in _in_turns(queues)]


def _drawn(area: str, name: str, change: Change, source: str) -> Mutant:
    return Mutant(
        name=name,
        area=area,
        operator=change.operator,
        line=change.line,
        was=change.original,
        becomes=change.becomes,
        source=change.applied(source),
    )


def _in_turns(queues: Sequence[Sequence[Item]]) -> list[Item]:
    """The first of each queue, then the second of each, and so on."""
    return [item for item in chain.from_iterable(zip_longest(*queues)) if item is not None]


def _hash(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()
