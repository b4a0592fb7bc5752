"""The errors apply to today's sources, the draw is what it says, and the harness tells killed from survived."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.mutants.__main__ import run
from tests.mutants.areas import AREAS, Area
from tests.mutants.copies import RepositoryCopy
from tests.mutants.draw import DRAWN, all_mutants, draw, named_mutant, read_sources, sample
from tests.mutants.equivalent import EQUIVALENT
from tests.mutants.named import NAMED, NamedError
from tests.mutants.operators import changes
from tests.support.repository import REPOSITORY

SOURCE = '''"""A docstring with 1 + 2."""
__all__ = ("shared",)
LIMIT: int = 3


def shared(first: int, second: int = 4) -> int:
    """Divide."""
    if first < 0:
        raise ValueError(f"below {0 + 1}")
    assert second > 5
    return first - second
'''


def the_changes(source: str) -> set[tuple[str, str]]:
    """Operators and changed lines."""
    return {(change.operator, change.becomes) for change in changes(source)}


def test_every_named_error_stands_once_and_is_a_program() -> None:
    sources = read_sources(REPOSITORY)
    for error in NAMED:
        mutant = named_mutant(error, sources[error.area])
        ast.parse(mutant.source)
        assert mutant.source != sources[error.area]
    assert len({error.name for error in NAMED}) == len(NAMED)


def test_a_piece_that_is_gone_or_stands_twice_is_an_error() -> None:
    for piece, count in (("gone", 0), ("twice", 2)):
        with pytest.raises(ValueError, match=f"stands {count} times"):
            named_mutant(NamedError("a name", "fold", piece, "x"), "twice twice")


def test_every_area_has_its_file_and_tests() -> None:
    for area in AREAS.values():
        assert area.tests
        paths = [path.removeprefix("--deselect=").partition("::")[0] for path in (area.file, *area.tests)]
        assert [path for path in paths if not (REPOSITORY / path).is_file()] == []


def test_what_is_equivalent_is_still_a_change_of_todays_source() -> None:
    found = {
        name: {(change.operator, change.original, change.becomes) for change in changes(source)}
        for name, source in read_sources(REPOSITORY).items()
    }
    for one in EQUIVALENT:
        assert (one.operator, one.line, one.becomes) in found[one.area], one
        assert one.reason


def test_messages_types_and_texts_are_left_alone() -> None:
    assert the_changes(SOURCE) == {
        ("constant + 1", "LIMIT: int = 4"),
        ("constant + 1", "def shared(first: int, second: int = 5) -> int:"),
        ("comparison", "if (first <= 0):"),
        ("constant + 1", "if first < 1:"),
        ("statement dropped", "pass"),
        ("arithmetic", "return (first + second)"),
    }


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        ("a = b >= c", {("comparison", "a = (b > c)")}),
        ("a = not b", {("not", "a = b")}),
        ("a = b and c", {("and / or", "a = (b or c)")}),
        ("a = f(b, c)", {("order swapped", "a = f(c, b)")}),
        ("a = b.mean()", {("mean / sum", "a = b.sum()")}),
        ("a = min(b)", {("min / max", "a = max(b)")}),
        ("a = b[1:c]", {("constant + 1", "a = b[2:c]"), ("index off by one", "a = b[1:c + 1]")}),
        ("a = f(x=b)", {("keyword dropped", "a = f()")}),
        ("a = f(strict=True)", set()),
        ("a = -b", {("sign", "a = b")}),
        ("a = True", {("True / False", "a = False")}),
        ("a.b = c", {("statement dropped", "pass")}),
        ("a = b", set()),
        ("a = 'text'", set()),
        ("Type = Callable[[int], 3]", set()),
    ],
)  # fmt: skip
def test_operators_by_hand(line: str, changed: set[tuple[str, str]]) -> None:
    assert the_changes(line) == changed


def test_a_change_keeps_the_order_of_arithmetic() -> None:
    assert ("arithmetic", "a = 12 / (b / c)") not in the_changes("a = 12 / (b + c)")
    results = [eval(becomes.partition("= ")[2], {"b": 3, "c": 2}) for _, becomes in the_changes("a = 10 - (b + c)")]
    assert sorted(results) == [6, 9, 15]


def test_the_draw_is_a_function_of_seed_and_sources() -> None:
    sources = read_sources(REPOSITORY)
    first = draw(sources, DRAWN, "0")
    assert first == draw(sources, DRAWN, "0")
    assert len(first) == len({mutant.source for mutant in first}) == DRAWN >= 40
    assert {mutant.name for mutant in first} != {mutant.name for mutant in draw(sources, DRAWN, "1")}
    for mutant in first:
        ast.parse(mutant.source)
    assert max(Counter(mutant.area for mutant in first).values()) <= DRAWN // len(AREAS) + 1, "areas take turns"


def test_an_edit_moves_no_other_lines_draw() -> None:
    before = draw({"toy": SOURCE}, 3, "0", ())
    edited = SOURCE.replace("LIMIT: int = 3", "LIMIT: int = 3\nOTHER: str = 'x'")
    assert [(one.name, one.becomes) for one in draw({"toy": edited}, 3, "0", ())] == [
        (one.name, one.becomes) for one in before
    ]


def test_a_sample_is_some_of_all_and_goes_by_its_seed() -> None:
    mutants = all_mutants(read_sources(REPOSITORY))
    samples = [sample(mutants, 10, str(seed)) for seed in range(40)]
    assert samples[0] == sample(mutants, 10, "0")
    assert {len(some) for some in samples} == {10}
    seen = {mutant.name for some in samples for mutant in some}
    assert len(seen) > 0.9 * len(mutants), "over time all come"


def test_one_error_is_killed_and_another_survives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy = tmp_path / "repository"
    (toy / "toy").mkdir(parents=True)
    (toy / "toy" / "__init__.py").write_text("")
    (toy / "toy" / "core.py").write_text("def larger(a: int, b: int) -> int:\n    return a if a > b else b\n")
    (toy / "toy" / "test_core.py").write_text(
        "from toy.core import larger\n\n\ndef test_larger() -> None:\n    assert larger(2, 3) == 3\n"
    )
    areas = {"core": Area("toy/core.py", ("toy/test_core.py",))}
    copies = [RepositoryCopy(toy, tmp_path / "copy", ("toy",))]
    source = (toy / "toy" / "core.py").read_text()
    mutants = {
        name: named_mutant(NamedError(name, "core", piece, text), source)
        for name, piece, text in (
            ("smaller", "a > b", "a < b"), ("at ties", "a > b", "a >= b"),
            ("for ever", "return a", "while a: pass\n    return a"),
        )
    }  # fmt: skip

    def exit_code(*names: str) -> int:
        return run([mutants[name] for name in names], areas, copies)

    assert exit_code("smaller", "at ties") == 1
    told = capsys.readouterr().out
    assert "survived: at ties (core, line 2, named)\n  - a > b\n  + a >= b" in told
    assert re.search(r"^killed +[0-9.]+ s  smaller ", told, flags=re.MULTILINE)
    assert (toy / "toy" / "core.py").read_text() == source, "the working tree stays as it is"
    assert (copies[0].folder / "toy" / "core.py").read_text() == source
    found = copies[0].check(areas["core"], mutants["for ever"], seconds_without=-14.0)
    assert found.timed_out
    assert not found.passed
    (copies[0].folder / "toy" / "test_core.py").write_text("def test_larger() -> None:\n    assert False\n")
    assert exit_code("smaller") == 2, "tests that fail by themselves kill nothing"
