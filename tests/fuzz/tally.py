"""Runs one kind's cases by number and counts: tracebacks, and answers that are wrong."""

from __future__ import annotations

import argparse
import random
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

Case = Callable[[random.Random], str]
"""Makes one input, tries it, and says what is wrong with the answer; empty where it is right."""

LISTED = 20


@dataclass(kw_only=True, slots=True)
class Tally:
    """What came of a number of inputs."""

    inputs: int = 0
    tracebacks: int = 0
    wrong_answers: int = 0
    problems: list[str] = field(default_factory=list)
    """One line for each input that went wrong; its number and seed make it again."""

    def __str__(self) -> str:
        return f"{self.inputs} inputs, {self.tracebacks} tracebacks, {self.wrong_answers} wrong answers"


def tally(case: Case, inputs: int, *, seed: int) -> Tally:
    """Try the cases 0 to `inputs` - 1 of a seed; each draws from a generator of its own."""
    counts = Tally()
    for number in range(inputs):
        counts.inputs += 1
        try:
            problem = case(random.Random(f"{seed} {number}"))
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            counts.tracebacks += 1
            said = " ".join(str(error).split())[:300]
            problem = f"{type(error).__name__} in {place.name}, line {place.lineno}: {said}"
        else:
            counts.wrong_answers += bool(problem)
        if problem:
            counts.problems.append(f"input {number} of seed {seed}: {problem}")
    return counts


def main(tried: Callable[..., Tally], name: str) -> None:
    """The command line of one kind; ends with its exit code, 1 where anything went wrong."""
    parser = argparse.ArgumentParser(prog=f"python -m tests.fuzz.{name}", description=sys.modules["__main__"].__doc__)
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    counts = tried(options.inputs, seed=options.seed)
    for problem in counts.problems[:LISTED]:
        print(problem)
    print(f"{name}: {counts}")
    sys.exit(1 if counts.problems else 0)
