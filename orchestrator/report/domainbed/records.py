"""DomainBed's records from disk: the `results.jsonl` files that its sweeps leave, one JSON object a line."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.report.domainbed.selection import Record
from search_spaces.errors import UserError

FILE = "results.jsonl"
SETTINGS = ("trial_seed", "dataset", "algorithm", "test_envs", "hparams_seed")
"""What a record's `args` must hold to be told apart."""


def read_records(path: Path) -> list[Record]:
    """Records in load order: those of one file (.jsonl, or .jsonl.gz), or of every run's folder in byte order of names.

    Raises:
        UserError: no such file, no record, or a line that is none.
    """
    files = sorted(path.rglob(FILE), key=bytes) if path.is_dir() else [path]
    records = [record for file in files for record in _records(file)]
    if not records:
        raise UserError(f"no DomainBed record in {path}; give a folder that holds {FILE} files, or one such file")
    return records


def _records(file: Path) -> Iterator[Record]:
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from None
    for number, line in enumerate(content.splitlines(), 1):
        if line.strip():
            yield _record(line, f"{file} line {number}")


def _record(line: bytes, where: str) -> Record:
    try:
        content: Any = json.loads(line)
    except ValueError:
        raise UserError(f"{where} is not JSON; DomainBed writes one object a line") from None
    if not isinstance(content, Mapping) or not isinstance(content.get("args"), Mapping):
        raise UserError(f"{where} is no DomainBed record: it is no object with args")
    settings = content["args"]
    lacking = [f"args.{name}" for name in SETTINGS if name not in settings]
    domains = settings.get("test_envs", ())
    needed = ["step", *(f"env{domain}_{part}_acc" for domain in domains for part in ("in", "out"))]
    lacking += [name for name in needed if name not in content]
    if lacking:
        raise UserError(f"{where} is no DomainBed record: it lacks {', '.join(lacking)}")
    return content
