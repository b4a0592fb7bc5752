"""What a fetched benchmark's folder says about where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainables.data.acquire.sources import Route
from trainables.data.formats.verify import Verification
from trainables.storage.json_files import read_json, write_json

RECEIPT = ".fetch.json"


def write_receipt(folder: Path, route: Route, files: Mapping[str, Any], found: Verification) -> None:
    """Write which route and mirrors gave which bytes, and what they turned out to be."""
    write_json(
        folder / RECEIPT,
        {
            "route": route.name,
            "note": route.note,
            "files": dict(files),
            "variant": found.variant,
            "accepted": found.accepted,
            "manifest": found.manifest,
        },
    )


def receipt_notes(folder: Path) -> tuple[str, ...]:
    """What the receipt in a folder tells its reader, one line each; nothing where there is none."""
    receipt = _read(folder)
    if receipt is None:
        return ()
    files = receipt.get("files")
    facts = files.values() if isinstance(files, dict) else ()
    origins = dict.fromkeys(str(fact.get("from")) for fact in facts if isinstance(fact, dict))
    lines = [f"fetched by the route {receipt.get('route')!r} from {', '.join(origins)}"]
    if receipt.get("note"):
        lines.append(str(receipt["note"]))
    if receipt.get("accepted") is False:
        lines.append("kept on --accept-unknown: its manifest is what names this data, not the benchmark's name")
    return tuple(lines)


def was_accepted(folder: Path, manifest: str) -> bool:
    """Whether the user took this very copy as it is."""
    receipt = _read(folder)
    return receipt is not None and receipt.get("accepted") is False and receipt.get("manifest") == manifest != ""


def _read(folder: Path) -> dict[str, Any] | None:
    try:
        receipt = read_json(folder / RECEIPT)
    except (OSError, ValueError):
        return None
    return receipt if isinstance(receipt, dict) else None
