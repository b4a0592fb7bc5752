"""A fold as it travels to a worker: what to compute (`FoldSpec`), where to read and write, and with what (`Resources`).

Light on purpose: the orchestrator builds jobs without loading torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from search_spaces.benchmarks import Benchmark
from search_spaces.configuration import from_mapping
from search_spaces.hyperparameters import FoldSpec, Resources

NOTE = "note"
"""Entry of a worker's report that is no evaluation: one line about a damaged file, and what is done about it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FoldJob:
    """Everything a worker needs, as plain values: it crosses process and node borders as a mapping."""

    spec: FoldSpec
    benchmark: Benchmark
    """The benchmark itself, so that a worker knows one that is read from a folder too."""
    folder: str
    """The fold's own folder in the store."""
    align_folder: str
    """The folder of the Align stage that this fold shares with others."""
    data_root: str | None = None
    """Folder that holds the benchmark's folder; None for the packaged icons."""
    cache_folder: str | None = None
    """Where the benchmark's manifest is kept between folds; None works it out again."""
    store_folder: str | None = None
    """Root of the embedding stores and the ledgers; None is where `folder` stands among other folds."""
    query_budget: int | None = None
    """Most teacher queries that all folds of this store may ever ask; None for no limit."""
    resources: Resources = field(default_factory=Resources)
    mirrors: dict[str, str] = field(default_factory=dict)
    """Folders of the machine that made the job which mirror an object storage, and their addresses."""

    @property
    def embeddings_folder(self) -> str:
        """Root of the embedding stores, beside the folds that share them."""
        return str(self._store / "embeddings")

    @property
    def queries_folder(self) -> str:
        """Ledgers of what the teacher was asked, beside the folds."""
        return str(self._store / "queries")

    @property
    def _store(self) -> Path:
        return Path(self.folder).parent.parent if self.store_folder is None else Path(self.store_folder)

    def to_mapping(self) -> dict[str, Any]:
        """Plain values; `job_from_mapping` reads them back."""
        return asdict(self)


def job_from_mapping(mapping: Mapping[str, Any]) -> FoldJob:
    """Read back what `FoldJob.to_mapping` wrote."""
    return from_mapping(FoldJob, mapping)
