"""What makes a fold done: its `result.json`, and whole beside it the files that its kind of fold keeps.

A fold that trained keeps spec, journal, student and test; a pair fold a file about each test domain in place of test;
the teacher itself has neither journal nor student. `result.json` states the size and SHA-256 of each. An older result
states none: there, each file is whole if it is there and parses.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from search_spaces.errors import UserError
from search_spaces.hyperparameters import FoldSpec
from search_spaces.methods import METHODS
from trainables.storage.atomic_files import remove_path
from trainables.storage.checksums import file_sha256
from trainables.storage.fold_folder import FoldFolder
from trainables.storage.json_files import DamagedFileError, read_json, write_json

SEAL = "sha256"
"""Entry of `result.json`: SHA-256 of the other entries."""

FILES = "files"
"""Entry of `result.json`: by name in the folder, `bytes` and `sha256`."""


class OtherFoldError(UserError):
    """A folder holds another fold's files, or numbers that no fold can have."""


def stated_files(folder: FoldFolder, spec: FoldSpec) -> dict[str, dict[str, Any]]:
    """What `result.json` states of the files beside it, which are all there."""
    names = _kept(spec.method, spec.fold.test_domains, student=bool(METHODS[spec.method].stages))
    paths = {name: folder.path / name for name in names}
    return {name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)} for name, path in paths.items()}


def sealed(result: Mapping[str, Any], folder: FoldFolder, spec: FoldSpec) -> dict[str, Any]:
    """A result with what it states of the files beside it, and its own checksum."""
    stated = stated_files(folder, spec)
    student = stated.get(folder.student.name, {"sha256": ""})["sha256"]
    content = {**result, FILES: stated, "student_sha256": student}
    return {**content, SEAL: _seal(content)}


def _seal(content: Mapping[str, Any]) -> str:
    entries = {name: value for name, value in content.items() if name != SEAL}
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def stated_sha256(content: Mapping[str, Any], name: str) -> str:
    """SHA-256 of a file as a result states it; empty where it states none."""
    stated = content.get(FILES)
    about = stated.get(name) if isinstance(stated, dict) else None
    return str(about.get("sha256", "")) if isinstance(about, dict) else ""


def check_belongs(folder: FoldFolder, content: Mapping[str, Any], key: str) -> None:
    """Raises `OtherFoldError` where a result is not that of the fold with this key."""
    if content["key"] != key:
        other = folder.path.with_name(str(content["key"])[:64] or "?")
        raise OtherFoldError(
            f"{folder.result} is not the result of this fold: it belongs into {other}; put each folder back in its "
            f"place, or remove {folder.path}, and it is computed again"
        )


def flaw(
    folder: FoldFolder, content: Mapping[str, Any], *, by_content: bool = False, weights_elsewhere: bool = False
) -> str:
    """What the files beside a result lack, in one phrase; empty where the fold is whole.

    Args:
        folder: the fold's.
        content: of its `result.json`.
        by_content: read the small files too and compare them; else their sizes decide.
        weights_elsewhere: a student that is not here lies in an object storage.
    """
    if SEAL in content and content[SEAL] != _seal(content):
        return "result.json does not agree with its own checksum"
    stated = content.get(FILES)
    if stated is not None and not _is_well_formed(stated):
        return "result.json does not say which files belong to it"
    for name in stated or _kept_by(content):
        about = (stated or {}).get(name, {})
        path = folder.path / name
        if weights_elsewhere and path == folder.student and not path.exists():
            continue
        found = _flaw_of(folder, path, about, by_content=by_content)
        if found:
            return f"{name} {found}"
    return ""


def settled_result(
    folder: FoldFolder, spec: FoldSpec, *, weights_elsewhere: bool = False
) -> tuple[dict[str, Any] | None, str]:
    """A finished fold's result, and what was done about damage, in one line; for whoever holds the folder.

    A specification that is missing is written again. Where anything else is, the result goes: the fold runs again.

    Raises:
        OtherFoldError: the folder holds another fold's result.
    """
    try:
        content = folder.read_result()
        if content is None:
            return None, ""
        check_belongs(folder, content, spec.key)
        found = flaw(folder, content, by_content=True, weights_elsewhere=weights_elsewhere)
        if found.startswith(f"{folder.spec.name} "):
            remove_path(folder.spec)
            write_json(folder.spec, spec.to_mapping())
            if not flaw(folder, content, by_content=True, weights_elsewhere=weights_elsewhere):
                return content, f"{spec.fold}: {found}; it was written again"
    except DamagedFileError:
        content, found = None, f"{folder.result.name} is damaged"
    if not found:
        return content, ""
    _discard(folder)
    return None, f"{spec.fold}: {found}; the fold runs again"


def _discard(folder: FoldFolder) -> None:
    """Take away the result, and what the next run would go on from, add to or cannot write over."""
    remove_path(folder.result)
    for path in (folder.checkpoint, folder.journal):
        remove_path(path)
    for path in (folder.spec, folder.student, folder.test, folder.path / "held_out"):
        if path.exists() and path.is_dir() != (path.name == "held_out"):
            remove_path(path)


def _flaw_of(folder: FoldFolder, path: Path, about: Mapping[str, Any], *, by_content: bool) -> str:
    """What is wrong with one file; empty where it is whole, or unknown."""
    try:
        if not path.is_file():
            return "is no file" if path.exists() else "is missing"
        size = path.stat().st_size
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    # A worker that was taken for dead may have added lines of its own.
    if about and (size < about["bytes"] if path == folder.journal else size != about["bytes"]):
        return f"has {size} bytes in place of {about['bytes']}"
    if size == 0:
        return "is empty"
    if not by_content or path.suffix != ".json":
        return ""
    if about:
        return "" if file_sha256(path) == about["sha256"] else "is not what result.json states"
    try:
        _parse(folder, path)
    except UserError:
        return "is damaged"
    return ""


def _parse(folder: FoldFolder, path: Path) -> None:
    if path == folder.spec:
        folder.read_spec()
    else:
        read_json(path)


def _kept_by(content: Mapping[str, Any]) -> Iterator[str]:
    """The files of an older result, by what it says of itself."""
    fold = content.get("fold")
    domains = fold.get("test_domains") if isinstance(fold, dict) else None
    names = [name for name in domains if isinstance(name, str)] if isinstance(domains, list) else []
    yield from _kept(str(content.get("method")), names, student=bool(content.get("student_sha256")))


def _kept(method: str, test_domains: Sequence[str], *, student: bool) -> Iterator[str]:
    folder = FoldFolder("")
    yield str(folder.spec)
    if method in METHODS and METHODS[method].stages:
        yield str(folder.journal)
    if student:
        yield str(folder.student)
    if len(test_domains) == 1:
        yield str(folder.test)
    elif test_domains:
        yield from (str(folder.held_out(domain)) for domain in test_domains)


def _is_well_formed(stated: Any) -> bool:
    return isinstance(stated, dict) and all(
        not name.startswith("/")
        and ".." not in name.split("/")
        and isinstance(about, dict)
        and isinstance(about.get("bytes"), int)
        and isinstance(about.get("sha256"), str)
        for name, about in stated.items()
    )
