"""The truth on disk: every fold's journal and result, every trial's point; one class spells every filename.

    OUT/sweep.json                     what is asked for: the sweep, its fold groups, the data manifests
    OUT/lease.json                     who is at work here, with a heartbeat
    STORE/folds/KEY/                   a fold's files (`storage.fold_folder`), error.json when it went wrong,
                                       pruned.json when a sweep gave it up
    STORE/aligns/KEY/                  an Align stage that folds share
    STORE/embeddings/KEY/              the teacher's answers (`trainables.teacher.stored.store`)
    STORE/queries/                     what the teacher was asked (`trainables.teacher.ledger`)
    OUT/trials/GROUP/NUMBER.json       a trial's point and folds, written before it runs
    OUT/confirmations/GROUP.json       the chosen trial and its folds on all seeds
    OUT/pairs/GROUP/NUMBER.json        a trial's pair folds, for leave-one-domain-out selection
    OUT/left_out/GROUP.json            what that selection chose, as in OUT/confirmations
    OUT/pruning/GROUP.jsonl            what the pruner decided, and why (`orchestrator.search.pruning`); append-only
    OUT/data/                          indices and checks of the images, by manifest
    OUT/mlflow.db, OUT/mlartifacts/    the projection into MLflow
    OUT/.documents/                    files on their way into MLflow, gone afterwards
    OUT/report/                        tables
    OUT/ray/                           Ray's own files, gone at the end
    OUT/run.json                       where and with what the sweep last ran (`orchestrator.store.remembered`)
    OUT/request.json                   a stop or cancel that was asked of who is at work (`scheduler.control`)
    OUT/usage/                         time that the sweep has used (`orchestrator.store.usage`)
    OUT/price.json                     price of a thousand teacher queries, once one was given
    OUT/arrivals.jsonl                 finished folds as they were first seen (`tracking.fold_order`); append-only
    OUT/promises.json                  fold groups that a query budget has let begin (`orchestrator.budgets.promises`)
    OUT/store.json                     where STORE is, when it is not OUT itself

Folds, Aligns and answers are named by content, so any number of sweeps may share one STORE. OUT and STORE may be
addresses of an object storage: then these are the folders that mirror them here (`orchestrator.store.remote.mirrors`).
Nothing here reads test-domain numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from orchestrator.store.failures import FoldAttempts, read_attempts
from orchestrator.store.records import ConfirmationRecord, GroupRecord, PairRecord, PlannedFold, Promise, TrialRecord
from orchestrator.store.remote.mirrors import StoreMirrors
from orchestrator.store.same_sweep import check_same_inputs, check_same_sweep
from search_spaces.configuration import from_mapping
from search_spaces.errors import UserError
from search_spaces.hyperparameters import TRAINER_VERSION, FoldSpec
from search_spaces.sweeps import Sweep, SweepSelection, sweep_from_mapping
from trainables.storage.atomic_files import aside_of
from trainables.storage.fold_folder import FoldFolder
from trainables.storage.json_files import read_json, read_record, write_json
from trainables.storage.json_lines import append_lines, read_lines
from trainables.storage.leases import clear_dead, living_owner_of
from trainables.storage.object_storage import is_address, parse_address

FoldState = Literal["done", "running", "failed", "pruned", "waiting"]


class Store:
    """A sweep's folder; its methods read and write, and decide nothing."""

    def __init__(self, out: str | Path, *, shared: str | Path | None = None) -> None:
        """Find the folder's files; of an address, fetch what is new, but for weights and embeddings.

        Args:
            out: OUT, a folder or an address.
            shared: STORE; None is what the folder remembers, or the folder itself.

        Raises:
            UserError: the folder remembers another STORE, or an address cannot be used.
        """
        self.mirrors = StoreMirrors()
        self.where = _place(out)
        """OUT as it was given, for who reads it."""
        self.out = self._opened(self.where)
        self.shared_file = self.out / "store.json"
        self.mirrors.fetch_first(self.shared_file)
        self.where_shared = self._where_shared(shared)
        self.shared = self._opened(self.where_shared)
        self.mirrors.refresh()
        self.embeddings_folder = self.shared / "embeddings"
        self.queries_folder = self.shared / "queries"
        self.sweep_file = self.out / "sweep.json"
        self.lease_file = self.out / "lease.json"
        self.request_file = self.out / "request.json"
        self.run_file = self.out / "run.json"
        self.usage_folder = self.out / "usage"
        self.tracking_database = self.out / "mlflow.db"
        self.tracking_artifacts = self.out / "mlartifacts"
        self.documents_folder = self.out / ".documents"
        self.report_folder = self.out / "report"
        self.ray_folder = self.out / "ray"
        self.data_folder = self.out / "data"
        self.price_file = self.out / "price.json"
        self.arrivals_file = self.out / "arrivals.jsonl"
        self.promises_file = self.out / "promises.json"
        self._read_trials: dict[tuple[str, int], TrialRecord] = {}

    def shown(self, path: str | Path) -> str:
        """A file or folder for who reads it: where it is mirrored, its address."""
        return self.mirrors.shown(Path(path))

    def fold(self, key: str) -> FoldFolder:
        return FoldFolder(self.shared / "folds" / key)

    def align(self, key: str) -> FoldFolder:
        return FoldFolder(self.shared / "aligns" / key)

    def claim(self, sweep: Sweep, groups: Sequence[GroupRecord], manifests: Mapping[str, str]) -> None:
        """Make this the sweep's folder.

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
        before = self._sweep_content()
        if before is not None:
            check_same_inputs(before, content, where=self.where)
            if before["sweep"].get("selection") != sweep.selection:
                # The last one asked for is what status, retry and report go by; what others chose stays.
                self._write(self.sweep_file, before | {"sweep": before["sweep"] | {"selection": sweep.selection}})
            return
        try:
            self._write(self.sweep_file, content)
        except OSError as error:
            raise UserError(f"cannot write to the output folder {self.where}: {error.strerror}") from None

    def check_sweep(self, sweep: Sweep) -> None:
        """Raises `UserError` where the folder belongs to another sweep already."""
        before = self._sweep_content()
        if before is not None:
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
        if self.shared != self.out and not self.shared_file.exists():
            write_json(self.shared_file, {"store": self.where_shared})

    def sweep(self) -> Sweep | None:
        """The sweep this folder belongs to; None where there is none."""
        content = self._sweep_content()
        if content is None:
            return None
        sections = ("sweep", "hyperparameters", "benchmark_hyperparameters")
        return sweep_from_mapping({name: content[name] for name in sections})

    def existing_sweep(self) -> Sweep:
        """The sweep this folder belongs to; raises `UserError` where there is none."""
        sweep = self.sweep()
        if sweep is None:
            raise UserError(f"no sweep in {self.where}; give the --out of one")
        return sweep

    def groups(self) -> tuple[GroupRecord, ...]:
        """The fold groups, in the order of the plan."""
        content = self._sweep_content() or {"groups": []}
        return tuple(from_mapping(GroupRecord, group) for group in content["groups"])

    def manifests(self) -> dict[str, str]:
        """Hash of each benchmark's images, by benchmark name."""
        content = self._sweep_content() or {"manifests": {}}
        return dict(content["manifests"])

    @property
    def price_per_1000(self) -> float | None:
        """Price of a thousand teacher queries, where one was given."""
        content = read_json(self.price_file)
        return None if content is None else float(content["price_per_1000"])

    def remember_price(self, price_per_1000: float | None) -> None:
        """Note the price for whoever looks later; None leaves it."""
        if price_per_1000 is not None:
            self._write(self.price_file, {"price_per_1000": price_per_1000})

    @property
    def is_begun(self) -> bool:
        """Whether a fold of the sweep was ever handed out, by whatever command."""
        return any((self.out / "trials").glob("*/[0-9]*.json"))

    def promises(self) -> dict[str, Promise]:
        """What a query budget has promised to fold groups, by their names."""
        content = read_json(self.promises_file) or {}
        return {str(group): from_mapping(Promise, promise) for group, promise in content.items()}

    def write_promises(self, promises: Mapping[str, Promise]) -> None:
        self._write(self.promises_file, {group: asdict(promise) for group, promise in promises.items()})

    def trials(self, group: str) -> list[TrialRecord]:
        """The group's trials by number."""
        numbers = sorted(int(path.stem) for path in self._trials_folder(group).glob("[0-9]*.json"))
        records = (self._trial(group, number) for number in numbers)
        return [record for record in records if record is not None]

    def write_trial(self, record: TrialRecord) -> None:
        """Write a trial ahead of its run; a number is written once."""
        path = self._trial_file(record.group, record.number)
        assert not path.exists(), f"trial {record.number} of {record.group} is already written"
        self._write(path, asdict(record))

    def confirmation(self, group: str, selection: SweepSelection = "source_validation") -> ConfirmationRecord | None:
        """The trial that a selection chose in the group; None while it is searched."""
        return read_record(ConfirmationRecord, self._confirmation_file(group, selection))

    def chosen(self, group: str) -> ConfirmationRecord | None:
        """The trial that the selection asked for last chose; where it had nothing to choose, what was confirmed."""
        sweep = self.sweep()
        own = None if sweep is None else self.confirmation(group, sweep.selection)
        return own or self.confirmation(group)

    def write_confirmation(self, record: ConfirmationRecord, selection: SweepSelection = "source_validation") -> None:
        self._write(self._confirmation_file(record.group, selection), asdict(record))
        # MLflow keeps the students of what was chosen.
        self.mirrors.awaited_files.update(self.fold(planned.key).student for planned in record.folds)

    def pairs(self, group: str) -> list[PairRecord]:
        """The pair folds of the group's trials, by the trial's number."""
        numbers = sorted(int(path.stem) for path in self._pairs_folder(group).glob("[0-9]*.json"))
        records = (read_record(PairRecord, self._pairs_folder(group) / f"{number}.json") for number in numbers)
        return [record for record in records if record is not None]

    def write_pairs(self, record: PairRecord) -> None:
        """Write a trial's pair folds ahead of their run."""
        self._write(self._pairs_folder(record.group) / f"{record.number}.json", asdict(record))

    def left_out_folds(self, group: str) -> Iterator[tuple[int, PlannedFold]]:
        """Folds (with their trial's number) that leave-one-domain-out selection added: pair folds, further seeds."""
        for record in self.pairs(group):
            yield from ((record.number, planned) for planned in record.folds)
        chosen = self.confirmation(group, "leave_one_domain_out")
        if chosen is not None:
            yield from ((chosen.number, planned) for planned in chosen.folds)

    def decisions(self, group: str) -> list[dict[str, Any]]:
        """What the pruner decided in a group, in order; a line torn by a crash is passed over."""
        return list(read_lines(self._decisions_file(group)))

    def append_decision(self, group: str, decision: Mapping[str, Any]) -> None:
        """Keep a decision of the pruner."""
        append_lines(self._decisions_file(group), [decision])
        self.mirrors.note(self._decisions_file(group))

    def arrivals(self) -> list[tuple[str, str]]:
        """Finished folds as (group, key), in the order in which they were first seen."""
        return [(str(line["group"]), str(line["key"])) for line in read_lines(self.arrivals_file)]

    def note_arrivals(self, arrived: Sequence[tuple[str, str]]) -> None:
        """Add finished folds that were seen for the first time."""
        if arrived:
            append_lines(self.arrivals_file, [{"group": group, "key": key} for group, key in arrived])
            # Before anything is drawn by it; what cannot be sent now is sent later.
            self.mirrors.note(self.arrivals_file)
            with suppress(OSError):
                self.mirrors.send_noted()

    def mark_pruned(self, key: str, decision: Mapping[str, Any], sweep_key: str) -> None:
        """Note in a fold's folder that a sweep gave it up, and why; other sweeps on the store may go on with it."""
        path = self._pruned_file(key)
        before = (read_json(path) or {}).get("sweeps", [])
        if sweep_key not in before:
            self._write(path, {**decision, "sweeps": [*before, sweep_key]})

    def pruned(self, key: str) -> dict[str, Any] | None:
        """Why a fold was given up, and by which sweeps; None where it was not."""
        return read_json(self._pruned_file(key))

    def planned_folds(self, group: str) -> list[PlannedFold]:
        """Every fold that the group's trials, their choice and its confirmation name, once each."""
        confirmation = self.confirmation(group)
        folds = [planned for trial in self.trials(group) for planned in trial.folds]
        folds += confirmation.folds if confirmation else ()
        folds += [planned for _, planned in self.left_out_folds(group)]
        return list({planned.key: planned for planned in folds}.values())

    def spec(self, key: str) -> FoldSpec | None:
        """What a fold was asked to compute; None before it first started."""
        return self.fold(key).read_spec()

    def attempts(self, key: str) -> FoldAttempts:
        """The fold's failed attempts."""
        return read_attempts(self.fold(key))

    def mark_running(self, key: str, owner: str) -> None:
        """Note which owner of the sweep's lease runs a fold."""
        self._write(self._running_file(key), {"owner": owner})

    def unmark_running(self, key: str) -> None:
        self._running_file(key).unlink(missing_ok=True)
        self.mirrors.note(self._running_file(key))

    def tidy_done(self, key: str) -> None:
        """Remove what a process that was killed between a fold's result and its own tidying left beside it."""
        folder = self.fold(key)
        self.unmark_running(key)
        if folder.checkpoint.exists():
            folder.checkpoint.unlink(missing_ok=True)
            self.mirrors.note(folder.checkpoint)
        clear_dead(folder.lease)
        clear_dead(folder.worker)

    def running_since(self, key: str) -> float | None:
        """When a fold that runs was started, in Unix seconds; None where it does not run."""
        try:
            return self._running_file(key).stat().st_mtime
        except FileNotFoundError:
            return None

    def living_owner(self) -> str | None:
        """Identity of the process at work here, if it is alive."""
        owner = living_owner_of(self.lease_file) or self.mirrors.living_owner()
        return None if owner is None else owner.identity

    def fold_state(self, key: str, living_owner: str | None) -> FoldState:
        """A fold's state; it runs while the one who started it lives, in this sweep or in another on the store."""
        if self.attempts(key).failed:
            return "failed"
        if self.fold(key).is_done:
            return "done"
        if self._sweep_key in (self.pruned(key) or {}).get("sweeps", ()):
            return "pruned"
        mark = read_json(self._running_file(key)) if living_owner else None
        if mark is not None and mark["owner"] == living_owner:
            return "running"
        # Another sweep on the store may be at work on it.
        return "running" if living_owner_of(self.fold(key).lease) is not None else "waiting"

    def benchmark_check_file(self, benchmark: str) -> Path:
        """Where it is noted that a benchmark's images were all read once."""
        return self.data_folder / f"{benchmark.replace('/', '-')}.checked.json"

    def _opened(self, place: str) -> Path:
        """The folder of a place: itself, or the mirror of an address."""
        if not is_address(place):
            if Path(place).is_file():
                raise UserError(f"{place} is a file; --out and --store are folders or addresses")
            return Path(place)
        return self.mirrors.open(place)

    def _where_shared(self, wanted: str | Path | None) -> str:
        try:
            before = read_json(self.shared_file)
        except OSError:
            # `check_writable` says what is wrong with the folder.
            before = None
        known = str(before["store"]) if before is not None else self.where
        now = known if wanted is None else _place(wanted)
        if is_address(self.where) and not is_address(now):
            raise UserError(f"--out is an address, so --store has to be one too, got {now}")
        if now != known and (before is not None or (self.out / "folds").exists()):
            raise UserError(
                f"{self.where} keeps its folds in {known}, not in {now}; give that --store, or another --out"
            )
        return now

    def _write(self, path: Path, content: Mapping[str, Any]) -> None:
        write_json(path, content)
        self.mirrors.note(path)

    def _sweep_content(self) -> dict[str, Any] | None:
        return read_json(self.sweep_file)

    @cached_property
    def _sweep_key(self) -> str:
        return str((self._sweep_content() or {}).get("key", ""))

    def _trial(self, group: str, number: int) -> TrialRecord | None:
        """One trial, remembered: its file is written once, and ten thousand take seconds to read."""
        if (group, number) not in self._read_trials:
            record = read_record(TrialRecord, self._trial_file(group, number))
            if record is None:
                return None
            self._read_trials[group, number] = record
        return self._read_trials[group, number]

    def _trials_folder(self, group: str) -> Path:
        return self.out / "trials" / group_slug(group)

    def _trial_file(self, group: str, number: int) -> Path:
        return self._trials_folder(group) / f"{number}.json"

    def _pairs_folder(self, group: str) -> Path:
        return self.out / "pairs" / group_slug(group)

    def _confirmation_file(self, group: str, selection: SweepSelection) -> Path:
        folder = "confirmations" if selection == "source_validation" else "left_out"
        return self.out / folder / f"{group_slug(group)}.json"

    def _decisions_file(self, group: str) -> Path:
        return self.out / "pruning" / f"{group_slug(group)}.jsonl"

    def _pruned_file(self, key: str) -> Path:
        return self.fold(key).path / "pruned.json"

    def _running_file(self, key: str) -> Path:
        return self.fold(key).path / "running.json"


def _place(given: str | Path) -> str:
    """An absolute folder, or an address in its one spelling."""
    return str(parse_address(str(given))) if is_address(given) else str(Path(given).absolute())


def group_slug(name: str) -> str:
    """A group's name as a folder name: `PACS/vl2v_adip/*` is `PACS--vl2v_adip--all`."""
    return name.replace("/", "--").replace("*", "all")
