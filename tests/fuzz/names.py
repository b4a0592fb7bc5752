"""Odd names of domains, classes and sweeps through the index, the plan and every format of the report.

A name comes out as it went in, or is refused in one line; it never adds a row, a column or a command.
"""

from __future__ import annotations

import csv
import io
import json
import os
import random
import re
import tempfile
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

from rich.console import Console

from orchestrator.cli.plan_text import plan_lines, plan_table
from orchestrator.plan.plan import make_plan
from orchestrator.report.formats import csv_text, latex, markdown, to_mapping
from orchestrator.report.report import Report, build_report
from search_spaces.errors import UserError
from search_spaces.sweeps import Sweep
from tests.fuzz.tally import Tally, main, tally
from tests.support.written_folds import Written, written_sweep
from trainables.data.formats.folder import is_left_by_system
from trainables.data.formats.open import benchmark_from_folder, open_benchmark

PIECES = (
    *("|", "||", "\\", "\\|", "`", "<b>", "&amp;", "%", "$x$", "#", "_", "{}", "}", "~", "^", "&", "*", "[red]", "[/]"),
    *(
        "\n",
        "\r\n",
        "\t",
        "\x1b[31m",
        "\x00",
        "\x7f",
        " ",
        "\u2028",
        "\u200b",
        "\u202e",
        "'",
        '"',
        ";",
        ",",
        "=SUM(A1)",
    ),
    *("é", "e\u0301", "ß", "ı", "猫", "🐈", "\udcff", "photo", "Photo", "a", "..", "__MACOSX", "@eaDir", "-", "--out"),
)
"""What a name is put together from: marks of every format, letters of several forms, names of systems."""

LEAST_IMAGES = 5


def tried(inputs: int, *, seed: int) -> Tally:
    """What came of so many sets of names."""
    return tally(_case, inputs, seed=seed)


def _case(chance: random.Random) -> str:
    tests: tuple[Callable[[random.Random], str], ...] = (_indexed, _planned, _reported)
    return chance.choice(tests)(chance)


def _name(chance: random.Random, without: str = "/\x00") -> str:
    name = "".join(chance.choice(PIECES) for _ in range(chance.randint(1, 5)))
    return "".join(letter for letter in name if letter not in without) or "x"


def _names(chance: random.Random, count: int) -> list[str]:
    names = dict.fromkeys(_name(chance) for _ in range(count))
    return [name for name in names if name not in (".", "..")] or ["x"]


def _indexed(chance: random.Random) -> str:
    """A folder with domains and classes of these names: all of them are there, or the folder is refused."""
    domains, classes = _names(chance, 3), _names(chance, 2)
    with tempfile.TemporaryDirectory() as place:
        for domain in domains:
            for name in classes:
                folder = Path(place, "mine", domain, name)
                folder.mkdir(parents=True, exist_ok=True)
                for number in range(LEAST_IMAGES):
                    (folder / f"{number}.png").touch()
        try:
            benchmark = benchmark_from_folder("mine", place)
            source = open_benchmark(benchmark, place)
        except UserError as error:
            return "" if _may_be_refused(domains, classes) else f"{domains!r} with {classes!r} are refused: {error}"
    wanted = [
        sorted((name for name in names if not is_left_by_system(name)), key=os.fsencode) for names in (domains, classes)
    ]
    found = [list(source.domain_names), list(source.class_names)]
    return "" if found == wanted else f"{found!r} are found of {wanted!r}"


def _may_be_refused(domains: list[str], classes: list[str]) -> bool:
    """Too few that count, bytes that are no UTF-8, or two names that are one on some disks."""
    for names, least in ((domains, 2), (classes, 1)):
        counted = [name for name in names if not is_left_by_system(name)]
        alike = {unicodedata.normalize("NFC", name).casefold() for name in counted}
        if len(counted) < least or len(alike) < len(counted) or any("\udcff" in name for name in counted):
            return True
    return False


def _planned(chance: random.Random) -> str:
    """The plan of a sweep so called: its table shows the name whole, and no style comes of it."""
    name, benchmark = (_printable(_name(chance)) for _ in range(2))
    plan = make_plan(replace(_sweep(), name=name), {"mine": _report()[1]})
    plan = replace(plan, forecasts=tuple(replace(row, benchmark=benchmark) for row in plan.forecasts))
    stream = io.StringIO()
    console = Console(file=stream, width=400, soft_wrap=True, force_terminal=False, highlight=False)
    table = plan_table(replace(plan, pair_forecasts=()))
    table.expand = False
    console.print(table)
    assert plan_lines(plan)
    shown = stream.getvalue()
    missing = [text for text in (f"Plan of sweep {name}".rstrip(), benchmark.strip()) if text not in shown]
    return f"{missing!r} are not shown" if missing else ""


def _printable(text: str) -> str:
    return "".join(letter for letter in text if letter.isprintable()) or "x"


def _reported(chance: random.Random) -> str:
    """Every format of a report with these names: as many cells in each line as before, and the names read back."""
    names = dict(zip(("one", "two"), (_name(chance), _name(chance) + "2"), strict=True))
    report = _renamed(_report()[0], names, benchmark=_name(chance), sweep=_name(chance))
    markdown_of, plain = markdown(report), markdown(_report()[0])
    if _shape(markdown_of) != _shape(plain):
        return f"{names!r}: Markdown has the cells {_shape(markdown_of)}, not {_shape(plain)}"
    rows = list(csv.DictReader(io.StringIO(csv_text(report), newline="")))
    if {row["test_domain"] for row in rows} != {*names.values(), "average"}:
        return f"{names!r}: CSV has {sorted({row['test_domain'] for row in rows})!r}"
    letters = json.loads(json.dumps(to_mapping(report)))["tables"][0]["letters"]
    if list(letters) != list(names.values()):
        return f"{names!r}: JSON has {letters!r}"
    return _wrong_latex(latex(report), latex(_report()[0]))


def _shape(text: str) -> list[int]:
    """Cells of each line of a Markdown file; 0 of a line outside a table."""
    return [len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) if line.startswith("|") else 0 for line in text.splitlines()]


def _wrong_latex(found: str, plain: str) -> str:
    if found.count("\n") != plain.count("\n") or len(found.splitlines()) != len(plain.splitlines()):
        return f"LaTeX has other lines: {found!r}"
    bare = re.sub(r"\\text(backslash|asciitilde|asciicircum)\{\}", "", found)
    for line, before in zip(bare.splitlines(), plain.splitlines(), strict=True):
        marks = [
            len(re.findall(rf"(?<!\\)[{mark}]", text)) for text in (line, before) for mark in ("&", "%", "#", "{", "}")
        ]
        if marks[:5] != marks[5:]:
            return f"LaTeX has other marks in {line!r}"
    return ""


def _renamed(report: Report, names: Mapping[str, str], *, benchmark: str, sweep: str) -> Report:
    """A report as if domains, benchmark and sweep had been called so."""
    (table,) = report.tables
    rows = tuple(
        replace(
            row, cells={kind: {names[name]: cell for name, cell in cells.items()} for kind, cells in row.cells.items()}
        )
        for row in table.rows
    )
    letters = {names[name]: names[name] for name in table.letters}
    renamed = replace(table, benchmark=benchmark, letters=letters, rows=rows)
    return replace(report, sweep=sweep, tables=(renamed,))


@cache
def _sweep() -> Sweep:
    return written_sweep(benchmarks=("mine",), seeds=1)


@cache
def _report() -> tuple[Report, object]:
    """A report with two test domains, and its benchmark."""
    with tempfile.TemporaryDirectory() as place:
        written = Written(Path(place), _sweep())
        written.fill({"zero_shot": [0.4], "vl2v_adip": [0.5], "erm": [0.3]})
        return build_report(written.store), written.plan.benchmarks["mine"]


if __name__ == "__main__":
    main(tried, "names")
