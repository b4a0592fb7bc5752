"""Whether a pack still holds what was packed: its files against their SHA-256, its images against the manifest."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

from search_spaces.errors import UserError
from trainables.data.formats.findings import image_errors
from trainables.data.formats.manifest import CHUNK, ManifestRow, manifest_hash
from trainables.data.formats.pack_files import INDEX
from trainables.data.formats.pack_reader import PackSource

CHANGED = "its bytes are not those that were packed"


def checked_rows(source: PackSource) -> tuple[list[ManifestRow], list[str]]:
    """The manifest's rows of a pack, and what is wrong with it; reads every byte.

    No image is decoded: each was when it was packed, and the same bytes give the same pixels. Raises `UserError` where
    a file cannot be read.
    """
    errors = [f"{name} is not what was packed (another SHA-256)" for name in source.changed_files()]
    if any(error.startswith(INDEX) for error in errors):
        # Nothing that the index says can be trusted.
        return [], errors
    if problem := source.wrong_index():
        return [], [*errors, problem]
    rows = source.manifest_rows
    if manifest_hash(rows) != source.manifest:
        errors.append("its images are not those of the manifest that it names")
    if source.description["encoding"] == "stored":
        errors += image_errors([row.path for row in rows], changed_images(source, rows))
    return rows, errors


def changed_images(source: PackSource, rows: list[ManifestRow]) -> list[str]:
    """For each row of a pack of stored files what is wrong with its bytes; empty where nothing is."""
    places = [(domain, index) for domain in source.domain_names for index in range(len(source.labels(domain)))]

    def problem(number: int) -> str:
        try:
            data = source.encoded(*places[number])
        except UserError as error:
            return str(error)
        return "" if hashlib.sha256(data).hexdigest() == rows[number].sha256 else CHANGED

    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        return list(pool.map(problem, range(len(rows)), chunksize=CHUNK))
