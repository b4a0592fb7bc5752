"""Pruning on recorded real folds (`recorded_curves.json` says how they came about), against the full grid."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from orchestrator.pruning_rules import judge_curve, judge_overtaking
from search_spaces.sweeps import Pruner

RECORDED = json.loads(Path(__file__).with_name("recorded_curves.json").read_text())
NUM_STEPS, TRIALS = RECORDED["num_steps"], RECORDED["trials"]
DOMAINS = sorted(TRIALS[0]["folds"])
ORDERS = 30


@dataclass
class Outcome:
    """What a search came to, summed over orders of the trials."""

    folds: float = 0.0
    """Folds run, a fold that was stopped by its share of steps."""
    grid: int = 0
    regrets: list[float] = field(default_factory=list)

    @property
    def saved(self) -> float:
        return 1.0 - self.folds / self.grid


def curve(trial: dict[str, Any], domain: str) -> dict[int, float]:
    return {int(step): value for step, value in trial["folds"][domain]["curve"].items()}


def orders() -> list[list[int]]:
    """The paper's point first, then the others as chance has it."""
    chance = random.Random(0)
    return [[0, *chance.sample(range(1, len(TRIALS)), len(TRIALS) - 1)] for _ in range(ORDERS)]


def inside(pruner: Pruner) -> Outcome:
    """One search for each test domain, folds stopped in their course."""
    outcome = Outcome()
    for order in orders():
        for domain in DOMAINS:
            reached: dict[str, dict[int, float]] = {}
            ended: dict[int, float] = {}
            for number in order:
                own = curve(TRIALS[number], domain)
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


def between() -> Outcome:
    """One search for all test domains, configurations stopped between folds."""
    outcome = Outcome()
    finals = [[trial["folds"][domain]["accuracy"] for domain in DOMAINS] for trial in TRIALS]
    for order in orders():
        complete: dict[str, list[float]] = {}
        for number in order:
            for shared in range(2, len(DOMAINS)) if number else ():
                best = max(complete, key=lambda name: fmean(complete[name]))
                judged = judge_overtaking(finals[number][:shared], best, complete, stop_level=0.05)
                if judged is not None and judged.prune:
                    outcome.folds += shared
                    break
            else:
                complete[str(number)] = finals[number]
                outcome.folds += len(DOMAINS)
        outcome.grid += len(order) * len(DOMAINS)
        outcome.regrets.append(max(map(fmean, finals)) - max(map(fmean, complete.values())))
    return outcome


@pytest.mark.parametrize(("pruner", "saved", "regret"), [("median", 0.2, 0.005), ("asha", 0.45, 0.015)])
def test_folds_saved_and_regret_inside_folds(pruner: Pruner, saved: float, regret: float) -> None:
    found = inside(pruner)
    assert found.saved > saved
    assert fmean(found.regrets) < regret


def test_folds_saved_and_regret_between_folds() -> None:
    found = between()
    assert found.saved > 0.2
    assert max(found.regrets) == 0.0


def test_no_pruner_saves_nothing() -> None:
    found = inside("none")
    assert (found.saved, max(found.regrets)) == (0.0, 0.0)


if __name__ == "__main__":
    for name, made in (("median", inside("median")), ("asha", inside("asha")), ("between folds", between())):
        worst, mean = 100 * max(made.regrets), 100 * fmean(made.regrets)
        wrong = sum(regret > 0 for regret in made.regrets)
        print(
            f"{name}: {made.saved:.0%} of {made.grid} folds saved; regret {mean:.2f} points on average, {worst:.2f} at "
            f"most; the best was lost in {wrong} of {len(made.regrets)} searches"
        )
