"""The schema of a configuration file says what the command line says: both take it, or both refuse it."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from orchestrator import cli
from orchestrator.cli.configuration_schema import configuration_schema
from orchestrator.cli.sweep_arguments import SweepArguments, build_request
from search_spaces.configuration import apply_overrides
from search_spaces.errors import UserError
from search_spaces.hyperparameters import Hyperparameters, Resources
from search_spaces.settings import Setting, settings
from search_spaces.sweeps import Sweep, load_config
from search_spaces.yaml_text import resolved
from tests.support.repository import REPOSITORY

VALIDATOR = Draft202012Validator(configuration_schema())
PUBLISHED = REPOSITORY / "docs" / "configuration.schema.json"
RECIPES = sorted(item.name for item in files("search_spaces").joinpath("recipes").iterdir())

WRONG = {
    "a section that is none": "sweeps: {trials: 3}",
    "a key that is none": "sweep: {trails: 3}",
    "a hyperparameter that is none": "hyperparameters: {aling: {lr: 0.1}}",
    "a nested key that is none": "hyperparameters: {align: {rate: 0.1}}",
    "a resource that is none": "resources: {gpus: 1}",
    "a space that is none": "sweep: {space: offical}",
    "a method that is none": "sweep: {methods: [erm, kdd]}",
    "a method twice": "sweep: {methods: [erm, erm]}",
    "no method": "sweep: {methods: []}",
    "methods as one text": "sweep: {methods: erm}",
    "a text for a number": "sweep: {trials: many}",
    "a fraction of a trial": "sweep: {trials: 2.5}",
    "no trial": "sweep: {trials: 0}",
    "a text for a truth": "sweep: {zero_shot: 'no'}",
    "the oracle": "sweep: {selection: oracle}",
    "a weight above one": "hyperparameters: {image_weight: 1.5}",
    "all of the features dropped": "hyperparameters: {dropout: 1.0}",
    "no learning rate": "hyperparameters: {distill: {lr: 0}}",
    "a precision that is none": "hyperparameters: {precision: fp16}",
    "no stored view": "hyperparameters: {teacher_mode: 'views:0'}",
    "a secret in an address": "hyperparameters: {teacher: 'remote:http://host?token=1'}",
    "a password in an address": "hyperparameters: {teacher: 'remote:http://me:secret@host'}",
    "a benchmark's wrong value": "benchmark_hyperparameters: {PACS: {kd_temperature: -1}}",
    "a list for a section": "resources: [1, 2]",
    "a truth for a number": "resources: {workers: true}",
    "less than no memory": "resources: {decode_cache_mb: -1}",
    "nothing for a number": "hyperparameters: {batch_size_per_domain: null}",
}


def refused_by_command_line(config: dict[str, Any], folder: Path) -> str:
    """What the command line says about a configuration file; empty where it takes it."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    given = {} if "benchmarks" in (config.get("sweep") or {}) else {"benchmarks": ["PACS"]}
    try:
        build_request(SweepArguments(config=str(path), given=given))
    except UserError as error:
        return str(error)
    return ""


def test_the_schema_is_one_and_is_the_published_one() -> None:
    Draft202012Validator.check_schema(configuration_schema())
    assert PUBLISHED.read_text() == json.dumps(configuration_schema(), indent=1) + "\n", (
        "write it anew: python -m tests.docs.generate"
    )


def test_settings_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["settings", "--schema"]) == 0
    assert capsys.readouterr().out == PUBLISHED.read_text()


@pytest.mark.parametrize("name", RECIPES)
def test_packaged_recipes_are_valid(name: str, tmp_path: Path) -> None:
    assert "demo.yaml" in RECIPES
    config = resolved(load_config(name))
    assert [error.message for error in VALIDATOR.iter_errors(config)] == []
    assert refused_by_command_line(config, tmp_path) == ""


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG)
def test_a_wrong_file_is_refused_by_both(text: str, tmp_path: Path) -> None:
    config = yaml.safe_load(text)
    assert refused_by_command_line(config, tmp_path)
    assert not VALIDATOR.is_valid(config)


def test_there_are_twenty_wrong_files() -> None:
    assert len(set(WRONG.values())) >= 20


def test_what_a_sweep_writes_is_valid() -> None:
    sweep = build_request(
        SweepArguments(config="demo.yaml", overrides=["align.num_steps=3", "resources.workers=2"])
    ).sweep
    assert [error.message for error in VALIDATOR.iter_errors(sweep.to_mapping())] == []


ALL = [
    *((f"hyperparameters.{one.place}", one) for one in settings(Hyperparameters)),
    *((f"resources.{one.place}", one) for one in settings(Resources)),
    *((f"sweep.{one.place}", one) for one in settings(Sweep) if "." not in one.place and one.bounds is not None),
]


def values(setting: Setting) -> list[Any]:
    """Values at the border of what is allowed and beyond it, and of other kinds."""
    tried: list[Any] = ["text", [1], {"a": 1}, None, True, setting.default]
    bounds = setting.bounds
    if bounds is not None:
        step = 1 if setting.kind is int else 1e-3
        tried += [kind for end in (bounds.low, min(bounds.high, 10**6)) for kind in (end - step, end, end + step)]
    return tried


@pytest.mark.parametrize(("place", "setting"), ALL, ids=[place for place, _ in ALL])
def test_schema_and_command_line_agree_at_the_border(place: str, setting: Setting, tmp_path: Path) -> None:
    for value in values(setting):
        # As an editor reads the file: the schema sees numbers where the command line sees text of a known field.
        config = resolved(apply_overrides({}, [f"{place}={json.dumps(value)}"]))
        said = refused_by_command_line(config, tmp_path)
        assert VALIDATOR.is_valid(config) is (said == ""), f"{place}={value!r}: {said}"


def test_powers_of_ten_without_a_dot_are_numbers(tmp_path: Path) -> None:
    config = yaml.safe_load("hyperparameters: {align: {lr: 1e-4}}")
    assert config["hyperparameters"]["align"]["lr"] == "1e-4"
    assert VALIDATOR.is_valid(config)
    assert refused_by_command_line(config, tmp_path) == ""
