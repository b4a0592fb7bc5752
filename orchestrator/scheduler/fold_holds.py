"""Which folds and Align stages this sweep holds, so that nobody else on the store runs them at the same time."""

from __future__ import annotations

from orchestrator.store.fold_states import FoldStates
from orchestrator.store.fold_store import FoldStore
from search_spaces.hyperparameters import FoldSpec
from search_spaces.methods import method_facts
from trainables.storage.leases import clear_dead


class FoldHolds:
    """The leases of running folds, and of the Align stages that they run."""

    def __init__(self, states: FoldStates, folds: FoldStore) -> None:
        self._states, self._folds = states, folds
        self._aligning: dict[str, str] = {}

    def take(self, spec: FoldSpec) -> bool:
        """Hold a fold and the Align stage that it would run; False where somebody runs either."""
        if not self._align_is_free(spec) or not self._states.take(spec.key):
            return False
        if not method_facts(spec.method).aligns:
            return True
        align = self._folds.align(spec.align_key)
        if align.is_done:
            clear_dead(align.lease)
            clear_dead(align.worker)
        elif not self._states.leases.take(align):
            self._states.leases.release(self._folds.fold(spec.key))
            return False
        return True

    def starts(self, spec: FoldSpec) -> None:
        """A fold that is held starts."""
        self._states.running.add(spec.key)
        if method_facts(spec.method).aligns:
            self._aligning[spec.key] = spec.align_key

    def release(self, key: str) -> None:
        """Let go of a fold's leases; an Align stage that is done needs none, whoever ran it."""
        self._states.leases.release(self._folds.fold(key))
        align_key = self._aligning.pop(key, None)
        if align_key is not None and align_key not in self._aligning.values():
            self._states.leases.release(self._folds.align(align_key))

    def _align_is_free(self, spec: FoldSpec) -> bool:
        if not method_facts(spec.method).aligns:
            return True
        return spec.align_key not in self._aligning.values() or self._folds.align(spec.align_key).is_done
