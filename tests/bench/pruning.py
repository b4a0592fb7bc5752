"""What pruning saves, and what it loses of the best configuration, against the full grid.

python -m tests.bench.pruning [--only icons|recorded|chance] [--trials 8] [--steps 61] [--scratch DIR]

Icons: real sweeps of `erm` in scope `benchmark`, one fold at a time, over the same configurations: configurations
pruned between folds, folds stopped by the median rule, and the full grid. Recorded: recorded real folds in 30 orders
of trials. Chance: how often the true best is stopped where chance makes the accuracies, the null case first.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

from orchestrator.report.pruning_audit import audit
from orchestrator.run_options import RunOptions
from orchestrator.store.sweep_folder import SweepFolder, open_store
from orchestrator.sweep import run_sweep
from search_spaces.sweeps import sweep_from_mapping
from tests.support.pruned_searches import STOP_LEVEL, Outcome, between_folds, chance_searches, inside_folds

GROUP = "icons/erm/*"
PARTS = ("icons", "recorded", "chance")
SEARCHES = 2_000


def icons(scratch: Path, *, trials: int, num_steps: int) -> None:
    """Print what each sweep ran, and how far what it chose is behind the best of the full grid."""
    stores = {
        "between folds": _swept(scratch / "between folds", trials, num_steps, stop_level=STOP_LEVEL),
        "median": _swept(scratch / "median", trials, num_steps, stop_level=0.0, pruner="median"),
    }
    # What the first one ran to its end is not run again.
    first = stores["between folds"].out
    stores["full grid"] = _swept(scratch / "full grid", trials, num_steps, shared=first, stop_level=0.0)
    means = _means(stores["full grid"])
    tried = [[trial.point for trial in store.records.trials(GROUP)] for store in stores.values()]
    assert tried == [tried[0]] * len(stores), "they tried other configurations"
    for name, store in stores.items():
        chosen, saved = store.records.selected(GROUP), audit(store).folds_saved
        assert chosen is not None
        folds = sum(len(trial.folds) for trial in store.records.trials(GROUP))
        print(
            f"{name:14} {saved:4.1f} of {folds} folds saved ({saved / folds:.0%}), chose trial {chosen.number}: "
            f"regret {100 * (max(means.values()) - means[chosen.number]):.2f} points of source validation accuracy",
            flush=True,
        )


def _swept(out: Path, trials: int, num_steps: int, *, shared: Path | None = None, **pruning: Any) -> SweepFolder:
    section = {
        "benchmarks": ["icons"], "methods": ["erm"], "zero_shot": False, "space": "wide", "trials": trials, "seeds": 1,
        "scope": "benchmark", "sampler": "random", **pruning,
    }  # fmt: skip
    steps = {"distill": {"num_steps": num_steps}, "evaluate_every": max(1, num_steps // 4)}
    store = open_store(out, shared=shared)
    sweep = sweep_from_mapping({"sweep": section, "hyperparameters": steps})
    outcome = run_sweep(sweep, store, RunOptions(address="local", max_concurrent=1))
    assert outcome.exit_code == 0, outcome
    return store


def _means(store: SweepFolder) -> dict[int, float]:
    """Mean source validation accuracy of each trial of the full grid."""
    return {
        trial.number: fmean(
            (store.folds.fold(planned.key).read_result() or {})["source_validation"]["accuracy"]
            for planned in trial.folds
        )
        for trial in store.records.trials(GROUP)
    }


def recorded() -> None:
    """Print what each rule saves and loses on the recorded folds."""
    found = {"median": inside_folds("median"), "asha": inside_folds("asha"), "between folds": between_folds()}
    for name, made in found.items():
        print(f"{name:14} {_line(made)}", flush=True)


def _line(made: Outcome) -> str:
    lost = sum(regret > 0.0 for regret in made.regrets)
    return (
        f"{made.saved:.0%} of {made.grid} folds saved; regret {100 * fmean(made.regrets):.2f} points on average, "
        f"{100 * max(made.regrets):.2f} at most; the best was lost in {lost} of {len(made.regrets)} searches"
    )


def chance() -> None:
    """Print how often the true best is stopped between folds."""
    for trials, domains, spread in ((20, 4, 0.0), (20, 6, 0.0), (8, 4, 0.0), (20, 4, 0.02)):
        stopped, saved = chance_searches(trials, domains, spread=spread, searches=SEARCHES)
        print(
            f"{trials} configurations, {domains} test domains, {100 * spread:.0f} points apart: the true best was "
            f"stopped in {stopped:.2%} of {SEARCHES:,} searches (stated level {STOP_LEVEL:.0%}), {saved:.0%} of folds "
            "saved",
            flush=True,
        )


def main() -> None:
    """Run all three, or the one that is asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.pruning", description=__doc__)
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--steps", type=int, default=61)
    parser.add_argument("--scratch", type=Path, help="keep the sweeps there")
    options = parser.parse_args()
    parts = (options.only,) if options.only else PARTS
    if "chance" in parts:
        chance()
    if "recorded" in parts:
        recorded()
    if "icons" in parts:
        with tempfile.TemporaryDirectory() as folder:
            icons((options.scratch or Path(folder)).absolute(), trials=options.trials, num_steps=options.steps)


if __name__ == "__main__":
    main()
