"""Random damage to any file of a finished sweep's folder: noticed, mended or refused, and never another number."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from orchestrator.inspection.status import sweep_status
from orchestrator.report.measurements import measure
from orchestrator.report.report import build_report
from orchestrator.store.sweep_folder import open_store
from search_spaces.errors import UserError
from search_spaces.sweeps import Sweep
from tests.fuzz.tally import Tally, main, tally
from tests.support.bench import Bench
from tests.support.stub_sweep import stub_sweep

Numbers = dict[str, dict[str, float | None]]
"""What a table is made of, by fold."""


def _flip(file: Path, chance: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)


def _zeros(file: Path, chance: random.Random) -> None:
    content = bytearray(file.read_bytes())
    place = chance.randrange(len(content))
    length = min(chance.randrange(1, 200), len(content) - place)
    content[place : place + length] = bytes(length)
    file.write_bytes(content)


def _folder(file: Path, chance: random.Random) -> None:
    file.unlink()
    file.mkdir()


def _of_a_neighbour(file: Path, chance: random.Random) -> None:
    others = [other for other in file.parent.parent.rglob(file.name) if other != file and other.is_file()]
    if others:
        shutil.copyfile(chance.choice(others), file)


def _digit(file: Path, chance: random.Random) -> None:
    text = file.read_text()
    places = [place for place, letter in enumerate(text) if letter.isdigit()]
    if places:
        place = chance.choice(places)
        file.write_text(f"{text[:place]}{chance.randrange(10)}{text[place + 1 :]}")


OTHER = ("{}", "[1]", "null", '{"key": []}', "NaN", "1e999")

DAMAGES: dict[str, Callable[[Path, random.Random], object]] = {
    "gone": lambda file, chance: file.unlink(),
    "empty": lambda file, chance: file.write_bytes(b""),
    "cut": lambda file, chance: file.write_bytes(file.read_bytes()[: chance.randrange(file.stat().st_size)]),
    "a bit": _flip,
    "zeros": _zeros,
    "noise": lambda file, chance: file.write_bytes(chance.randbytes(100)),
    "other JSON": lambda file, chance: file.write_text(
        chance.choice(["{}", "[1]", "null", '{"key": []}', "NaN", "1e999"])
    ),
    "a folder": _folder,
    "of a neighbour": _of_a_neighbour,
    "a digit": _digit,
}
"""Ten ways in which a file comes to harm."""


def tried(inputs: int, *, seed: int) -> Tally:
    """What came of so many damaged folders."""
    with tempfile.TemporaryDirectory() as scratch:
        whole, cases = Path(scratch, "whole"), Path(scratch, "cases")
        bench = Bench(whole, _sweep())
        bench.run_all()
        bench.die()
        numbers = _numbers(whole)
        assert numbers

        def case(chance: random.Random) -> str:
            shutil.rmtree(cases, ignore_errors=True)
            shutil.copytree(whole, cases)
            return _tried(chance, cases, numbers)

        return tally(case, inputs, seed=seed)


def _sweep() -> Sweep:
    return stub_sweep(methods=["erm", "vl2v_adip"], trials=2, seeds=2, zero_shot=True)


def _tried(chance: random.Random, out: Path, expected: Numbers) -> str:
    files = sorted(file for file in out.rglob("*") if file.is_file() and file.name not in ("STARTS", "ALIGNS"))
    kinds = sorted({_kind(file, out) for file in files})
    kind = chance.choice(kinds)
    file = chance.choice([file for file in files if _kind(file, out) == kind])
    damage = chance.choice(sorted(DAMAGES))
    before = file.read_bytes()
    try:
        DAMAGES[damage](file, chance)
    except UnicodeDecodeError:
        return ""
    if file.is_file() and file.read_bytes() == before:
        return ""
    what = f"{damage} in {file.relative_to(out)}"
    try:
        sweep_status(open_store(out))
        build_report(open_store(out))
        found = _numbers(out)
    except UserError as error:
        if "\n" in str(error) or len(str(error)) > 2000:
            return f"{what}: {str(error)!r}"
    else:
        if wrong := _wrong(found, expected):
            return f"{what} is reported: {wrong}"
    return _resumed(out, expected, what)


def _resumed(out: Path, expected: Numbers, what: str) -> str:
    """The same command once more: equal numbers, all of them, or one line that says why not."""
    try:
        bench = Bench(out, _sweep())
    except UserError as error:
        return f"{what}: {str(error)!r}" if "\n" in str(error) else ""
    try:
        bench.run_all()
        found = _numbers(out)
    except UserError as error:
        return f"{what}: {str(error)!r}" if "\n" in str(error) else ""
    finally:
        bench.die()
    if found.keys() != expected.keys():
        return f"{what} is not mended: {len(found)} of {len(expected)} folds are in the table"
    wrong = _wrong(found, expected)
    return f"{what} is mended wrong: {wrong}" if wrong else ""


def _wrong(found: Numbers, expected: Numbers) -> str:
    """A number that differs; folds that are missing do not."""
    for key, values in found.items():
        if values != expected.get(key):
            return f"fold {key[:8]} has {values}, not {expected.get(key)}"
    return ""


def _numbers(out: Path) -> Numbers:
    found = measure(open_store(out), "source_validation").measurements
    return {item.key: dict(item.values) for item in found}


def _kind(file: Path, out: Path) -> str:
    first = file.relative_to(out).parts[0]
    return f"{first}/{file.name}" if first in ("folds", "aligns") else first


if __name__ == "__main__":
    main(tried, "folders")
