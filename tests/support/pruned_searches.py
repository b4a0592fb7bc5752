"""Searches that the pruning rules are tried on: recorded real folds, and grids of accuracies that chance makes.

`recorded_curves.json` says how the folds came about.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from orchestrator.search.pruning_rules import judge_curve, judge_overtaking
from search_spaces.sweeps import Pruner

STOP_LEVEL = 0.05
RECORDED = json.loads(Path(__file__).with_name("recorded_curves.json").read_text())
NUM_STEPS, TRIALS = RECORDED["num_steps"], RECORDED["trials"]
DOMAINS = sorted(TRIALS[0]["folds"])
ORDERS = 30


@dataclass
class Outcome:
    """What searches came to, summed over orders of the trials."""

    folds: float = 0.0
    """Folds run, a fold that was stopped by its share of steps."""
    grid: int = 0
    """Folds of the full grids."""
    regrets: list[float] = field(default_factory=list)
    """For each search, by how much the best configuration beats the best that was not pruned; fractions."""

    @property
    def saved(self) -> float:
        return 1.0 - self.folds / self.grid


def inside_folds(pruner: Pruner) -> Outcome:
    """The recorded folds, one search for each test domain: folds stop in their course."""
    outcome = Outcome()
    for order in _orders():
        for domain in DOMAINS:
            reached: dict[str, dict[int, float]] = {}
            ended: dict[int, float] = {}
            for number in order:
                own = _curve(TRIALS[number], domain)
                stop = None
                for step in sorted(own) if number else ():
                    so_far = {at: value for at, value in own.items() if at <= step}
                    judged = judge_curve(pruner, so_far, reached, step=step, num_steps=NUM_STEPS)
                    if judged is not None and judged.prune:
                        stop = step
                        break
                reached[str(number)] = {at: value for at, value in own.items() if stop is None or at <= stop}
                outcome.folds += 1.0 if stop is None else (stop + 1) / NUM_STEPS
                if stop is None:
                    ended[number] = TRIALS[number]["folds"][domain]["accuracy"]
            outcome.grid += len(order)
            outcome.regrets.append(max(trial["folds"][domain]["accuracy"] for trial in TRIALS) - max(ended.values()))
    return outcome


def between_folds() -> Outcome:
    """The recorded folds, one search for all test domains: configurations stop between folds."""
    outcome = Outcome()
    finals = [[trial["folds"][domain]["accuracy"] for domain in DOMAINS] for trial in TRIALS]
    for order in _orders():
        stopped, not_run = search([finals[number] for number in order])
        outcome.grid += len(order) * len(DOMAINS)
        outcome.folds += len(order) * len(DOMAINS) - not_run
        ended = [fmean(finals[number]) for place, number in enumerate(order) if place not in stopped]
        outcome.regrets.append(max(map(fmean, finals)) - max(ended))
    return outcome


def search(accuracies: list[list[float]]) -> tuple[set[int], int]:
    """A search one trial after another over a full grid; the trials that were stopped, and the folds not run."""
    complete, stopped, not_run = {"0": accuracies[0]}, set(), 0
    num_folds = len(accuracies[0])
    for number, own in enumerate(accuracies[1:], 1):
        for shared in range(2, num_folds):
            best = max(complete, key=lambda name: (fmean(complete[name]), int(name)))
            judged = judge_overtaking(own[:shared], best, complete, stop_level=STOP_LEVEL)
            if judged is not None and judged.prune:
                stopped.add(number)
                not_run += num_folds - shared
                break
        else:
            complete[str(number)] = own
    return stopped, not_run


def chance_searches(
    trials: int, domains: int, *, spread: float, searches: int, noise: float = 0.02
) -> tuple[float, float]:
    """Shares of searches that stopped their true best configuration, and of folds that were not run.

    Args:
        trials: configurations of each search.
        domains: test domains of each.
        spread: standard deviation of how good a configuration is; 0 is the null case, in which all are equally good
            and the best is so by chance alone.
        searches: how many.
        noise: standard deviation of a fold's accuracy around that.
    """
    chance, false_stops, not_run = random.Random(0), 0, 0
    for _ in range(searches):
        levels = [chance.gauss(0.7, 0.1) for _ in range(domains)]
        effects = [chance.gauss(0.0, spread) for _ in range(trials)]
        accuracies = [[level + effect + chance.gauss(0.0, noise) for level in levels] for effect in effects]
        best = max(range(trials), key=lambda number: fmean(accuracies[number]))
        stopped, folds = search(accuracies)
        false_stops += best in stopped
        not_run += folds
    return false_stops / searches, not_run / (searches * trials * domains)


def _orders() -> list[list[int]]:
    """The paper's point first, then the others as chance has it."""
    chance = random.Random(0)
    return [[0, *chance.sample(range(1, len(TRIALS)), len(TRIALS) - 1)] for _ in range(ORDERS)]


def _curve(trial: dict[str, Any], domain: str) -> dict[int, float]:
    return {int(step): value for step, value in trial["folds"][domain]["curve"].items()}
