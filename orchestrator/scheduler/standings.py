"""What budgets are told of fold groups: one frozen value for each, read once and kept until something happens."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Protocol

from orchestrator.budgets.costs import GroupStanding
from orchestrator.plan.query_bounds import Need
from orchestrator.search.folds_to_come import FoldsLeft, folds_left, running_keys, seconds_taken
from orchestrator.search.group_search import GroupSearch


class GroupNeed(Protocol):
    """An upper bound of what a group still asks for, with so many further trials; with all of them for None."""

    def __call__(self, group: GroupSearch, further: int | None = None) -> Need: ...


class Standings(Mapping[str, GroupStanding]):
    """The standing of every group, by name; each is read when it is first looked at."""

    def __init__(
        self, groups: Sequence[GroupSearch], need: GroupNeed | None = None, *, only: Collection[str] | None = None
    ) -> None:
        """Remember whom to look at.

        Args:
            groups: all of the sweep, in order.
            need: counts their queries; None where no budget counts them.
            only: keys of the folds that are to run, where it is not all.
        """
        self._groups = {group.group.name: group for group in groups}
        self._need, self._only = need, only
        self._known: dict[str, tuple[int, GroupStanding]] = {}

    def __getitem__(self, name: str) -> GroupStanding:
        group = self._groups[name]
        known = self._known.get(name)
        if known is None or known[0] != group.num_changes:
            known = self._known[name] = group.num_changes, self._read(group)
        return known[1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._groups)

    def __len__(self) -> int:
        return len(self._groups)

    def look_again(self) -> None:
        """A fold ended: read every group again, for folds and stored views may be shared and checkpoints are newer."""
        self._known.clear()

    def _read(self, group: GroupSearch) -> GroupStanding:
        running = frozenset(running_keys(group))
        return GroupStanding(
            name=group.group.name,
            row=(group.group.benchmark, group.group.method),
            is_started=group.is_started,
            is_finished=group.is_finished,
            is_idle=group.is_idle,
            left=folds_left(group) if self._only is None else self._left_of(group, len(running), self._only),
            running=running,
            took=tuple(seconds_taken(group)),
            queries=_Bounds(group, self._need),
        )

    @staticmethod
    def _left_of(group: GroupSearch, num_running: int, only: Collection[str]) -> FoldsLeft:
        """With `only`, nothing new begins: every extent is these folds."""
        left = sum(planned.key in only for _, planned in group.waiting()) + num_running
        return FoldsLeft(whole=left, to_finish=left, first=left, with_another_trial=left)


class _Bounds(dict[int | None, Need]):
    """Query bounds by number of further trials; each is counted when it is first looked at, for it reads the store."""

    def __init__(self, group: GroupSearch, need: GroupNeed | None) -> None:
        super().__init__()
        self._group, self._need = group, need

    def __missing__(self, further: int | None) -> Need:
        self[further] = Need() if self._need is None else self._need(self._group, further)
        return self[further]
