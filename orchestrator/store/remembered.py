"""Where and with what a sweep last ran, so that `retry`, `rerun` and `export-hparams` need no configuration."""

from __future__ import annotations

from dataclasses import asdict

from orchestrator.run_options import LastRun, Limits
from orchestrator.store.sweep_folder import SweepFolder
from search_spaces.benchmarks import Benchmark
from search_spaces.configuration import from_mapping
from search_spaces.errors import UserError
from search_spaces.hyperparameters import Resources
from trainables.storage.json_files import read_json, write_json


def remember_run(store: SweepFolder, run: LastRun) -> None:
    """Note the settings, in place of those of an earlier run."""
    write_json(store.run_file, asdict(run))


def last_run(store: SweepFolder) -> LastRun:
    """The settings noted last; defaults where none were."""
    content = read_json(store.run_file, advice="run the sweep again, which writes it anew")
    if content is None:
        return LastRun()
    benchmarks, resources = content["benchmarks"], content["resources"]
    try:
        parts = {
            "benchmarks": {name: from_mapping(Benchmark, value) for name, value in benchmarks.items()},
            "resources": from_mapping(Resources, resources),
            "limits": from_mapping(Limits, content.get("limits", {})),
        }
        return LastRun(**{**content, **parts})
    except (TypeError, UserError) as error:
        raise UserError(f"{store.run_file} was written by another version ({error}); run the sweep again") from None
