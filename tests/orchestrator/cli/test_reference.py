"""What can be set and run, as the command line shows it: nothing is left out, and everything is what the code does."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest

from orchestrator import cli
from orchestrator.cli.catalogue import Entry, catalogue, find_entries
from orchestrator.cli.commands.reference import dimension_text, entry_lines
from orchestrator.run_options import RunOptions
from search_spaces.benchmarks import BENCHMARKS
from search_spaces.configuration import flat
from search_spaces.errors import UserError
from search_spaces.hyperparameters import Hyperparameters, Resources
from search_spaces.methods import METHODS
from search_spaces.settings import settings
from search_spaces.spaces import SPACES, Choice, IntegerRange, Range
from search_spaces.sweeps import Sweep, sweep_from_mapping
from tests.support.command_lines import requested


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.run(words) == 0
    return capsys.readouterr().out


def entry(key: str) -> Entry:
    (found,) = find_entries(key)
    return found


def test_every_field_is_in_the_catalogue() -> None:
    keys = {one.key for one in catalogue()}
    assert {setting.place for setting in settings(Hyperparameters)} <= keys
    assert {f"resources.{field.name}" for field in fields(Resources)} <= keys
    own = {field.name for field in fields(Sweep)} - {"hyperparameters", "benchmark_hyperparameters"}
    assert {f"sweep.{name}" for name in own} <= keys
    assert {one.flag for one in settings(RunOptions) if one.option and "resources." not in one.place} <= keys
    assert len(keys) == len(catalogue())
    assert all(one.meaning and one.allowed and one.read_by and one.methods for one in catalogue())


def test_the_default_of_a_benchmark_is_what_a_fold_of_it_takes() -> None:
    assert entry("distill.lr").by_benchmark == {"icons": 2e-3}
    assert entry("distill.lr").default_text == "5e-05; icons 0.002"
    assert entry("align.num_steps").default_text == "5001; DomainNet 15001; icons 151"
    brought = {one.key: one.by_benchmark["icons"] for one in catalogue() if "icons" in one.by_benchmark}
    sweep = sweep_from_mapping({"sweep": {"benchmarks": ["icons"], "methods": ["erm"]}})
    taken = flat(sweep.to_mapping()["hyperparameters"]) | flat(sweep.benchmark_hyperparameters["icons"])
    own = BENCHMARKS["icons"]
    for key, value in brought.items():
        assert value == (getattr(own, key.rpartition(".")[2]) if taken[key] is None else taken[key]), key


@pytest.mark.parametrize(
    ("key", "read_by", "methods"),
    [
        ("align.lr", "align", ["vl2v_adip"]),
        ("image_weight", "align, distill", ["vl2v_adip", "vl2v_sd"]),
        ("kd_temperature", "distill", ["kd"]),
        ("swad.segments", "distill", ["vl2v_adip", "vl2v_sd", "erm", "kd"]),
        ("student", "align, distill, predict", ["vl2v_adip", "erm", "kd"]),
        ("teacher", "align, distill, predict", ["vl2v_adip", "vl2v_sd", "kd", "zero_shot"]),
        ("image_size", "align, distill, predict", list(METHODS)),
        ("resources.workers", "worker", list(METHODS)),
    ],
)
def test_who_reads_a_setting(key: str, read_by: str, methods: list[str]) -> None:
    found = entry(key)
    assert (found.read_by, list(found.methods)) == (read_by, methods)


def test_a_key_is_found_by_its_option_its_head_and_its_last_name() -> None:
    assert entry("hyperparameters.align.lr").key == entry("align.lr").key == "align.lr"
    assert entry("--trials").key == entry("trials").key == entry("sweep.trials").key == "sweep.trials"
    assert entry("max_concurrent").key == entry("max-concurrent").key == "--max-concurrent"
    assert [one.key for one in find_entries("lr")] == ["align.lr", "distill.lr"]
    assert [one.key for one in find_entries("speed")] == ["speed.compile", "speed.channels_last", "speed.fused_adam"]
    with pytest.raises(UserError, match="unknown setting 'imge_weight'; nearest: image_weight"):
        find_entries("imge_weight")


@pytest.mark.parametrize(
    ("key", "allowed"),
    [
        ("image_weight", "in [0, 1]"),
        ("dropout", "in [0, 1)"),
        ("align.lr", "a number above 0"),
        ("align.num_steps", "1 or more, or nothing"),
        ("precision", "fp32, bf16"),
        ("sweep.space", "paper, official, wide, demo"),
        ("sweep.search_seed", "a whole number"),
        ("sweep.zero_shot", "true, false"),
        ("student", "text"),
        ("--money-budget", "a number, 0 or more, or nothing"),
    ],
)
def test_what_is_allowed(key: str, allowed: str) -> None:
    assert entry(key).allowed == allowed


def test_every_way_to_give_a_setting_works() -> None:
    """What `settings` says under `given as`, with the default for the value."""
    for one in catalogue():
        if one.section == "options" or one.default is None or isinstance(one.default, tuple):
            continue
        word = f"{one.key}={json.dumps(one.default)}"
        asked = requested("--benchmark", "PACS", word).sweep
        assert asked.hyperparameters == Hyperparameters(), word
    assert "given as  --trials N or sweep.trials=VALUE" in "\n".join(entry_lines(entry("trials")))
    assert "given as  --max-concurrent N" in "\n".join(entry_lines(entry("max-concurrent")))


def test_settings_prints_all_one_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "settings").splitlines()
    heads = [line.partition(" = ")[0] for line in lines if " = " in line and not line.startswith(" ")]
    assert sorted(heads) == sorted(one.key for one in catalogue())
    assert "dropout = 0  (in [0, 1); read by: distill)" in lines
    assert "  Dropout on the backbone's features while training (the authors search it for ResNets)." in lines
    content = json.loads(printed(capsys, "settings", "--json"))
    assert [item["key"] for item in content] == [one.key for one in catalogue()]
    (item,) = json.loads(printed(capsys, "settings", "kd_temperature", "--json"))
    assert (item["default"], item["methods"], item["section"]) == (1.0, ["kd"], "hyperparameters")
    assert printed(capsys, "settings", "lr").count("given as") == 2


def test_spaces_show_what_is_searched(capsys: pytest.CaptureFixture[str]) -> None:
    content = {item["name"]: item for item in json.loads(printed(capsys, "spaces", "--json"))}
    assert list(content) == list(SPACES)
    assert content["paper"]["dimensions"] == []
    official = {item["key"]: item for item in content["official"]["dimensions"]}
    assert official["align.lr"]["methods"] == ["vl2v_adip"]
    assert official["log2_batch_size_per_domain"]["values"] == "3 to 5.5"
    assert "dropout" not in official

    def changed(*words: str) -> dict[str, Any]:
        (space,) = json.loads(printed(capsys, "spaces", "--space", "official", "--json", *words))
        return {item["key"]: item["values"] for item in space["dimensions"]}

    assert changed("student=resnet50")["dropout"] == "0, 0.1, 0.5"
    assert changed("--benchmark", "domainnet")["log2_batch_size_per_domain"] == "3 to 5"
    table = printed(capsys, "spaces", "--space", "demo", "--benchmark", "icons")
    assert "0.0001 to 0.01 (logarithmic)" in table
    assert "official" not in table


def test_a_dimension_in_words() -> None:
    assert dimension_text(Choice(values=(0.1, 5e-6))) == "0.1, 5e-06"
    assert dimension_text(IntegerRange(low=1, high=6)) == "1 to 6 (whole numbers)"
    assert dimension_text(Range(low=0.0, high=0.5)) == "0 to 0.5"


def test_methods_and_benchmarks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    content = {item["name"]: item for item in json.loads(printed(capsys, "methods", "--json"))}
    assert list(content) == list(METHODS)
    assert content["erm"]["asks"] == []
    assert content["vl2v_adip"]["stages"] == ["align", "distill"]
    table = printed(capsys, "methods")
    assert all(facts.title in table for facts in METHODS.values())
    known = {item["name"]: item for item in json.loads(printed(capsys, "benchmarks", "--json"))}
    assert list(known) == list(BENCHMARKS)
    assert known["icons"]["settings"]["distill.lr"] == 2e-3
    assert known["PACS"]["domains"][3] == {"name": "sketch", "letter": "S", "images": 3929}
    assert "586,575" in printed(capsys, "benchmarks")
