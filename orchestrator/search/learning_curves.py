"""What running and ended folds reported so far, read from their journals: source validation accuracy by step."""

from __future__ import annotations

import json
import math

from orchestrator.search.pruning_rules import Curve
from orchestrator.store.sweep_folder import SweepFolder


class Curves:
    """The curves of one stage. A journal only grows, so every look reads what is new."""

    def __init__(self, store: SweepFolder, stage: str) -> None:
        self._store, self._stage = store, stage
        self._curves: dict[str, dict[int, float]] = {}
        self._offsets: dict[str, int] = {}

    def of(self, key: str) -> Curve:
        """Accuracy by step of a fold's stage, the first line of each step; empty where it has none yet.

        An evaluation without a finite accuracy is passed over: it can be compared with nothing.
        """
        curve = self._curves.setdefault(key, {})
        try:
            with self._store.folds.fold(key).journal.open("rb") as journal:
                journal.seek(self._offsets.get(key, 0))
                text = journal.read()
        except FileNotFoundError:
            return curve
        whole, newline, _ = text.rpartition(b"\n")
        self._offsets[key] = self._offsets.get(key, 0) + len(whole) + len(newline)
        for line in whole.splitlines():
            if b'"evaluation"' in line:
                self._add(curve, line)
        return curve

    def _add(self, curve: dict[int, float], line: bytes) -> None:
        try:
            entry = json.loads(line)
        except ValueError:
            # Torn by a crash; the resumed fold wrote it again.
            return
        if entry.get("kind") != "evaluation" or entry.get("stage") != self._stage:
            return
        accuracy = entry["accuracy"]
        if accuracy is not None and math.isfinite(accuracy):
            curve.setdefault(int(entry["step"]), float(accuracy))
