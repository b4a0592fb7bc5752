"""`stop` and `cancel`: what is asked of a sweep that runs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.app import app
from orchestrator.cli.options import ExistingOutOption

if TYPE_CHECKING:
    from orchestrator.scheduler.control import Wish


NoWaitOption = Annotated[bool, typer.Option("--no-wait", help="Leave the request and end at once.")]


@app.command("stop", rich_help_panel="Control")
def stop_command(out: ExistingOutOption, no_wait: NoWaitOption = False) -> None:
    """Let the running sweep finish the folds that run and start nothing new; the same sweep command resumes later."""
    _ask(out, "stop", no_wait=no_wait)


@app.command("cancel", rich_help_panel="Control")
def cancel_command(out: ExistingOutOption, no_wait: NoWaitOption = False) -> None:
    """Stop the running sweep now and keep everything; folds resume from their last checkpoint."""
    _ask(out, "cancel", no_wait=no_wait)


def _ask(out: str, wish: Wish, *, no_wait: bool) -> None:
    from orchestrator.inspection.status import sweep_status
    from orchestrator.scheduler.control import ask, wait_until_ended
    from orchestrator.store.sweep_folder import open_store

    store = open_store(out)
    request = ask(store, wish)
    if request.wish != wish:
        typer.echo(f"the sweep in {store.where} is being cancelled already")
    if no_wait:
        typer.echo(f"asked the sweep in {store.where} to {request.wish}; it has not ended yet")
        return
    running = sweep_status(store).counts.running
    what = f"its {running} running folds finish" if request.wish == "stop" else "its workers are ended"
    print(f"asked the sweep in {store.where} to {request.wish}; waiting until {what} (Ctrl-C ends the waiting only)",
          file=sys.stderr)  # fmt: skip
    wait_until_ended(store, request)
    store.mirrors.refresh()
    typer.echo(sweep_status(store).line)
