"""Starts a sweep again and again until it is done, killing its processes at random moments."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.nodes import TwoNodes
from tests.chaos.processes import Process, bury, descendants, kill, kill_tree, wait_for
from tests.chaos.sweeps import Command, Scenario, Victim
from tests.chaos.tracking_server import TrackingServer

DELAY: dict[Victim, float] = {"command": 0.4, "actor": 0.1, "driver": 0.1, "worker": 0.2, "raylet": 0.2, "mlflow": 0.3}
"""A kill comes at a random moment within this time after its victim is there (for the command: after its start), as a
share of what the undisturbed sweep takes: a slow machine is disturbed at the same places."""

BUSY_DRIVER = "ray::ResourceTrainable.train"
"""`tune.with_resources` makes a class of this name of the trainable that drives nested folds."""
TITLES = {"actor": "ray::ImplicitFunc", "driver": BUSY_DRIVER, "worker": "ray::RayTrainWorker"}
ORPHANS_TIMEOUT_S = 60.0
GCS_ADDRESS = re.compile(r"--gcs[-_]address=(\S+)")
"""Every raylet's command line tells where its Ray answers."""
RETRIED = "trying again"
"""What the command says of a fold whose driver was killed, unless its result was there already."""
RETRIED_TIMEOUT_S = 60.0
HUNG_S = 300.0
"""A command that writes nothing for so long, neither into its log nor into any fold, hangs."""
MOST_SURPRISES = 4
"""Ends of the command that nobody killed, in one sweep, before it is given up."""


@dataclass(kw_only=True, slots=True)
class Engines:
    """What a scenario needs beside the command."""

    environment: dict[str, str]
    server: TrackingServer | None = None
    nodes: TwoNodes | None = None

    def others(self) -> set[int]:
        """Processes that live as long as the scenario."""
        roots = [engine.process.pid for engine in (self.server, self.nodes) if engine is not None]
        return {*roots, *(process.number for root in roots for process in descendants(root))}


@dataclass(kw_only=True, slots=True)
class Hunt:
    """One scenario's kills; `problems` is what went wrong."""

    scenario: Scenario
    engines: Engines
    chance: random.Random
    tell: Callable[[str], None]
    seconds: float
    """What the undisturbed sweep took."""
    number: int = 0
    problems: list[str] = field(default_factory=list)
    drivers: int = 0
    """Drivers of nested folds that were killed."""
    retried: int = 0
    """Those whose fold was then tried again: they were struck in its middle."""
    _pending: tuple[str, int] | None = None
    """The last kill's words, and where the log was then."""

    def sweep(self, out: Path, victims: list[Victim]) -> bool:
        """Run one sweep to its end, taking kills from the front of the list; True once it ended with exit code 0."""
        surprises, more = 0, ()
        while True:
            command = Command(
                arguments=(*self.scenario.arguments, "--executor", self.scenario.executor, *more),
                out=out,
                environment=self.engines.environment,
            )
            code = self._run(command, victims)
            self._report(command, f"exit code {code}")
            if code == 0:
                return True
            if code == -9:
                time.sleep(self.chance.uniform(0.0, 1.0))
                continue
            surprises += 1
            last = [line for line in command.said(command.spoken) if line.strip()][-1:]
            self.tell(f"    ended by itself with code {code}: {' '.join(last)[:160]}")
            if surprises > MOST_SURPRISES:
                self.problems.append(f"{out.name}: the command does not get done: {' '.join(last)[:300]}")
                return False
            # A fold whose process was killed twice has failed, as a fold should that kills its process.
            more = ("--retry-failed",) if code == 3 else ()
            if self.engines.server is not None:
                self.engines.server.wait_until_ready()

    def _run(self, command: Command, victims: list[Victim]) -> int:
        started = time.monotonic()
        while victims and self._kill_one(command, victims, started):
            if not command.is_running:
                break
        if self._wait(command):
            return command.process.returncode
        self.problems.append(f"{command.out.name}: hung for {HUNG_S:.0f} s: {command.said(command.spoken)[-3:]}")
        kill_tree(command.process.pid)
        command.process.wait()
        return -1

    def _wait(self, command: Command) -> bool:
        """Wait for the command's end; False once it hangs."""
        changed, seen = time.monotonic(), -1.0
        while command.is_running:
            bury(except_for={command.process.pid: None, **dict.fromkeys(self.engines.others())})
            newest = max(path.stat().st_mtime for path in (command.log, *command.out.glob("*/*/journal.jsonl")))
            if newest != seen:
                changed, seen = time.monotonic(), newest
            if time.monotonic() - changed > HUNG_S:
                return False
            time.sleep(0.5)
        return True

    def _kill_one(self, command: Command, victims: list[Victim], started: float) -> bool:
        """Kill the next victim; False where the command ended before."""
        victim = victims[0]
        until = time.monotonic() + HUNG_S
        while command.is_running and not self._targets(victim, command):
            bury(except_for={command.process.pid: None, **dict.fromkeys(self.engines.others())})
            if time.monotonic() > until:
                return False
            time.sleep(0.1)
        moment = time.monotonic() + self.chance.uniform(0.0, DELAY[victim] * self.seconds)
        wait_for(lambda: not command.is_running or time.monotonic() > moment, timeout_s=HUNG_S, every_s=0.02)
        targets = self._targets(victim, command)
        if not command.is_running or not targets:
            # A victim that is between two lives is looked for again.
            return command.is_running
        target = self.chance.choice(targets)
        victims.pop(0)
        self._report(command, "the sweep went on")
        self.number += 1
        when = f"{time.monotonic() - started:5.1f} s"
        self._pending = (f"{self.number:3} {victim:8} {when} after the start, {target.words}", _size(command.log))
        self._strike(victim, target)
        if victim == "command":
            command.process.wait()
        if victim == "driver":
            self.drivers += 1
            self.problems += self._driver_differences(command, self._pending[1])
        return True

    def _driver_differences(self, command: Command, since: int) -> Iterator[str]:
        """What a killed driver of a running nested fold has left after a while; counts whose fold is tried again."""

        def is_retried() -> bool:
            return any(RETRIED in line for line in command.said(since))

        wait_for(lambda: is_retried() or not command.is_running, timeout_s=RETRIED_TIMEOUT_S)
        self.retried += is_retried()
        if orphans := self._orphans(command):
            yield f"{command.out.name}: {orphans} placement groups of killed drivers are left"

    def _orphans(self, command: Command) -> int:
        """Placement groups of dead actors in the command's own Ray, asked from outside until there are none."""
        until, orphans = time.monotonic() + ORPHANS_TIMEOUT_S, 0
        while command.is_running and time.monotonic() < until:
            raylets = descendants(command.process.pid)
            addresses = [found.group(1) for process in raylets if (found := GCS_ADDRESS.search(process.title))]
            held = holdings(addresses[0], self.engines.environment)[0] if addresses else None
            orphans = 0 if held is None else int(held["orphans"])
            if held is not None and not orphans:
                return 0
        return orphans

    def _targets(self, victim: Victim, command: Command) -> list[Process]:
        if victim == "command":
            return [process for process in descendants() if process.number == command.process.pid]
        if victim == "mlflow":
            assert self.engines.server is not None
            return [process for process in descendants() if process.number == self.engines.server.process.pid]
        if victim == "raylet":
            assert self.engines.nodes is not None
            return [process for process in descendants() if process.number == self.engines.nodes.raylet]
        found = descendants()
        if victim == "driver" and not any(process.title.startswith(TITLES["worker"]) for process in found):
            # No fold has begun.
            return []
        return [process for process in found if process.title.startswith(TITLES[victim])]

    def _strike(self, victim: Victim, target: Process) -> None:
        if victim == "mlflow":
            assert self.engines.server is not None
            self.engines.server.kill()
            time.sleep(self.chance.uniform(0.0, 3.0))
            self.engines.server.restart()
            return
        kill(target)
        if victim == "raylet":
            assert self.engines.nodes is not None
            time.sleep(self.chance.uniform(0.0, 3.0))
            self.engines.nodes.replace()

    def _report(self, command: Command, ending: str) -> None:
        if self._pending is None:
            return
        words, size = self._pending
        told = [line.strip() for line in command.said(size) if line.strip() and not line.startswith("compare ")]
        loud = [line for line in told if any(word in line for word in ("again", "FAILED", "tracking", "error"))]
        said = " | ".join(dict.fromkeys((loud or told)[-2:]))
        self.tell(f"{words[:110]}; {ending}; it said: {said[:200] or 'nothing'}")
        self._pending = None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@contextmanager
def engines(scenario: Scenario, environment: dict[str, str], folder: Path) -> Iterator[Engines]:
    """The MLflow server and the cluster of a scenario, where it has any."""
    made = Engines(environment=dict(environment))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if scenario.tracked:
            made.server = TrackingServer(folder / "mlflow", environment)
            made.server.wait_until_ready()
            made.environment["MLFLOW_TRACKING_URI"] = made.server.uri
        if scenario.on_cluster:
            made.nodes = TwoNodes(environment, folder / "nodes.log")
            made.environment["RAY_ADDRESS"] = made.nodes.address
        yield made
    finally:
        if made.nodes is not None:
            made.nodes.end()
            # The cluster is not the command's: its files are tidied by who started it.
            shutil.rmtree(Path(environment["TMPDIR"]) / "ray", ignore_errors=True)
        if made.server is not None:
            made.server.kill()


def cluster_leaks(made: Engines, *, timeout_s: float = 60.0) -> str:
    """What a cluster still holds after its last sweep, in words; nothing where all was given back."""
    assert made.nodes is not None
    until = time.monotonic() + timeout_s
    while True:
        held, words = holdings(made.nodes.address, made.environment)
        if held is not None and not any(held.values()):
            return ""
        if time.monotonic() > until:
            return words
        time.sleep(2.0)


def holdings(address: str, environment: Mapping[str, str]) -> tuple[dict[str, Any] | None, str]:
    """What a Ray holds, and the same in words; None, and why, where it does not answer."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.nodes", address],
        capture_output=True, text=True, env=dict(environment), check=False, timeout=120,
    )  # fmt: skip
    if done.returncode != 0:
        return None, done.stderr[-300:]
    words = done.stdout.strip().splitlines()[-1]
    return json.loads(words), words


def base_environment(temporary: Path) -> dict[str, str]:
    """The environment of everything that is started: nothing of the caller's Ray or MLflow, temporary files apart."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_", "PYTEST_"))
    }
    return {
        **inherited,
        "TMPDIR": str(temporary),
        # torch makes this folder beside the temporary files when it is imported.
        "TORCHINDUCTOR_CACHE_DIR": str(temporary.with_suffix(".torch")),
        "PYTHONWARNINGS": "ignore",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0" * 64,
        "RAY_USAGE_STATS_ENABLED": "0",
    }
