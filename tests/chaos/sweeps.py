"""The small real sweeps that are disturbed: icons, a tiny student, every engine once."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Victim = Literal["command", "actor", "driver", "worker", "raylet", "mlflow"]

VICTIMS: dict[Victim, str] = {
    "command": "the command itself",
    "actor": "the Tune actor of a trial",
    "driver": "the Tune actor that drives a TorchTrainer, in mid-fold",
    "worker": "a worker of Ray Train",
    "raylet": "the raylet of the second node of a cluster",
    "mlflow": "the MLflow server",
}

TINY = (
    "student=small",
    "student_weights=random",
    "teacher=demo",
    "image_size=32",
    "batch_size_per_domain=4",
    "evaluate_every=10",
    "eval_batch_size=64",
    "align.num_steps=20",
    "distill.num_steps=30",
)

PATIENCE = ("--max-failures", "50")
"""With crashes, because a fold that gave up for a while is something that choices and later suggestions go by."""
RANDOM = (
    "--method", "erm,vl2v_adip", "--space", "demo", "--trials", "2", "--seeds", "2", *PATIENCE,
    "sweep.sampler=random", *TINY,
)  # fmt: skip
TPE = (
    "--method", "erm", "--space", "demo", "--trials", "12", "--seeds", "1", "--max-concurrent", "1",
    *PATIENCE, "sweep.sampler=tpe", *TINY, "distill.num_steps=10", "evaluate_every=5",
)  # fmt: skip
"""The first ten trials of a TPE study are drawn at random: twelve have two that follow from the others."""
ONE_TRIAL = ("--method", "erm,vl2v_adip", "--space", "paper", "--seeds", "1", "teacher_mode=views:1", *TINY)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenario:
    """A sweep, where it runs, and who is killed."""

    name: str
    arguments: tuple[str, ...]
    victims: tuple[Victim, ...]
    own: frozenset[Victim]
    """The victims that this scenario is for; the others are killed too where it runs."""
    executor: str = "tune"
    on_cluster: bool = False
    tracked: bool = False
    """Into an MLflow server; otherwise into the sweep's own file."""


SCENARIOS = (
    Scenario(name="tune", arguments=RANDOM, victims=("command", "actor"), own=frozenset[Victim]({"command", "actor"})),
    Scenario(
        name="tracked",
        arguments=TPE,
        victims=("mlflow", "command", "actor"),
        own=frozenset[Victim]({"mlflow"}),
        tracked=True,
    ),
    Scenario(
        name="train",
        arguments=ONE_TRIAL,
        victims=("worker", "command", "driver"),
        own=frozenset[Victim]({"worker", "driver"}),
        executor="train",
    ),
    Scenario(
        name="cluster",
        arguments=RANDOM,
        victims=("raylet", "command", "actor"),
        own=frozenset[Victim]({"raylet"}),
        on_cluster=True,
    ),
)


@dataclass(kw_only=True, slots=True)
class Command:
    """One start of `sweep`, in a session of its own."""

    arguments: tuple[str, ...]
    out: Path
    environment: dict[str, str]
    process: subprocess.Popen[bytes] = field(init=False)
    spoken: int = field(init=False)
    """Bytes of the log that earlier starts wrote."""

    def __post_init__(self) -> None:
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.spoken = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log, self.table.open("wb") as table:
            self.process = subprocess.Popen(
                [
                    Path(sys.executable).with_name("vl2v-orchestrate"), "sweep", "--benchmark", "icons",
                    "--out", self.out, "-y", *self.arguments,
                ],
                stdout=table, stderr=log, env=self.environment, start_new_session=True,
            )  # fmt: skip

    @property
    def log(self) -> Path:
        """What all starts told on stderr."""
        return self.out.with_suffix(".log")

    @property
    def table(self) -> Path:
        """What the last start printed on stdout."""
        return self.out.with_suffix(".stdout")

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def said(self, since: int) -> list[str]:
        """Lines of the log from a byte on."""
        return self.log.read_bytes()[since:].decode(errors="replace").splitlines()
