"""Progress bars of what is counted: bytes, images, rows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import TaskID

Told = Callable[[str, int, int | None], None]
"""Called with what is worked on, how much of it is done, and how much there is (None where unknown)."""


@contextmanager
def bars(*, unit: str) -> Iterator[Told]:
    """`counters`, for a command that counts one unit alone."""
    with counters() as counting:
        yield counting(unit)


@contextmanager
def counters() -> Iterator[Callable[[str], Told]]:
    """Progress bars on a terminal; elsewhere one line on stderr for each thing that is done.

    Gives a function from a unit (`bytes`, `images`) to what is told the progress. No unit (an empty one) is for stages:
    each is shown until the next one begins, and only on a terminal.
    """
    if not sys.stderr.isatty():
        yield _lines
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[amount]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks: dict[str, TaskID] = {}
        stages: list[str] = []

        def counting(unit: str) -> Told:
            def show(name: str, done: int, total: int | None) -> None:
                if not unit and stages != [name]:
                    forget_stages()
                    stages.append(name)
                if name not in tasks:
                    tasks[name] = progress.add_task(name, total=total, amount="")
                progress.update(tasks[name], completed=done, total=total, amount=_amount(done, total, unit))

            return show

        def forget_stages() -> None:
            while stages:
                progress.remove_task(tasks.pop(stages.pop()))

        try:
            yield counting
        finally:
            forget_stages()


def _lines(unit: str) -> Told:
    """One line for each thing that is done; nothing about stages."""
    finished: set[str] = set()

    def tell(name: str, done: int, total: int | None) -> None:
        if unit and done == total and name not in finished:
            finished.add(name)
            print(f"{name}: {done:,} {unit}", file=sys.stderr, flush=True)

    return tell


def _amount(done: int, total: int | None, unit: str) -> str:
    if unit == "bytes":
        return f"{done / 1e6:,.1f}" + (f" of {total / 1e6:,.1f} MB" if total is not None else " MB")
    return f"{done:,} of {total:,}" if total is not None else f"{done:,}" if done else ""
