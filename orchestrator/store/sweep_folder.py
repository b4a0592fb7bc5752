"""OUT: what one sweep asked for, tried and selected, and where its folds lie; one class spells every filename.

    OUT/sweep.json                     what is asked for: the sweep, its fold groups, the data manifests
    OUT/lease.json                     which process works here, with a heartbeat
    OUT/trials/, confirmations/,       the records of its searches (`orchestrator.store.search_records`)
        pairs/, left_out/, pruning/
    OUT/folds/, aligns/,               the fold store, where STORE is OUT itself (`orchestrator.store.fold_store`)
        embeddings/, queries/
    OUT/store.json                     where STORE is, when it is not OUT itself
    OUT/data/                          indices and checks of the images, by manifest
    OUT/mlflow.db, OUT/mlartifacts/    the projection into MLflow
    OUT/.documents/                    files on their way into MLflow, gone afterwards
    OUT/report/                        tables
    OUT/ray/                           Ray's own files, gone at the end
    OUT/run.json                       how the sweep last ran (`orchestrator.run_options`)
    OUT/request.json                   a stop or cancel that was asked of that process (`scheduler.control`)
    OUT/usage/                         time that the sweep has used (`orchestrator.store.usage`)
    OUT/price.json                     price of a thousand teacher queries, once one was given
    OUT/promises.json                  fold groups that a query budget has let begin (`orchestrator.budgets.admission`)

OUT and STORE may be addresses of an object storage: then these are the folders that mirror them here
(`orchestrator.store.remote.mirrors`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from orchestrator.run_options import RunOptions
from orchestrator.store.fold_store import FoldStore
from orchestrator.store.records import Promise, SelectedTrial
from orchestrator.store.remote.mirrors import StoreMirrors
from orchestrator.store.same_sweep import check_same_inputs, check_same_sweep
from orchestrator.store.search_records import SearchRecords
from search_spaces.configuration import from_mapping
from search_spaces.errors import UserError, first_line
from search_spaces.fold_groups import FoldGroup
from search_spaces.hyperparameters import TRAINER_VERSION
from search_spaces.sweeps import Sweep, sweep_from_mapping
from trainables.storage.atomic_files import aside_of
from trainables.storage.json_files import DamagedFileError, damaged, read_json, readable_json, write_json
from trainables.storage.leases import living_owner_of
from trainables.storage.object_storage import is_address, parse_address

SHARED_FILE = "store.json"
SECTIONS = {"sweep": dict, "groups": list, "manifests": dict}
"""What `sweep.json` holds at least, and as what."""


class SweepFolder:
    """OUT itself, with the records of its searches and the store of its folds; decides nothing."""

    def __init__(
        self, out: Path, *, shared: Path, mirrors: StoreMirrors | None = None, where: str = "", where_shared: str = ""
    ) -> None:
        """Name the folder's files; nothing is read. `open_store` finds the folders.

        Args:
            out: OUT, on a disk of this machine.
            shared: STORE, likewise.
            mirrors: of those of the two that are addresses.
            where: OUT as it was given, for messages.
            where_shared: STORE as it was given, likewise.
        """
        self.mirrors = StoreMirrors() if mirrors is None else mirrors
        self.out, self.shared = out, shared
        self.where, self.where_shared = where or str(out), where_shared or str(shared)
        self.folds = FoldStore(shared, mirrors=self.mirrors, sweep_key=lambda: self._sweep_key)
        self.records = SearchRecords(out, folds=self.folds, mirrors=self.mirrors)
        self.shared_file = out / SHARED_FILE
        self.sweep_file = out / "sweep.json"
        self.lease_file = out / "lease.json"
        self.request_file = out / "request.json"
        self.run_file = out / "run.json"
        self.usage_folder = out / "usage"
        self.tracking_database = out / "mlflow.db"
        self.tracking_artifacts = out / "mlartifacts"
        self.documents_folder = out / ".documents"
        self.report_folder = out / "report"
        self.ray_folder = out / "ray"
        self.data_folder = out / "data"
        self.price_file = out / "price.json"
        self.promises_file = out / "promises.json"

    def shown(self, path: str | Path) -> str:
        """A file or folder for who reads it: where it is mirrored, its address."""
        return self.mirrors.shown(Path(path))

    def claim(self, sweep: Sweep, groups: Sequence[FoldGroup], manifests: Mapping[str, str]) -> None:
        """Make this the sweep's folder; a sweep that handed out no fold owns none, and gives way.

        Raises:
            UserError: the folder cannot be written, or belongs to another sweep, other images or another trainer.
        """
        content = {
            "key": sweep.key,
            "trainer_version": TRAINER_VERSION,
            "manifests": dict(manifests),
            "groups": [asdict(group) for group in groups],
            **sweep.to_mapping(),
        }
        self.check_sweep(sweep)
        before = self._sweep_content() if self.records.has_trials else None
        if before is not None:
            check_same_inputs(before, content, where=self.where)
            # The selection asked for last is what status, retry and report go by; the rest follows from the key.
            content["sweep"]["name"] = before["sweep"].get("name", sweep.name)
            if before != json.loads(json.dumps({**before, **content})):
                self._write(self.sweep_file, {**before, **content})
            return
        try:
            self._write(self.sweep_file, content)
        except OSError as error:
            raise UserError(f"cannot write to the output folder {self.where}: {error.strerror}") from None
        # The key may be of the sweep that gave way.
        self.__dict__.pop("_sweep_key", None)

    def check_sweep(self, sweep: Sweep) -> None:
        """Raises `UserError` where another sweep has handed out folds in this folder."""
        before = self._sweep_content()
        if before is not None and self.records.has_trials:
            check_same_sweep(before, sweep, where=self.where)

    def check_writable(self) -> None:
        """Make the folders, and note where STORE is; raises `UserError` where one cannot be made or written."""
        for folder, kind in ((self.out, "output folder"), (self.shared, "store")):
            probe = aside_of(folder / "probe")
            try:
                folder.mkdir(parents=True, exist_ok=True)
                probe.touch()
                probe.unlink()
            except OSError as error:
                raise UserError(f"cannot write to the {kind} {folder}: {error.strerror}") from None
        if self.shared == self.out:
            self.shared_file.unlink(missing_ok=True)
            self.mirrors.note(self.shared_file)
        elif _remembered(self.shared_file) != self.where_shared:
            write_json(self.shared_file, {"store": self.where_shared})

    def sweep(self) -> Sweep | None:
        """The sweep this folder belongs to; None where there is none."""
        content = self._sweep_content()
        if content is None:
            return None
        sections = ("sweep", "hyperparameters", "benchmark_hyperparameters")
        with _read_from(self.sweep_file):
            return sweep_from_mapping({name: content[name] for name in sections})

    def existing_sweep(self) -> Sweep:
        """The sweep this folder belongs to; raises `UserError` where there is none."""
        sweep = self.sweep()
        if sweep is None:
            raise UserError(f"no sweep in {self.where}; give the --out of one")
        return sweep

    def groups(self) -> tuple[FoldGroup, ...]:
        """The fold groups, in the order of the plan."""
        content = self._sweep_content() or {"groups": []}
        with _read_from(self.sweep_file):
            return tuple(from_mapping(FoldGroup, group) for group in content["groups"])

    def manifests(self) -> dict[str, str]:
        """Hash of each benchmark's images, by benchmark name."""
        content = self._sweep_content() or {"manifests": {}}
        with _read_from(self.sweep_file):
            return dict(content["manifests"])

    @property
    def price_per_1000(self) -> float | None:
        """Price of a thousand teacher queries, where one was given."""
        content = read_json(self.price_file, advice="remove it, and give the price once more")
        try:
            return None if content is None else float(content["price_per_1000"])
        except TypeError:
            raise damaged(self.price_file, "it holds no price", "remove it, and give the price once more") from None

    def remember_run(self, options: RunOptions) -> None:
        """Note how the sweep runs, so that `retry`, `rerun` and `export-hparams` need no configuration.

        A price that is not given leaves the one that is known.
        """
        if options.price_per_1000 is not None:
            self._write(self.price_file, {"price_per_1000": options.price_per_1000})
        self._write(self.run_file, options.to_mapping())

    def last_run(self) -> RunOptions:
        """How the sweep last ran, apart from the price; defaults where nothing is noted.

        Raises:
            UserError: the note is damaged, or of another version.
        """
        content = read_json(self.run_file, advice="run the sweep again, which writes it again")
        if content is None:
            return RunOptions()
        # What an older file lacks has its default; these two were always there.
        needed = {name: content[name] for name in ("benchmarks", "resources")}
        try:
            return from_mapping(RunOptions, {**content, **needed})
        except UserError as error:
            raise UserError(f"{self.run_file} was written by another version ({error}); run the sweep again") from None

    def promises(self) -> dict[str, Promise]:
        """What a query budget has promised to fold groups, by their names."""
        content = readable_json(self.promises_file)
        try:
            return {str(group): from_mapping(Promise, promise) for group, promise in content.items()}
        except UserError:
            # Groups that a budget has let begin are let begin again while it suffices.
            return {}

    def write_promises(self, promises: Mapping[str, Promise]) -> None:
        self._write(self.promises_file, {group: asdict(promise) for group, promise in promises.items()})

    def selected(self, group: str) -> SelectedTrial | None:
        """The selected trial, by the selection that was asked for last; the only trial where nothing is searched."""
        sweep = self.sweep()
        own = None if sweep is None else self.records.selected(group, sweep.selection)
        return own or self.records.selected(group)

    def living_owner(self) -> str | None:
        """Identity of the process that works here, if it is alive."""
        owner = living_owner_of(self.lease_file) or self.mirrors.living_owner()
        return None if owner is None else owner.identity

    def benchmark_check_file(self, benchmark: str) -> Path:
        """Where it is noted that a benchmark's images were all read once."""
        return self.data_folder / f"{benchmark.replace('/', '-')}.checked.json"

    def _write(self, path: Path, content: Mapping[str, Any]) -> None:
        write_json(path, content)
        self.mirrors.note(path)

    def _sweep_content(self) -> dict[str, Any] | None:
        content = read_json(self.sweep_file)
        if content is None:
            return None
        for name, kind in SECTIONS.items():
            if not isinstance(content.get(name), kind):
                raise damaged(self.sweep_file, f"it has no {name!r}")
        return content

    @cached_property
    def _sweep_key(self) -> str:
        return str((self._sweep_content() or {}).get("key", ""))


def check_could_write(store: SweepFolder) -> None:
    """Raises `UserError` where the folders cannot be made or written, as far as a look tells; makes nothing."""
    for folder, kind in ((store.out, "output folder"), (store.shared, "store")):
        place = next(place for place in (folder, *folder.parents) if place.exists())
        if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
            raise UserError(f"cannot write to the {kind} {folder}: {place} refuses")


@contextmanager
def _read_from(file: Path) -> Iterator[None]:
    """What is not as it was written there is damage of that file."""
    try:
        yield
    except DamagedFileError:
        raise
    except (UserError, TypeError, ValueError, AttributeError) as error:
        raise damaged(file, first_line(error)) from None


def open_store(out: str | Path, *, shared: str | Path | None = None) -> SweepFolder:
    """Find a sweep's folder and its store; of an address, fetch what is new, but for weights and embeddings.

    Args:
        out: OUT, a folder or an address.
        shared: STORE, likewise; None is what the folder remembers, or the folder itself.

    Raises:
        UserError: the folder remembers another STORE, or an address cannot be used.
    """
    mirrors, where = StoreMirrors(), _place(out)
    folder = _opened(where, mirrors)
    mirrors.fetch_first(folder / SHARED_FILE)
    known = _remembered(folder / SHARED_FILE)
    where_shared = (known or where) if shared is None else _place(shared)
    if is_address(where) and not is_address(where_shared):
        raise UserError(f"--out is an address, so --store has to be one too, got {where_shared}")
    store = _opened(where_shared, mirrors)
    mirrors.refresh()
    opened = SweepFolder(folder, shared=store, mirrors=mirrors, where=where, where_shared=where_shared)
    has_folds = opened.records.has_trials or (known is None and (folder / "folds").exists())
    if where_shared != (known or where) and has_folds:
        raise UserError(
            f"{where} keeps its folds in {known or where}, not in {where_shared}; give that --store, or another --out"
        )
    return opened


def _opened(place: str, mirrors: StoreMirrors) -> Path:
    """The folder of a place: itself, or the mirror of an address."""
    if not is_address(place):
        if Path(place).is_file():
            raise UserError(f"{place} is a file; --out and --store are folders or addresses")
        return Path(place)
    return mirrors.open(place)


def _remembered(file: Path) -> str | None:
    """Where STORE is by OUT's own note; None where it is OUT itself."""
    try:
        content = read_json(file)
    except OSError:
        # `check_writable` says what is wrong with the folder.
        return None
    return None if content is None else str(content["store"])


def _place(given: str | Path) -> str:
    """An absolute folder, or an address in its one spelling."""
    return str(parse_address(str(given))) if is_address(given) else str(Path(given).absolute())
