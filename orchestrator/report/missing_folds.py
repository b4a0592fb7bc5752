"""One line about the folds that a selection lacks, with the command that runs them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from orchestrator.search.selection_outcome import MissingFolds
from orchestrator.store.sweep_folder import SweepFolder
from search_spaces.errors import UserError
from search_spaces.folds import Fold
from search_spaces.sweeps import check_shared_choice

NAMED = 3
"""Missing folds of one kind that a line names; the others are counted."""


def missing_line(store: SweepFolder, missing: Sequence[MissingFolds], selection: str) -> str:
    """One line: how many folds a selection lacks, the first of each kind, and the command that runs them.

    None runs the further seeds of what the oracle selected.
    """
    lacking = [item for item in missing if item]
    parts = []
    trials = [(item.group, item.trials) for item in lacking if item.trials]
    if trials:
        named = ", ".join(f"{count} of {group}" for group, count in trials[:NAMED])
        parts.append(f"{sum(count for _, count in trials):,} trials ({named}{_more(trials)})")
    for kind, title in (("pairs", "pair folds"), ("seeds", "repeats of the selected trials")):
        folds = [(item.group, number, fold) for item in lacking for number, fold in getattr(item, kind)]
        distinct = list(dict.fromkeys(folds))
        if folds:
            named = ", ".join(f"{group} trial {number}: {_where(fold)}" for group, number, fold in distinct[:NAMED])
            parts.append(f"{len(distinct):,} {title} ({named}{_more(distinct)})")
    if not parts:
        return ""
    lacks = f"selection {selection} lacks {', '.join(parts)}"
    if selection == "oracle" and not trials:
        return f"{lacks}; no sweep runs them, for none selects by test-domain numbers"
    try:
        check_shared_choice(store.existing_sweep())
    except UserError as refused:
        return f"{lacks}; no sweep runs them any more: {refused}"
    return f"{lacks}; to run them: {sweep_command(store, selection)}"


def sweep_command(store: SweepFolder, selection: str) -> str:
    """The command that runs what a selection lacks."""
    sweep = store.sweep()
    own_data = [] if sweep is not None and set(sweep.benchmarks) == {"icons"} else ["--data-root", "DIR"]
    choosing = [] if selection == "oracle" else ["--selection", selection]
    words = ["sweep", "--config", str(store.sweep_file), "--out", store.where, *own_data, *choosing]
    return f"vl2v-orchestrate {shlex.join(words)} -y"


def _where(fold: Fold) -> str:
    return f"{'+'.join(fold.test_domains)} seed {fold.seed}"


def _more(items: Sequence[object]) -> str:
    return f" and {len(items) - NAMED:,} more" if len(items) > NAMED else ""
