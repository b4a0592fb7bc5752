"""The options that are no field of `Sweep` or `RunOptions`, and single ones of these for commands that take no more."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.shared_options import Taken, option_of
from orchestrator.cli.sweep_arguments import RunArguments
from orchestrator.run_options import RunOptions
from search_spaces.sweeps import Sweep

BenchmarkOption = Annotated[list[str] | None, option_of(Sweep, "benchmarks")]
DataRootOption = Annotated[str | None, option_of(RunOptions, "data_root")]
PriceArguments = Annotated[RunArguments, Taken(only=("price_per_1000",))]
AddressOption = Annotated[str | None, option_of(RunOptions, "address")]
OutOption = Annotated[
    str | None,
    typer.Option(
        "--out",
        metavar="DIR|ADDRESS",
        help="Output folder, or s3://BUCKET/PREFIX and the like. The same command resumes there.",
    ),
]
ExistingOutOption = Annotated[
    str, typer.Option("--out", metavar="DIR|ADDRESS", help="Output folder or address of a sweep.")
]
StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="DIR|ADDRESS",
        help="Where folds, Align stages and the teacher's answers lie, to be shared by sweeps; --out itself if absent.",
    ),
]
TRACKING = ("now", "later")
TrackingOption = Annotated[
    str,
    typer.Option(
        "--tracking",
        metavar="now|later",
        help="Write MLflow while the sweep runs, or leave it to `sync` afterwards (a server that is not there yet).",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
ErrorOption = Annotated[
    str,
    typer.Option(
        "--error",
        metavar="domainbed|sample|t95",
        help="Error beside a mean over seeds: DomainBed's (population SD / sqrt(n)), sample SD / sqrt(n), or half of "
        "the 95% t-interval. One seed has none.",
    ),
]
