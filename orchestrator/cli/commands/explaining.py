"""`explain`, `rerun` and `export-hparams`: why a result is what it is, and how to have it again."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.app import FAILED_FOLDS, app
from orchestrator.cli.commands.watching import FoldArgument
from orchestrator.cli.console import wide_console
from orchestrator.cli.options import AddressOption, DataRootOption, ExistingOutOption, JsonOption, QueryBudgetOption
from orchestrator.cli.sweep_arguments import check_money
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from orchestrator.inspection.export import ExportedGroup
    from orchestrator.rerun import Comparison


@app.command()
def explain(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="FOLD|TRIAL",
            help="A fold as `logs` takes it, or a trial: BENCHMARK/METHOD/DOMAIN/trialN (BENCHMARK/METHOD/trialN where "
            "one configuration serves all domains).",
        ),
    ],
    out: ExistingOutOption,
    as_json: JsonOption = False,
) -> None:
    """Say why a fold or trial was tried, how it ended (done, failed, pruned), what was chosen, and what it shared."""
    from orchestrator.inspection.explain import explain_fold, explain_trial
    from orchestrator.inspection.fold_names import known_folds
    from orchestrator.store.sweep_folder import open_store

    known = known_folds(open_store(out))
    trial = known.trial(subject)
    explained = explain_trial(known, trial) if trial is not None else explain_fold(known, known.fold(subject))
    if as_json:
        typer.echo(json.dumps(dict(explained.facts), indent=1))
        return
    typer.echo(explained.subject)
    for line in explained.lines:
        typer.echo(f"  {line}")


@app.command()
def rerun(
    fold: FoldArgument,
    out: ExistingOutOption,
    local: Annotated[
        bool, typer.Option("--local", help="In this process without Ray, so that a breakpoint works; else through it.")
    ] = False,
    into: Annotated[
        str | None, typer.Option("--into", metavar="DIR", help="New folder for it; one below OUT/reruns if absent.")
    ] = None,
    data_root: DataRootOption = None,
    query_budget: QueryBudgetOption = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run one fold again in a fresh folder and say whether weights and metrics are bit-identical to the stored ones.

    What it asks of the teacher is metered in the store like any fold's. Exit code 3 where the two differ.
    """
    from orchestrator.cli.progress import print_evaluation, print_report
    from orchestrator.inspection.fold_names import known_folds
    from orchestrator.rerun import compare, rerun_job, run_here, run_on_ray
    from orchestrator.store.sweep_folder import open_store
    from orchestrator.train import FoldFailedError

    check_money(query_budget, None)
    if local and address is not None:
        raise UserError("--local runs without Ray; leave --address or --local out")
    known = known_folds(open_store(out))
    found = known.fold(fold)
    job, notes = rerun_job(
        known,
        found,
        into=Path(into) if into else None,
        data_root=data_root,
        query_budget=query_budget,
        local=local,
    )
    print(f"running {found.label} again in {known.store.shown(job.folder)}", file=sys.stderr)
    if local:
        result = run_here(job, print_report)
    else:
        try:
            result = run_on_ray(job, address=address, progress=print_evaluation)
        except FoldFailedError as failed:
            print(f"error: {failed}", file=sys.stderr)
            raise typer.Exit(FAILED_FOLDS) from None
    compared = compare(known.store, found.key, job, notes)
    _show_comparison(compared, result, known.store.shown(job.folder), as_json=as_json)
    if not compared.agrees:
        raise typer.Exit(FAILED_FOLDS)


def _show_comparison(compared: Comparison, result: dict[str, Any], folder: str, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({**compared.to_mapping(), "folder": folder, "result": result}, indent=1))
        return
    typer.echo(f"weights: {compared.weights}; losses, evaluations and result: {compared.metrics}")
    if compared.first_difference:
        typer.echo(f"first difference: {compared.first_difference}")
    for note in compared.notes:
        typer.echo(f"note: {note}")
    accuracy = result["source_validation"]["accuracy"]
    typer.echo(f"source validation {accuracy:.2%} in {result['seconds']:.0f} s: {folder}")


@app.command()
def export_hparams(
    out: ExistingOutOption,
    group: Annotated[
        str | None,
        typer.Argument(metavar="[GROUP]", help="A fold group, such as icons/erm/line: its YAML is printed."),
    ] = None,
    into: Annotated[
        str | None,
        typer.Option("--into", metavar="DIR", help="Folder for one file per fold group; OUT/hparams if absent."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the chosen hyperparameters of each fold group as YAML that --config of sweep and train takes back."""
    from orchestrator.inspection.export import export_groups
    from orchestrator.store.search_records import group_slug
    from orchestrator.store.sweep_folder import open_store

    store = open_store(out)
    exported = export_groups(store, only=group)
    if as_json:
        typer.echo(json.dumps({item.group: item.config for item in exported}, indent=1))
        return
    if group is not None and into is None:
        typer.echo(exported[0].text, nl=False)
        return
    folder = Path(into) if into else store.out / "hparams"
    rows = []
    for item in exported:
        path = folder / f"{group_slug(item.group)}.yaml"
        _write(path, item.text)
        rows.append((item, store.shown(path)))
    store.mirrors.send_now([folder])
    _show_exported(rows)


def _write(path: Path, text: str) -> None:
    from trainables.storage.json_files import write_atomically

    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None


def _show_exported(rows: list[tuple[ExportedGroup, str]]) -> None:
    from rich.table import Table

    table = Table("fold group", "trial", "source validation", "file")
    for item, path in rows:
        accuracy = "-" if item.accuracy is None else f"{item.accuracy:.2%}"
        table.add_row(item.group, str(item.trial), accuracy, path)
    wide_console().print(table if rows else "no fold group has chosen a configuration yet")
