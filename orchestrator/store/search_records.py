"""What a sweep tried, selected and gave up, by fold group.

OUT/trials/GROUP/NUMBER.json    a trial's point and folds, written before it runs
OUT/confirmations/GROUP.json    the selected trial and its folds on all seeds
OUT/pairs/GROUP/NUMBER.json     a trial's pair folds, for leave-one-domain-out selection
OUT/left_out/GROUP.json         what that selection selected, as in OUT/confirmations
OUT/pruning/GROUP.jsonl         what the pruner decided, and why (`orchestrator.search.pruning`); append-only
    OUT/arrivals.jsonl              finished folds as they were first seen (`tracking.fold_order`); append-only
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchestrator.store.fold_store import FoldStore
from orchestrator.store.records import PairRecord, PlannedFold, SelectedTrial, TrialRecord
from orchestrator.store.remote.mirrors import StoreMirrors
from search_spaces.sweeps import SweepSelection
from trainables.storage.json_files import read_record, readable_record, write_json
from trainables.storage.json_lines import append_lines, read_lines


class SearchRecords:
    """The records of a sweep's searches; its methods read and write, and decide nothing."""

    def __init__(self, out: Path, *, folds: FoldStore, mirrors: StoreMirrors) -> None:
        self._out, self._folds, self._mirrors = out, folds, mirrors
        self._arrivals_file = out / "arrivals.jsonl"
        self._read_trials: dict[tuple[str, int], TrialRecord] = {}

    @property
    def has_trials(self) -> bool:
        """Whether a fold of the sweep was ever handed out, by whatever command."""
        return any((self._out / "trials").glob("*/[0-9]*.json"))

    def trials(self, group: str) -> list[TrialRecord]:
        """The group's trials by number."""
        numbers = sorted(int(path.stem) for path in self._folder("trials", group).glob("[0-9]*.json"))
        records = (self._trial(group, number) for number in numbers)
        return [record for record in records if record is not None]

    def write_trial(self, record: TrialRecord) -> None:
        """Write a trial ahead of its run; a number is written once."""
        path = self._trial_file(record.group, record.number)
        assert not path.exists(), f"trial {record.number} of {record.group} is already written"
        self._write(path, asdict(record))

    def selected(self, group: str, selection: SweepSelection = "source_validation") -> SelectedTrial | None:
        """The trial that a selection selected in the group; None while it is searched.

        A damaged file says nothing: the next sweep selects again, from the same results.
        """
        return readable_record(SelectedTrial, self._selected_file(group, selection))

    def write_selected(self, record: SelectedTrial, selection: SweepSelection = "source_validation") -> None:
        self._write(self._selected_file(record.group, selection), asdict(record))
        # MLflow keeps the students of selected trials.
        self._mirrors.awaited_files.update(self._folds.fold(planned.key).student for planned in record.folds)

    def pairs(self, group: str) -> list[PairRecord]:
        """The pair folds of the group's trials, by the trial's number."""
        numbers = sorted(int(path.stem) for path in self._folder("pairs", group).glob("[0-9]*.json"))
        records = (read_record(PairRecord, self._folder("pairs", group) / f"{number}.json") for number in numbers)
        return [record for record in records if record is not None]

    def write_pairs(self, record: PairRecord) -> None:
        """Write a trial's pair folds ahead of their run."""
        self._write(self._folder("pairs", record.group) / f"{record.number}.json", asdict(record))

    def left_out_folds(self, group: str) -> Iterator[tuple[int, PlannedFold]]:
        """Folds (with their trial's number) that leave-one-domain-out selection added: pair folds, further seeds."""
        for record in self.pairs(group):
            yield from ((record.number, planned) for planned in record.folds)
        selected = self.selected(group, "leave_one_domain_out")
        if selected is not None:
            yield from ((selected.number, planned) for planned in selected.folds)

    def decisions(self, group: str) -> list[dict[str, Any]]:
        """What the pruner decided in a group, in order; a line torn by a crash is passed over."""
        return list(read_lines(self._decisions_file(group)))

    def append_decision(self, group: str, decision: Mapping[str, Any]) -> None:
        """Keep a decision of the pruner."""
        append_lines(self._decisions_file(group), [decision])
        self._mirrors.note(self._decisions_file(group))

    def arrivals(self) -> list[tuple[str, str]]:
        """Finished folds as (group, key), in the order in which they were first seen."""
        return [(str(line["group"]), str(line["key"])) for line in read_lines(self._arrivals_file)]

    def note_arrivals(self, arrived: Sequence[tuple[str, str]]) -> None:
        """Add finished folds that were seen for the first time."""
        if arrived:
            append_lines(self._arrivals_file, [{"group": group, "key": key} for group, key in arrived])
            # Before anything is drawn by it; what cannot be sent now is sent later.
            self._mirrors.note(self._arrivals_file)
            with suppress(OSError):
                self._mirrors.send_noted()

    def planned_folds(self, group: str) -> list[PlannedFold]:
        """Every fold that the group's trials, and the repeats of the selected one name, once each."""
        selected = self.selected(group)
        folds = [planned for trial in self.trials(group) for planned in trial.folds]
        folds += selected.folds if selected else ()
        folds += [planned for _, planned in self.left_out_folds(group)]
        return list({planned.key: planned for planned in folds}.values())

    def _trial(self, group: str, number: int) -> TrialRecord | None:
        """One trial, remembered: its file is written once, and ten thousand take seconds to read."""
        if (group, number) not in self._read_trials:
            record = read_record(TrialRecord, self._trial_file(group, number))
            if record is None:
                return None
            self._read_trials[group, number] = record
        return self._read_trials[group, number]

    def _folder(self, kind: str, group: str) -> Path:
        return self._out / kind / group_slug(group)

    def _trial_file(self, group: str, number: int) -> Path:
        return self._folder("trials", group) / f"{number}.json"

    def _selected_file(self, group: str, selection: SweepSelection) -> Path:
        folder = "confirmations" if selection == "source_validation" else "left_out"
        return self._out / folder / f"{group_slug(group)}.json"

    def _decisions_file(self, group: str) -> Path:
        return self._out / "pruning" / f"{group_slug(group)}.jsonl"

    def _write(self, path: Path, content: Mapping[str, Any]) -> None:
        write_json(path, content)
        self._mirrors.note(path)


def group_slug(name: str) -> str:
    """A group's name as a folder name: `PACS/vl2v_adip/*` is `PACS--vl2v_adip--all`."""
    return name.replace("/", "--").replace("*", "all")
