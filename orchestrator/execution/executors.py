"""Where a fold may run, and which functions run it there."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Literal

from orchestrator.run_options import Executor
from search_spaces.errors import UserError
from search_spaces.hyperparameters import Resources

ChosenExecutor = Literal["tune", "train", "inline"]


def imported(path: str) -> Callable[..., Any]:
    """The function that an import path names."""
    module, _, name = path.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def chosen_executor(executor: Executor, resources: Resources, address: str | None = None) -> ChosenExecutor:
    """`auto` is `tune` for one worker and `train` for several.

    Raises:
        UserError: several workers inside one process, or a cluster for a fold that runs in this one.
    """
    if executor == "auto":
        return "tune" if resources.workers == 1 else "train"
    if executor not in ("tune", "train", "inline"):
        raise UserError(f"executor is auto, tune, train or inline, got {executor!r}")
    if executor != "train" and resources.workers > 1:
        raise UserError(
            f"executor {executor} runs a fold in one process, got {resources.workers} workers; use train or auto"
        )
    if executor == "inline" and address is not None:
        raise UserError(f"executor inline runs folds in this process, without Ray; leave --address {address} out")
    return executor
