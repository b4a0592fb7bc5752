"""A sweep's progress: one live table on a terminal, few plain lines anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from orchestrator.events import Counts, Progress, ProgressEvent, no_progress

if TYPE_CHECKING:
    from rich.table import Table


LINE_INTERVAL_S = 5.0
"""Outside a terminal, finished folds are told at most this often; failures and messages always."""


@contextmanager
def progress_for(
    folds_by_group: Mapping[str, int], *, quiet: bool = False, live: bool = True, stream: TextIO | None = None
) -> Iterator[Progress]:
    """Whatever suits the stream (stderr): a live table on a terminal, plain lines elsewhere, nothing when quiet.

    Args:
        live: False leaves the terminal to a debugger: plain lines there too.
    """
    # Looked up now: the stderr of the import may be closed by then.
    stream = stream or sys.stderr
    if quiet:
        yield no_progress
    elif live and stream.isatty():
        from rich.console import Console
        from rich.live import Live

        table = LiveTable(folds_by_group)
        with Live(get_renderable=table.render, console=Console(file=stream), refresh_per_second=2) as display:

            def print_line(line: str) -> None:
                display.console.print(line, markup=False, highlight=False)

            yield lambda event: table.watch(event, print_line=print_line)
    else:
        yield LogLines(stream)


def event_line(event: ProgressEvent) -> str:
    """One event in words."""
    if event.fold is None:
        return event.text
    fold, counts = event.fold, event.counts
    where = f"{fold.group} trial {fold.number}" if fold.number is not None else fold.group
    over = counts.planned - counts.running - counts.waiting
    head = f"[{over}/{counts.planned}] {where} {'+'.join(fold.fold.test_domains)}"
    head += f" seed {fold.fold.seed}"
    if event.kind == "fold_done":
        accuracy = "" if fold.accuracy is None else f": source validation {fold.accuracy:.1%}"
        return f"{head} done{accuracy}{f' in {fold.seconds:.0f} s' if fold.seconds is not None else ''}"
    if event.kind == "fold_retried":
        return f"{head} failed (attempt {fold.attempt}), trying again: {fold.error}"
    if event.kind == "fold_failed":
        return f"{head} FAILED: {fold.error}"
    if event.kind == "fold_pruned":
        return f"{head} pruned: {fold.error}"
    return f"{head} {event.kind.removeprefix('fold_')}"


def print_evaluation(event: ProgressEvent) -> None:
    """One line on stderr for each evaluation of a fold that is trained by itself."""
    if event.kind == "fold_reported":
        print_report(event.metrics)
    elif event.kind == "fold_retried" and event.fold is not None:
        print(f"{event.fold.error}; trying again", file=sys.stderr, flush=True)


def print_report(metrics: Mapping[str, Any]) -> None:
    """One line on stderr for what a worker reported, if it was an evaluation."""
    accuracy = metrics.get("source_validation_accuracy")
    if accuracy is not None:
        print(
            f"{metrics.get('stage')} step {metrics.get('step')}: source validation {accuracy:.2%}",
            file=sys.stderr,
            flush=True,
        )


class LogLines:
    """Few plain lines: each failure and message, and the newest finished fold every few seconds."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._last = -LINE_INTERVAL_S
        self._held_back = ""

    def __call__(self, event: ProgressEvent) -> None:
        """Write the event, hold it back, or pass it over."""
        if event.kind in ("fold_started", "fold_reported"):
            return
        line = event_line(event)
        if event.kind == "fold_done" and self._clock() - self._last < LINE_INTERVAL_S:
            self._held_back = line
            return
        if event.kind == "sweep_finished" and self._held_back:
            self._write(self._held_back)
        self._held_back = ""
        if event.kind == "fold_done":
            self._last = self._clock()
        self._write(line or counts_line(event.counts))

    def _write(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


@dataclass(kw_only=True, slots=True)
class _Row:
    """What the live table knows of one fold group."""

    planned: int
    done: int = 0
    failed: int = 0
    best: float | None = None
    latest: str = ""


class LiveTable:
    """One row per fold group that something happened in, and the totals."""

    def __init__(self, folds_by_group: Mapping[str, int]) -> None:
        self._rows = {name: _Row(planned=folds) for name, folds in folds_by_group.items()}
        self._counts = Counts()
        self._started = time.monotonic()

    def watch(self, event: ProgressEvent, *, print_line: Callable[[str], object]) -> None:
        """Take one event in; failures and messages are also printed above the table."""
        self._counts = event.counts
        if event.kind in ("message", "fold_failed", "fold_retried"):
            print_line(event_line(event))
        if event.fold is None:
            return
        row = self._rows.setdefault(event.fold.group, _Row(planned=1))
        where = f"{'+'.join(event.fold.fold.test_domains)} seed {event.fold.fold.seed}"
        if event.fold.number is not None:
            where = f"trial {event.fold.number} {where}"
        row.latest = where
        if event.kind == "fold_reported":
            row.latest = f"{where}: {event.metrics.get('stage', '')} step {event.metrics.get('step', '')}"
        elif event.kind == "fold_done":
            row.done += 1
            row.latest = f"{where} done"
            if event.fold.accuracy is not None and len(event.fold.fold.test_domains) == 1:
                row.best = max(event.fold.accuracy, row.best or 0.0)
        elif event.kind == "fold_failed":
            row.failed += 1
            row.latest = f"{where} failed"
        elif event.kind == "fold_pruned":
            row.latest = f"{where} pruned"

    def render(self) -> Table:
        """The table as it stands."""
        from rich.table import Table
        from rich.text import Text

        seconds = int(time.monotonic() - self._started)
        caption = f"{counts_line(self._counts)}, {seconds // 60}:{seconds % 60:02d}"
        table = Table(caption=caption, caption_justify="left")
        for title in ("fold group", "folds", "best source validation", "now"):
            table.add_column(title, justify="right" if title == "folds" else "left", no_wrap=True)
        for name, row in self._rows.items():
            if row.latest:
                folds = f"{row.done}/{row.planned}" + (f" ({row.failed} failed)" if row.failed else "")
                best = "-" if row.best is None else f"{row.best:.1%}"
                table.add_row(Text(name), folds, best, Text(row.latest))
        return table


def counts_line(counts: Counts) -> str:
    """Totals in words."""
    failed = f", {counts.failed} failed" if counts.failed else ""
    pruned = f", {counts.pruned} pruned" if counts.pruned else ""
    return f"{counts.done}/{counts.planned} folds done, {counts.running} running{failed}{pruned}"
