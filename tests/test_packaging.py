"""What a release holds: wheel and sdist with their data, one version, one licence, no address that is not there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.repository import REPOSITORY

PACKAGES = ("orchestrator", "search_spaces", "trainables")
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]

BUILD = """
import sys
from setuptools import build_meta
print(getattr(build_meta, f"build_{sys.argv[1]}")(sys.argv[2]))
"""


def tracked(*below: str) -> list[str]:
    """Files of the repository, without those that git ignores."""
    command = ["git", "-C", str(REPOSITORY), "ls-files", "--cached", "--others", "--exclude-standard", "--", *below]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.splitlines() if (REPOSITORY / name).is_file()]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository's files and nothing else, so that a build leaves nothing here."""
    root = tmp_path_factory.mktemp("checkout")
    for name in tracked():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, root / name)
    return root


@pytest.fixture(scope="module")
def built(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel and the sdist."""
    into = tmp_path_factory.mktemp("dist")
    made = {}
    for kind in ("sdist", "wheel"):
        command = [sys.executable, "-W", "ignore", "-c", BUILD, kind, str(into)]
        done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        made[kind] = into / done.stdout.splitlines()[-1]
    return made


@pytest.fixture(scope="module")
def unpacked(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as an installer lays it down."""
    place = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(built["wheel"]).extractall(place)
    return place


def test_the_wheel_holds_every_file_of_the_three_packages(unpacked: Path) -> None:
    lacking = [name for name in tracked(*PACKAGES) if not (unpacked / name).is_file()]
    assert lacking == []
    for package in PACKAGES:
        assert (unpacked / package / "py.typed").is_file(), package
    assert not (unpacked / "tests").exists()


def test_the_sdist_holds_what_a_packager_needs(built: dict[str, Path]) -> None:
    with tarfile.open(built["sdist"]) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    documents = {"LICENSE", "NOTICE", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "README.md", "constraints.txt"}
    assert {*tracked(*PACKAGES, "docs", "tests"), *documents} <= held


def test_a_release_says_whose_it_is_and_under_which_licences(unpacked: Path) -> None:
    (folder,) = unpacked.glob("*.dist-info")
    metadata = (folder / "METADATA").read_text()
    for line in ("Author: vl2v-orchestrate contributors", f"Version: {PROJECT['version']}", "Requires-Python: >=3.11"):
        assert line in metadata.splitlines()
    assert f"License-Expression: {PROJECT['license']}" in metadata
    assert {path.name for path in (folder / "licenses").rglob("*") if path.is_file()} >= {"LICENSE", "NOTICE"}


def test_the_licence_covers_every_licence_of_the_pictures() -> None:
    import pyarrow.parquet as parquet

    names = {"public domain": "CC-PDDC"}
    table = parquet.read_table(REPOSITORY / "trainables" / "data" / "icons" / "icons.parquet", columns=["licence"])
    stated = {names.get(text, text) for text in table["licence"].to_pylist()}
    assert len(stated) == 4
    assert stated | {"Apache-2.0"} == set(PROJECT["license"].split(" AND "))


def test_what_is_installed_plans_without_the_repository(unpacked: Path, tmp_path: Path) -> None:
    program = "import sys; sys.path.insert(0, sys.argv[1]); from orchestrator import cli; print(cli.__file__); "
    program += "raise SystemExit(cli.run(sys.argv[2:]))"
    words = ["plan", "--config", "demo.yaml", "--json"]
    command = [sys.executable, "-P", "-c", program, str(unpacked), *words]
    done = subprocess.run(command, cwd=tmp_path, env={"PATH": ""}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    where, _, plan = done.stdout.partition("\n")
    assert Path(where).is_relative_to(unpacked)
    assert json.loads(plan)["sweep"]["sweep"]["name"] == "demo"


def test_the_version_stands_in_one_place() -> None:
    version = PROJECT["version"]
    assert f"## {version}" in (REPOSITORY / "CHANGELOG.md").read_text()
    stated = [name for name in tracked(*PACKAGES, "CITATION.cff") if _states(REPOSITORY / name, version)]
    assert stated == []


def _states(path: Path, version: str) -> bool:
    if path.suffix not in (".py", ".cff"):
        return False
    return re.search(rf"(?i)version\W+{re.escape(version)}\b", path.read_text()) is not None


def test_there_is_no_address_of_the_project_outside_its_place() -> None:
    """`[project.urls]` is the place; while it is empty, no document may make one up."""
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    elsewhere = [citation.get("repository-code"), citation.get("url")]
    assert {address for address in elsewhere if address} <= set(PROJECT.get("urls", {}).values())


def test_pre_commit_runs_what_lint_runs() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", makefile, flags=re.MULTILINE)
    assert recipe is not None
    lint = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe[1].splitlines()]
    (repo,) = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())["repos"]
    assert [hook["entry"] for hook in repo["hooks"]] == lint
    assert all(hook["pass_filenames"] is False for hook in repo["hooks"])


def test_public_ci_runs_the_one_script() -> None:
    jobs = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    assert [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step] == ["bash .ci/run"]


def test_issue_forms_are_whole() -> None:
    forms = [path for path in (REPOSITORY / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml"]
    assert forms
    for path in forms:
        form = yaml.safe_load(path.read_text())
        assert form["name"]
        assert form["description"]
        assert all(field["attributes"]["label"] and field["id"] for field in form["body"]), path


def diffs() -> Iterator[str]:
    """The example diffs of CONTRIBUTING.md."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    yield from re.findall(r"^```diff\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def test_the_example_diffs_apply_and_work(tmp_path: Path) -> None:
    for name in tracked(*PACKAGES):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, tmp_path / name)
    examples = list(diffs())
    assert len(examples) == 4
    for example in examples:
        command = ["git", "apply", "-"]
        done = subprocess.run(command, cwd=tmp_path, input=example, capture_output=True, text=True)
        assert done.returncode == 0, f"{done.stderr}\n{example}"
    words = "--benchmark icons --method erm_smooth --pruner mean"
    plan = _in_copy(tmp_path, f"plan {words} --json")
    assert json.loads(plan)["sweep"]["sweep"]["methods"] == ["erm_smooth"]
    assert "--note" in _in_copy(tmp_path, "sweep --help")
    pruners = "from orchestrator.search.pruning_rules import PRUNERS; print(*PRUNERS)"
    assert _python(tmp_path, pruners).split() == ["median", "mean", "asha"]
    recipe = "from trainables.methods.recipes import method_recipe; print(method_recipe('erm_smooth').head)"
    assert _python(tmp_path, recipe).strip() == "classifier"
    column = (
        "from orchestrator.report.columns import COLUMNS; "
        "from types import SimpleNamespace as N; "
        "(column,) = [one for one in COLUMNS if one.heading == 'Worst domain']; "
        "row = N(ood={name: N(mean=mean, text=lambda bar, name=name: name) "
        "for name, mean in (('a', 0.5), ('b', 0.25), ('c', 0.75))}); "
        "print(column.text(row, 'PACS', 'domainbed'))"
    )
    assert _python(tmp_path, column).strip() == "b"


def _in_copy(root: Path, words: str) -> str:
    return _python(root, f"from orchestrator import cli; raise SystemExit(cli.run({words.split()!r}))")


def _python(root: Path, program: str) -> str:
    code: list[Any] = [sys.executable, "-c", program]
    done = subprocess.run(
        code, cwd=root, env={"PATH": "", "COLUMNS": "200"}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
