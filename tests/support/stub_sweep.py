"""Runs a sweep of stub folds over the packaged icons: as a function, or as a command that a test can kill.

python -m tests.support.stub_sweep OUT '{"trials": 3}' '{"max_concurrent": 1}' [STORE]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from orchestrator.events import ProgressEvent
from orchestrator.run_options import RunOptions, WorkerFunctions
from orchestrator.store.sweep_folder import open_store
from orchestrator.sweep import SweepOutcome, run_sweep
from orchestrator.tracking.background import Tracking
from orchestrator.tracking.mlflow_tracker import Tracker
from search_spaces.configuration import from_mapping
from search_spaces.errors import UserError
from search_spaces.sweeps import Sweep, sweep_from_mapping

STUB = WorkerFunctions(
    run_job="tests.support.stub_worker:run_job",
    torch_trainer="tests.support.stub_worker:torch_trainer",
    preflight="tests.support.stub_worker:preflight",
)


def stub_sweep(*, hyperparameters: dict[str, Any] | None = None, **fields: Any) -> Sweep:
    """A small sweep over icons; `fields` replace those of its `sweep` section."""
    section = {"name": "stub", "benchmarks": ["icons"], "methods": ["erm"], "space": "wide", "trials": 3, "seeds": 2}
    content = {"sweep": {**section, "zero_shot": False, **fields}, "hyperparameters": hyperparameters or {}}
    return sweep_from_mapping(content)


def run_stub(
    out: str | Path, sweep: Sweep | None = None, *, tracking: Tracking | None = None, **options: Any
) -> tuple[SweepOutcome, list[ProgressEvent]]:
    """Run a stub sweep in this process; also returns what it told."""
    events: list[ProgressEvent] = []
    asked = RunOptions(functions=STUB, **{"address": "local", **options})
    return run_sweep(sweep or stub_sweep(), open_store(out), asked, events.append, tracking), events


commands: list[subprocess.Popen[bytes]] = []
"""What `started` started; `conftest.py` ends what a test that fails leaves."""


def command(
    out: Path, fields: dict[str, Any], *, shared: Path | None = None, **arguments: Any
) -> subprocess.Popen[bytes]:
    """The stub sweep as a process of its own, its log beside `out`; with its folds in `shared` where that is given."""
    texts = [str(out), json.dumps(fields), json.dumps(arguments), *([] if shared is None else [str(shared)])]
    return started(out.with_name(f"{out.name}.log"), sys.executable, "-m", "tests.support.stub_sweep", *texts)


def started(log: Path, *words: str) -> subprocess.Popen[bytes]:
    """A command as a process of its own, its output added to a log."""
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    environment.pop("RAY_ADDRESS", None)
    with log.open("ab") as output:
        process = subprocess.Popen(
            words, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    commands.append(process)
    return process


def main() -> int:
    out, fields, arguments = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
    store = open_store(out, shared=sys.argv[4] if len(sys.argv) > 4 else None)
    tracking = None
    if "tracking" in arguments:
        tracking = Tracker(store=store, sweep=stub_sweep(**fields), uri=arguments.pop("tracking"))

    def tell(event: ProgressEvent) -> None:
        about = f" {event.fold.key[:8]} {event.fold.group} {event.fold.fold}" if event.fold else ""
        print(f"{time.time():.2f} {event.kind}{about} {event.counts} {event.text}", flush=True)

    try:
        options = from_mapping(RunOptions, {"functions": STUB.to_mapping(), **arguments})
        outcome = run_sweep(stub_sweep(**fields), store, options, tell, tracking)
    except UserError as error:
        print(error)
        return 2
    print(f"seconds {outcome.seconds:.1f}")
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
