"""`sync`: MLflow brought up to date with the store, and when it is named."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import typer

from orchestrator.cli.app import PROGRAM, app
from orchestrator.cli.options import DataRootOption, ExistingOutOption, JsonOption
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from orchestrator.store.sweep_folder import SweepFolder
    from orchestrator.sweep import SweepOutcome


@app.command()
def sync(out: ExistingOutOption, data_root: DataRootOption = None, as_json: JsonOption = False) -> None:
    """Bring MLflow up to date with a sweep's folder, after it was out of reach; doing it twice adds nothing."""
    from orchestrator.plan.plan import make_plan
    from orchestrator.store.remembered import last_run
    from orchestrator.store.sweep_folder import open_store
    from orchestrator.tracking.mlflow_client import TrackingError
    from orchestrator.tracking.mlflow_tracker import Tracker
    from trainables.storage.redaction import redact

    store = open_store(out)
    sweep, ran = store.existing_sweep(), last_run(store)
    benchmarks = {name: ran.benchmark(name) for name in sweep.benchmarks}
    plan = make_plan(sweep, benchmarks)
    tracker = Tracker(store=store, sweep=sweep, documents={"plan.json": plan.to_mapping()})
    tracker.preflight()
    try:
        written = tracker.sync()
    except TrackingError as error:
        raise UserError(f"tracking address {redact(tracker.uri)} did not take everything: {error}") from None
    if as_json:
        typer.echo(json.dumps({"runs_written": written, "address": redact(tracker.uri)}))
    else:
        typer.echo(f"{written} runs written to {redact(tracker.uri)}; the others were up to date")


def say_where_tracking_stands(store: SweepFolder, outcome: SweepOutcome, *, track_now: bool) -> None:
    """Say on stderr that MLflow lacks something, and what fills it in; nothing where it has everything."""
    command = f"{PROGRAM} sync --out {store.where}"
    if not track_now:
        print(f"MLflow was left for later:  {command}", file=sys.stderr)
    elif outcome.tracking_behind:
        print(f"MLflow is behind ({outcome.tracking_behind}); once it is back:  {command}", file=sys.stderr)
