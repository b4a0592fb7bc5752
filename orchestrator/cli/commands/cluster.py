"""`doctor`: what is here, what is missing."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from orchestrator.cli.app import app
from orchestrator.cli.options import AddressOption, DataRootOption, JsonOption
from orchestrator.exit_codes import ExitCode


@app.command("doctor", rich_help_panel="Cluster")
def doctor_command(
    data_root: DataRootOption = None,
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="Output folder whose disk is looked at.")] = "runs",
    thorough: Annotated[
        bool, typer.Option("--thorough", help="Also load torch and start (or reach) Ray; takes some seconds.")
    ] = False,
    address: AddressOption = None,
    cluster_file: Annotated[
        str | None, typer.Option("--cluster-file", metavar="FILE", help="Check a cluster.yaml without credentials.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check Python, packages, CUDA, memory, disk, Ray, tracking and data; exit code 2 when something is wrong."""
    from orchestrator.cluster.cluster_file import check_cluster_file
    from orchestrator.doctor import examine

    findings = examine(data_root=data_root, out=out, thorough=thorough, address=address)
    if cluster_file is not None:
        findings += check_cluster_file(cluster_file)
    if as_json:
        typer.echo(json.dumps([finding.to_mapping() for finding in findings], indent=1))
    else:
        for finding in findings:
            typer.echo(f"{finding.state:<5} {finding.subject}: {finding.text}")
    if any(finding.state == "wrong" for finding in findings):
        raise typer.Exit(ExitCode.USER_MISTAKE)
