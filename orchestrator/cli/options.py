"""The options that commands share."""

from __future__ import annotations

from typing import Annotated, get_args

import typer

from orchestrator.run_options import Executor

BenchmarkOption = Annotated[
    list[str] | None,
    typer.Option(
        "--benchmark",
        metavar="NAME[,NAME...]|all",
        help="Benchmarks: names, `all` five, a folder below --data-root, or folder:PATH. May be repeated.",
    ),
]
MethodOption = Annotated[
    list[str] | None,
    typer.Option("--method", metavar="NAME[,NAME...]", help="Methods, the rows of the table. May be repeated."),
]
SpaceOption = Annotated[
    str | None, typer.Option("--space", metavar="NAME", help="Search space: paper (nothing), official, wide, demo.")
]
TrialsOption = Annotated[
    int | None, typer.Option("--trials", metavar="N", help="Configurations tried in each fold group.")
]
SeedsOption = Annotated[
    int | None, typer.Option("--seeds", metavar="N", help="Seeds that the best configuration of a group runs on.")
]
ScopeOption = Annotated[
    str | None,
    typer.Option(
        "--scope", metavar="domain|benchmark", help="Choose hyperparameters per test domain, or once for a benchmark."
    ),
]
SamplerOption = Annotated[
    str | None,
    typer.Option(
        "--sampler",
        metavar="tpe|random|gp|cmaes|authors",
        help="How configurations are chosen after the paper's own, which always comes first.",
    ),
]
PrunerOption = Annotated[
    str | None,
    typer.Option(
        "--pruner", metavar="none|median|asha", help="Stop folds of a search early, by source validation accuracy."
    ),
]
SelectionOption = Annotated[
    str | None,
    typer.Option(
        "--selection",
        metavar="source_validation|leave_one_domain_out",
        help="What configurations are chosen by: source validation accuracy, or further folds that leave two out.",
    ),
]
NameOption = Annotated[str | None, typer.Option("--name", metavar="NAME", help="What the sweep is called.")]
DataRootOption = Annotated[
    str | None,
    typer.Option("--data-root", metavar="DIR", help="Folder that holds the benchmarks' folders (DomainBed's layout)."),
]
OutOption = Annotated[
    str | None,
    typer.Option(
        "--out",
        metavar="DIR|ADDRESS",
        help="Output folder, or s3://BUCKET/PREFIX and the like; the same command with it goes on there.",
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
TeacherOption = Annotated[
    str | None,
    typer.Option("--teacher", metavar="NAME", help="demo, open_clip:ARCHITECTURE:TAG_OR_PATH or remote:URL."),
]
TeacherModeOption = Annotated[
    str | None,
    typer.Option(
        "--teacher-mode",
        metavar="live|views:K|clean",
        help="Ask for every image of every batch, or once for K stored views of each image, or for its clean view.",
    ),
]
QueryBudgetOption = Annotated[
    int | None,
    typer.Option(
        "--query-budget", metavar="N", help="Most teacher queries, images and texts, that a store's folds may ever ask."
    ),
]
PriceOption = Annotated[
    float | None, typer.Option("--price-per-1000", metavar="X", help="Price of a thousand teacher queries.")
]
GpuHoursBudgetOption = Annotated[
    float | None,
    typer.Option(
        "--gpu-hours-budget",
        metavar="X",
        help="Most hours that a sweep's folds may run, times the GPUs that each reserves, over all its runs.",
    ),
]
WallBudgetOption = Annotated[
    float | None,
    typer.Option("--wall-budget", metavar="X", help="Most hours that a sweep itself may run, over all its runs."),
]
MoneyBudgetOption = Annotated[
    float | None,
    typer.Option("--money-budget", metavar="X", help="Most money for a sweep's GPU-hours and the teacher's queries."),
]
GpuHourPriceOption = Annotated[
    float | None, typer.Option("--price-per-gpu-hour", metavar="X", help="Price of an hour of one GPU.")
]
SecondsPerFoldOption = Annotated[
    float | None,
    typer.Option(
        "--seconds-per-fold",
        metavar="X",
        help="What budgets take a fold to last until one of its method is finished; an assumption if absent.",
    ),
]
MaxFailuresOption = Annotated[
    int | None,
    typer.Option(
        "--max-failures",
        metavar="N",
        help="Further attempts at a fold that crashed or whose process died (1 if absent); lost machines do not count.",
    ),
]
ConfigOption = Annotated[
    str | None,
    typer.Option("--config", metavar="FILE.yaml", help="Configuration file, or a packaged one: demo.yaml, smoke.yaml."),
]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", metavar="N", help="Processes that share one fold (data parallel).")
]
GpusOption = Annotated[
    float | None,
    typer.Option("--gpus-per-worker", metavar="X", help="GPUs for each worker; a fraction shares a GPU between folds."),
]
EXECUTORS: tuple[str, ...] = get_args(Executor)
ExecutorOption = Annotated[
    str,
    typer.Option(
        "--executor",
        metavar="|".join(EXECUTORS),
        help="Run folds inside Tune actors (tune), through a TorchTrainer (train), one after the other in this process "
        "(inline: no Ray, and a breakpoint works), or in one of the first two by the number of workers.",
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option("--address", metavar="ADDRESS", help="Ray cluster to use; RAY_ADDRESS or an own local one if absent."),
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
        metavar="domainbed|unbiased",
        help="Error beside a mean: DomainBed's (divides by n) or the unbiased one (divides by n - 1).",
    ),
]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Overrides: align.lr=1e-4, resources.threads_per_worker=2, ..."),
]
