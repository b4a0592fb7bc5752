"""One fold in a nested trainer, through real Ray."""

from __future__ import annotations

from pathlib import Path

from orchestrator.run_options import RunOptions
from orchestrator.store.sweep_folder import open_store
from orchestrator.train import prepare_fold
from search_spaces.folds import Fold
from search_spaces.hyperparameters import Hyperparameters, Resources
from trainables.jobs import FoldJob

HYPERPARAMETERS = Hyperparameters(student="small", teacher="demo")


def one_fold(out: Path, resources: Resources | None = None) -> FoldJob:
    return prepare_fold(
        Fold(benchmark="icons", test_domains=("line",), seed=0),
        method="erm",
        hyperparameters=HYPERPARAMETERS,
        store=open_store(out),
        options=RunOptions(resources=resources or Resources()),
    )
