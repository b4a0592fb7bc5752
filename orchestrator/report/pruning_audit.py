"""What pruning saved and what it cost: the trials that were to be pruned and ran on for the audit say so.

From decisions and source-side results alone, so it may be looked at while a sweep runs.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from orchestrator.search.group_view import read_group_view
from orchestrator.search.pruning import Decision, read_decisions
from orchestrator.store.sweep_folder import SweepFolder
from search_spaces.fold_groups import FoldGroup


@dataclass(frozen=True, kw_only=True, slots=True)
class PruningAudit:
    """The account of a sweep's pruning."""

    trials_pruned: int = 0
    """Trials that were pruned."""
    folds_stopped: int = 0
    """Their folds that were stopped in their course."""
    folds_not_run: int = 0
    """Their folds that never started."""
    folds_saved: float = 0.0
    """The same in whole folds: a fold that was stopped counts by the steps of its last stage that it was spared."""
    trials_audited: int = 0
    """Trials that were to be pruned and ran on for the audit."""
    regrets: tuple[float, ...] = ()
    """For each audited trial that is over: by how much it beat the best trial that was not, or 0; a fraction."""

    @property
    def false_stops(self) -> int:
        """Audited trials that turned out to be the best."""
        return sum(regret > 0.0 for regret in self.regrets)

    @property
    def happened(self) -> bool:
        """Whether anything was pruned, or would have been."""
        return bool(self.trials_pruned or self.trials_audited)

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        mean = fmean(self.regrets) if self.regrets else None
        return {**asdict(self), "regrets": list(self.regrets), "mean_regret": mean, "false_stops": self.false_stops}

    @property
    def line(self) -> str:
        """In words."""
        saved = (
            f"{self.trials_pruned} trials pruned ({self.folds_not_run} folds not run, {self.folds_stopped} stopped "
            f"early: {self.folds_saved:.1f} folds saved)"
        )
        if not self.regrets:
            still = f", {self.trials_audited} still running" if self.trials_audited else ""
            return f"{saved}; none audited to its end yet{still}"
        return (
            f"{saved}; of {len(self.regrets)} that were to be pruned and ran on for the audit, {self.false_stops} "
            f"turned out best: regret {100 * fmean(self.regrets):.2f} points of source validation accuracy on average, "
            f"{100 * max(self.regrets):.2f} at most"
        )


def audit(store: SweepFolder) -> PruningAudit:
    """Add the accounts of all fold groups up."""
    accounts = [_group_audit(store, group) for group in store.groups()]
    return PruningAudit(
        trials_pruned=sum(one.trials_pruned for one in accounts),
        folds_stopped=sum(one.folds_stopped for one in accounts),
        folds_not_run=sum(one.folds_not_run for one in accounts),
        folds_saved=math.fsum(one.folds_saved for one in accounts),
        trials_audited=sum(one.trials_audited for one in accounts),
        regrets=tuple(regret for one in accounts for regret in one.regrets),
    )


def _group_audit(store: SweepFolder, group: FoldGroup) -> PruningAudit:
    decisions = read_decisions(store, group.name)
    pruned = [decision for decision in decisions if decision.verdict == "prune"]
    audited = {decision.number for decision in decisions if decision.verdict == "audit"}
    if not pruned and not audited:
        return PruningAudit()
    objectives = read_group_view(store, group).objectives
    others = [value for number, value in objectives.items() if number not in audited]
    ended = [objectives[number] for number in sorted(audited) if number in objectives]
    spared = [(decision, key) for decision in pruned for key in decision.folds if store.folds.result(key) is None]
    stopped = [decision for decision, key in spared if _was_running(decision, key)]
    return PruningAudit(
        trials_pruned=len(pruned),
        folds_stopped=len(stopped),
        folds_not_run=len(spared) - len(stopped),
        folds_saved=len(spared) - len(stopped) + math.fsum(1 - (one.step + 1) / one.num_steps for one in stopped),
        trials_audited=len(audited),
        regrets=tuple(max(0.0, value - max(others)) for value in ended) if others else (),
    )


def _was_running(decision: Decision, key: str) -> bool:
    return decision.rule != "overtake" and key == decision.key
