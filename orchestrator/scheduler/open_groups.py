"""Which of a sweep's fold groups may run now, by what the budgets admit."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from orchestrator.budgets.admission import Admission
from orchestrator.scheduler.standings import GroupNeed, Standings
from orchestrator.search.group_search import GroupSearch


class OpenGroups:
    """The groups that are not finished, and what the budgets say of them."""

    def __init__(
        self,
        groups: Sequence[GroupSearch],
        admission: Admission,
        *,
        need: GroupNeed | None = None,
        only: Collection[str] | None = None,
    ) -> None:
        """Let the groups ask here before they try another configuration.

        Args:
            need: counts their queries; None where no budget counts them.
            only: keys of the folds that are to run, where it is not all.
        """
        self._groups, self._admission = groups, admission
        self._standings = Standings(groups, need, only=only)
        for group in groups:
            group.permits_trial = self.permits_trial
        admission.resume(self._standings)

    def to_check(self) -> Iterator[GroupSearch]:
        """Groups that are not finished and whose queries the budget lets be asked, now or later."""
        return (group for group in self._in_order() if self.admits(group, queries_only=True))

    def admitted(self) -> Iterator[GroupSearch]:
        """Groups that are not finished and that the budget lets run; those that have started come first."""
        return (group for group in self._in_order() if self.admits(group))

    def admits(self, group: GroupSearch, *, queries_only: bool = False) -> bool:
        """Whether the budgets let a group run."""
        return self._admission.admits(group.group.name, self._standings, queries_only=queries_only)

    def permits_trial(self, group: GroupSearch) -> bool:
        """Whether the budgets let a group try another configuration."""
        return self._admission.permits_trial(group.group.name, self._standings)

    def refusals(self) -> list[str]:
        """Which budgets do not cover what is left, one line each."""
        names = (group.group.name for group in self._groups if not group.is_finished)
        return self._admission.refusals(names, self._standings)

    def close(self) -> None:
        """Let nothing start any more that asks the teacher."""
        self._admission.close()

    def look_again(self) -> None:
        """A fold ended: what was read of the groups may have changed."""
        self._standings.look_again()
        self._admission.look_again()

    def _in_order(self) -> list[GroupSearch]:
        open_groups = (group for group in self._groups if not group.is_finished)
        return sorted(open_groups, key=lambda group: not group.is_started)
