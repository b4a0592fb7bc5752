"""Where and with what a sweep last ran, so that `retry`, `rerun` and `export-hparams` need no configuration."""

from __future__ import annotations

from orchestrator.run_options import RunOptions
from orchestrator.store.sweep_folder import SweepFolder
from search_spaces.configuration import from_mapping
from search_spaces.errors import UserError
from trainables.storage.json_files import read_json, write_json


def remember_run(store: SweepFolder, options: RunOptions) -> None:
    """Note the options, in place of those of an earlier run."""
    write_json(store.run_file, options.to_mapping())


def last_run(store: SweepFolder) -> RunOptions:
    """The options noted last; defaults where none were."""
    content = read_json(store.run_file, advice="run the sweep again, which writes it anew")
    if content is None:
        return RunOptions()
    # What an older file lacks has its default; these two were always there.
    needed = {name: content[name] for name in ("benchmarks", "resources")}
    try:
        return from_mapping(RunOptions, {**content, **needed})
    except UserError as error:
        raise UserError(f"{store.run_file} was written by another version ({error}); run the sweep again") from None
