"""The public Python API: the command line's defaults, no engine at import, and the lines of the docs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import orchestrator
from orchestrator import Hyperparameters, RunOptions, Sweep
from orchestrator.cli.sweep_arguments import RunArguments
from search_spaces.benchmarks import HEADLINE
from tests.support.command_lines import requested
from tests.support.repository import REPOSITORY

EXAMPLES = re.findall(
    r"^```python\n(.*?)^```", (REPOSITORY / "docs" / "python.md").read_text(), flags=re.MULTILINE | re.DOTALL
)


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        (("--benchmark", "icons"), {"benchmarks": ("icons",)}),
        (("--benchmark", "icons", "--method", "erm"), {"benchmarks": ("icons",), "methods": ("erm",)}),
        (("--benchmark", "all", "--seeds", "3"), {"benchmarks": HEADLINE, "seeds": 3}),
        (("--benchmark", "PACS,icons"), {"benchmarks": ("PACS", "icons")}),
    ],
)
def test_a_sweep_has_the_command_line_s_defaults(words: tuple[str, ...], fields: dict[str, Any]) -> None:
    asked, made = requested(*words).sweep, Sweep(**fields)
    assert made == asked
    assert made.key == asked.key
    assert RunOptions() == RunArguments().options


def test_icons_bring_their_student_along_unless_something_is_stated() -> None:
    sweep = Sweep(benchmarks=("icons", "PACS"), methods=("erm",))
    assert sweep.hyperparameters_for("icons").student == "small"
    assert sweep.hyperparameters_for("PACS").student == "vit_base_patch16_224"
    own = Sweep(benchmarks=("icons",), benchmark_hyperparameters={"icons": {"student": "vit_base_patch16_224"}})
    for one in (own, replace(own, trials=3)):
        assert one.hyperparameters_for("icons").student == "vit_base_patch16_224"
        assert one.hyperparameters_for("icons").teacher == "demo"
    stated = Sweep(benchmarks=("icons",), hyperparameters=Hyperparameters())
    assert stated.hyperparameters_for("icons").student == "vit_base_patch16_224"
    assert replace(sweep, trials=2).hyperparameters_for("icons").student == "small"


def test_public_names_are_what_is_promised() -> None:
    assert set(orchestrator.__all__) == set(orchestrator.PLACES)
    assert all(getattr(orchestrator, name).__module__ == place for name, place in orchestrator.PLACES.items())
    assert set(orchestrator.__all__) <= set(dir(orchestrator))
    with pytest.raises(AttributeError, match="no attribute 'sweeps'; it has Hyperparameters"):
        _ = orchestrator.sweeps


def test_importing_it_loads_nothing() -> None:
    program = "import json, sys, orchestrator; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert "orchestrator" in loaded
    assert loaded.isdisjoint({"torch", "ray", "mlflow", "optuna", "numpy", "yaml", "typer", "rich", "search_spaces"})


def test_the_short_example_of_the_docs(capsys: pytest.CaptureFixture[str]) -> None:
    exec(EXAMPLES[1], {})
    assert capsys.readouterr().out == "small\n"


@pytest.mark.slow
def test_the_ten_lines_of_the_docs(tmp_path: Path) -> None:
    assert len(EXAMPLES[0].strip().splitlines()) <= 10
    few_steps = 'benchmark_hyperparameters={"icons": {"distill": {"num_steps": 16}}}'
    done = subprocess.run(
        [sys.executable, "-c", EXAMPLES[0].replace("seeds=2", few_steps)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(REPOSITORY), "PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    first, *rows = done.stdout.splitlines()
    assert first == "8 folds, exit code 0"
    accuracies = {row.split()[0]: float(row.split()[1].rstrip("%")) for row in rows}
    assert list(accuracies) == ["zero_shot", "erm"]
    # The demo teacher's is 56.5 over two seeds; sixteen steps teach ERM little.
    assert 50.0 < accuracies["zero_shot"] < 62.0
    assert 0.0 < accuracies["erm"] < accuracies["zero_shot"]
