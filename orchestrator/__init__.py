"""The public Python API. Importing it loads no engine: each name is loaded when it is first used.

from orchestrator import RunOptions, Sweep, build_report, open_store, run_sweep
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.report.report import build_report
    from orchestrator.run_options import RunOptions
    from orchestrator.store.sweep_folder import open_store
    from orchestrator.sweep import run_sweep
    from search_spaces.errors import UserError
    from search_spaces.hyperparameters import Hyperparameters, Resources
    from search_spaces.sweeps import Sweep

__all__ = [
    "Hyperparameters",
    "Resources",
    "RunOptions",
    "Sweep",
    "UserError",
    "build_report",
    "open_store",
    "run_sweep",
]

PLACES = {
    "Hyperparameters": "search_spaces.hyperparameters",
    "Resources": "search_spaces.hyperparameters",
    "RunOptions": "orchestrator.run_options",
    "Sweep": "search_spaces.sweeps",
    "UserError": "search_spaces.errors",
    "build_report": "orchestrator.report.report",
    "open_store": "orchestrator.store.sweep_folder",
    "run_sweep": "orchestrator.sweep",
}
"""The module of each public name."""


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(PLACES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
