"""What a sweep has used so far: wall time, and the time of its folds on the GPUs that they reserve.

    OUT/usage/IDENTITY.json    one file of each process that worked on the sweep, written again every few seconds

Sums over these files survive whatever is killed, but for the last seconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from trainables.storage.json_files import readable_record, write_json

LOOK_S = 0.5
"""How often the running folds are counted."""

WRITE_S = 5.0
"""How often the file is written: what a kill -9 may forget."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What was used, by one process or by all."""

    wall_seconds: float = 0.0
    """From the start of a process's work to its end; the time between two processes is not counted."""
    fold_seconds: float = 0.0
    """Summed over the folds that ran side by side: done, failed or interrupted."""
    gpu_seconds: float = 0.0
    """The same times the GPUs that a fold reserves, whether it kept them busy or not."""
    folds_at_once: int = 0
    """Most folds that ran side by side."""

    @property
    def gpu_hours(self) -> float:
        return self.gpu_seconds / 3600.0

    @property
    def wall_hours(self) -> float:
        return self.wall_seconds / 3600.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            wall_seconds=self.wall_seconds + other.wall_seconds,
            fold_seconds=self.fold_seconds + other.fold_seconds,
            gpu_seconds=self.gpu_seconds + other.gpu_seconds,
            folds_at_once=max(self.folds_at_once, other.folds_at_once),
        )


def read_usage(folder: Path) -> Usage:
    """What all processes together used; what a damaged file said is lost."""
    found = (readable_record(Usage, file) for file in sorted(folder.glob("*.json")))
    return sum((one for one in found if one is not None), Usage())


class UsageMeter:
    """Counts what this process uses while it is entered, on top of what earlier ones did."""

    def __init__(
        self, folder: Path, identity: str, *, gpus_per_fold: float, running: Callable[[], Collection[str]]
    ) -> None:
        """Read what was used before.

        Args:
            folder: OUT/usage.
            identity: of this process; names its file.
            gpus_per_fold: what every running fold reserves.
            running: keys of the folds that run now.
        """
        self._file, self._gpus, self._running = folder / f"{identity}.json", gpus_per_fold, running
        self._before, self._own = read_usage(folder), Usage()
        self._since: dict[str, float] = {}
        self._looked = self._written = 0.0
        self._ended, self._lock = threading.Event(), threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def total(self) -> Usage:
        """Of all processes, this one included up to now."""
        if self._thread is not None:
            self._look()
        return self._before + self._own

    def elapsed(self, key: str) -> float:
        """Seconds that a running fold has run; 0 for others."""
        since = self._since.get(key)
        return 0.0 if since is None else time.monotonic() - since

    def __enter__(self) -> UsageMeter:
        self._looked = self._written = time.monotonic()
        self._thread = threading.Thread(target=self._follow, name="usage", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        self._look()
        self._thread = None
        write_json(self._file, asdict(self._own))

    def _follow(self) -> None:
        while not self._ended.wait(LOOK_S):
            self._look()
            if self._looked - self._written >= WRITE_S:
                self._written = self._looked
                try:
                    write_json(self._file, asdict(self._own))
                except OSError:
                    # A folder that cannot be written for a moment must not end the sweep.
                    continue

    def _look(self) -> None:
        with self._lock:
            now, running = time.monotonic(), tuple(self._running())
            passed, self._looked = now - self._looked, now
            self._since = {key: self._since.get(key, now) for key in running}
            count = len(running)
            self._own += Usage(
                wall_seconds=passed,
                fold_seconds=passed * count,
                gpu_seconds=passed * count * self._gpus,
                folds_at_once=count,
            )
