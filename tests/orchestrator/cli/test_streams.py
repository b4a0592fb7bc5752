"""Where output goes: a reader that leaves, a closed or full stdout, a locale of other letters; never exit code 1."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.support.repository import REPOSITORY

PROGRAM = (sys.executable, "-c", "from orchestrator.cli import main; main()")
ANOTHER_LOCALE = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


def shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A line of shell in which `$@` is the program."""
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line, "bash", *PROGRAM],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("arguments", ["--json", ""])
def test_a_reader_that_leaves_is_no_mistake(arguments: str, tmp_path: Path) -> None:
    line = f'"$@" plan --benchmark all --method erm,kd {arguments}'
    # The second one writes when nobody reads any more.
    done = shell(f"({line}; sleep 1; {line}) | head -1", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "said"), [('"$@" data list >&-', "stdout is closed"), ('"$@" data list >/dev/full', "No space left")]
)
def test_an_output_that_takes_nothing_is_one_line(line: str, said: str, tmp_path: Path) -> None:
    done = shell(line, tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_names_are_utf_8_in_another_locale_too(tmp_path: Path) -> None:
    for domain in ("jour é", "nuit"):
        folder = tmp_path / "données" / domain / "chât"
        folder.mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / f"{number}.png")
    line = '"$@" data verify --benchmark folder:données --json'
    done, plain = shell(line, tmp_path, **ANOTHER_LOCALE), shell(line, tmp_path, PYTHONUTF8="1")
    assert "jour" in plain.stdout
    assert (done.stdout, done.stderr) == (plain.stdout, plain.stderr)


def test_letters_that_the_terminal_has_not_are_spelt_out(tmp_path: Path) -> None:
    done = shell('"$@" plan --benchmark é', tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 2
    assert "'\\xe9'" in done.stderr
    shown = shell('"$@" plan --benchmark icons --method erm --name é', tmp_path, PYTHONIOENCODING="ascii")
    assert shown.returncode == 0, shown.stderr
    assert "Plan of sweep \\xe9" in shown.stdout
