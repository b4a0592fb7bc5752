"""Rows of the tables, as budgets see them: the fold groups of a benchmark and a method, one for each test domain.

A budget is worth most where it fills whole rows, so a row's groups begin together where that fits. One that does not
fit is begun group by group only while no other row was begun: better a part of one row than nothing, and better whole
rows than parts of further ones.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.search.group_search import GroupAgenda


def is_first_row(
    group: GroupAgenda, groups: Sequence[GroupAgenda], begun: Container[str], costs: Callable[[str], bool]
) -> bool:
    """Whether no other row was begun; only rows of methods that `costs` names count."""
    return not any(
        (other.is_started or other.group.name in begun) and row_of(other) != row_of(group) and costs(other.group.method)
        for other in groups
    )


def together(
    group: GroupAgenda, groups: Sequence[GroupAgenda], begun: Container[str], costs: Callable[[str], bool]
) -> Iterator[list[GroupAgenda]]:
    """What may begin with the group, the most welcome first."""
    rest = _rest_of_row(group, groups, begun)
    yield rest
    if len(rest) > 1 and is_first_row(group, groups, begun, costs):
        yield [group]


def row_of(group: GroupAgenda) -> tuple[str, str]:
    """Benchmark and method."""
    return group.group.benchmark, group.group.method


def _rest_of_row(group: GroupAgenda, groups: Sequence[GroupAgenda], begun: Container[str]) -> list[GroupAgenda]:
    """The group, and the others of its row that are left and were not begun."""
    alike = (other for other in groups if row_of(other) == row_of(group) and not other.is_finished)
    return [group, *(other for other in alike if other is not group and other.group.name not in begun)]
