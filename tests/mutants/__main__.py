"""Deliberate errors in the numerical core, one at a time: do the quick tests of their area notice each?

python -m tests.mutants [--sample N] [--seed S] [--only NAME] [--drawn N] [--draw-seed S] [--processes N] [--list]

Runs the errors of `named.py` and `--drawn` more, drawn over the files of `areas.py`. The draw is a pure function of
`--draw-seed` and the sources; `--sample` takes so many of all errors by `--seed`. Each error is made in a copy of the
repository, never in the working tree. Prints a line for each error, and a table. Exit code: 0 where every error was
killed (a test failed or did not end), 1 where one survived, 2 where the tests fail without any error.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

from tests.mutants.areas import AREAS, Area
from tests.mutants.copies import RepositoryCopy, TestRun
from tests.mutants.draw import DRAW_SEED, DRAWN, Mutant, all_mutants, read_sources, sample
from tests.support.repository import REPOSITORY

Given = TypeVar("Given")
Verdicts = list[tuple[Mutant, TestRun]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the options ask for; returns the exit code."""
    options = _options(arguments)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    mutants = all_mutants(read_sources(REPOSITORY), drawn=options.drawn, seed=options.draw_seed)
    if options.only:
        mutants = [mutant for mutant in mutants if {mutant.name, mutant.area} & set(options.only)]
    if options.sample is not None:
        mutants = sample(mutants, options.sample, options.seed)
    if not mutants:
        _tell("no error of that name; --list shows all")
        return 2
    _tell(f"{len(mutants)} errors: --drawn {options.drawn} --draw-seed {options.draw_seed} --seed {options.seed}")
    if options.list:
        for mutant in mutants:
            _tell(f"{_title(mutant)}: {mutant.was}  ->  {mutant.becomes}")
        return 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies = [RepositoryCopy(REPOSITORY, Path(folder) / str(number)) for number in range(options.processes)]
        return run(mutants, AREAS, copies)


def run(mutants: Sequence[Mutant], areas: dict[str, Area], copies: Sequence[RepositoryCopy]) -> int:
    """Run the tests of each area without an error, then on each error; returns the exit code."""
    wanted = list(dict.fromkeys(mutant.area for mutant in mutants))
    seconds = {}
    for name, clean in _each(wanted, copies, lambda copy, name: copy.run(areas[name])):
        if not clean.passed:
            _tell(f"the tests of {name} fail without any error:\n{clean.output}")
            return 2
        seconds[name] = clean.seconds
        _tell(f"{'passed':9} {clean.seconds:5.1f} s  the tests of {name}, without any error")
    verdicts: Verdicts = []
    for mutant, found in _each(
        mutants, copies, lambda copy, one: copy.check(areas[one.area], one, seconds_without=seconds[one.area])
    ):
        verdicts.append((mutant, found))
        _tell(f"{_verdict(found):9} {found.seconds:5.1f} s  {_title(mutant)}")
    _table(verdicts)
    return 1 if any(found.passed for _, found in verdicts) else 0


def _each(
    things: Sequence[Given], copies: Sequence[RepositoryCopy], task: Callable[[RepositoryCopy, Given], TestRun]
) -> Iterator[tuple[Given, TestRun]]:
    """Do a task with each thing, in as many threads as there are copies; yields results as they come."""
    free: SimpleQueue[RepositoryCopy] = SimpleQueue()
    for copy in copies:
        free.put(copy)

    def done(thing: Given) -> TestRun:
        copy = free.get()
        try:
            return task(copy, thing)
        finally:
            free.put(copy)

    with ThreadPoolExecutor(len(copies)) as threads:
        waiting: dict[Future[TestRun], Given] = {threads.submit(done, thing): thing for thing in things}
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        finally:
            for future in waiting:
                future.cancel()
            for copy in copies:
                copy.stop()


def _verdict(found: TestRun) -> str:
    if found.passed:
        return "SURVIVED"
    return "timed out" if found.timed_out else "killed"


def _title(mutant: Mutant) -> str:
    return f"{mutant.name} ({mutant.area}, line {mutant.line}, {mutant.operator})"


def _table(verdicts: Verdicts) -> None:
    _tell(f"\n{'area':16} {'errors':>6} {'killed':>6} {'survived':>8} {'seconds':>8}")
    for area in sorted({mutant.area for mutant, _ in verdicts}):
        _row(area, [found for mutant, found in verdicts if mutant.area == area])
    _row("all", [found for _, found in verdicts])
    for mutant, found in verdicts:
        if found.passed:
            _tell(f"\nsurvived: {_title(mutant)}\n  - {mutant.was}\n  + {mutant.becomes}")


def _row(name: str, found: Sequence[TestRun]) -> None:
    survived = sum(one.passed for one in found)
    seconds = sum(one.seconds for one in found)
    _tell(f"{name:16} {len(found):6} {len(found) - survived:6} {survived:8} {seconds:8.0f}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, metavar="N", help="run so many of all errors only")
    parser.add_argument("--seed", default="0", metavar="S", help="which ones --sample takes: any text")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="one error, or those of one area; may be repeated"
    )
    parser.add_argument("--drawn", type=int, default=DRAWN, metavar="N", help="errors drawn beside the named ones")
    parser.add_argument("--draw-seed", default=DRAW_SEED, metavar="S", help="which ones are drawn: any text")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="errors tried at once")
    parser.add_argument("--list", action="store_true", help="print the errors and run nothing")
    return parser.parse_args(arguments)


def _tell(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
