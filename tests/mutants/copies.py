"""A copy of the repository in which one error at a time is made, and the tests of its area run on it."""

from __future__ import annotations

import compileall
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from py_compile import PycInvalidationMode

from tests.mutants.areas import COPIED, Area
from tests.mutants.draw import Mutant

TIMEOUT_S = 60.0
"""A run with an error may take this long, and `SLOWER` times as long as the run without one on top."""
SLOWER = 4.0
PACKAGES = ("search_spaces", "trainables", "orchestrator")


@dataclass(frozen=True, slots=True)
class TestRun:
    """How the tests of an area ended."""

    __test__ = False

    passed: bool
    timed_out: bool
    seconds: float
    output: str


class RepositoryCopy:
    """One copy; whoever uses it uses it alone."""

    def __init__(self, repository: Path, folder: Path, copied: Sequence[str] = COPIED) -> None:
        self.folder = folder
        self._process: subprocess.Popen[str] | None = None
        folder.mkdir(parents=True)
        for name in copied:
            if (repository / name).is_dir():
                shutil.copytree(repository / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(repository / name, folder / name)
        # Compiled files that count by content: an error of equal length within a second would else go unseen.
        for name in PACKAGES:
            compileall.compile_dir(folder / name, quiet=2, invalidation_mode=PycInvalidationMode.CHECKED_HASH)

    def run(self, area: Area, *, timeout_s: float = 600.0) -> TestRun:
        """Run the quick tests of an area."""
        started = time.monotonic()
        self._process = process = subprocess.Popen(
            [
                sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "pytest_timeout",
                "-m", "not slow",
                f"--basetemp={self.folder / 'temporary'}", *area.tests,
            ],
            cwd=self.folder, env=self._environment(), start_new_session=True, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            output, _ = process.communicate(timeout=timeout_s)
            timed_out = False
        except subprocess.TimeoutExpired:
            timed_out = True
            self.stop()
            output, _ = process.communicate()
        return TestRun(process.returncode == 0, timed_out, time.monotonic() - started, output)

    def stop(self) -> None:
        """End the tests that run here now, with all that they have started."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)

    @contextmanager
    def mutated(self, area: Area, mutant: Mutant) -> Iterator[None]:
        """The copy with one error in it."""
        path = self.folder / area.file
        before, stat = path.read_text("utf-8"), path.stat()
        path.write_text(mutant.source, "utf-8")
        try:
            yield
        finally:
            path.write_text(before, "utf-8")
            # numba's machine code counts by the time of the file.
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    def check(self, area: Area, mutant: Mutant, *, seconds_without: float) -> TestRun:
        """Run an area's tests on an error in it; they take so long without one."""
        with self.mutated(area, mutant):
            return self.run(area, timeout_s=TIMEOUT_S + SLOWER * seconds_without)

    def _environment(self) -> Mapping[str, str]:
        # Several runs share the machine, so each takes one core; plugins that no test here needs take half a second.
        settings = {"PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        return os.environ | settings
