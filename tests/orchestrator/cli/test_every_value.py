"""Every allowed value of every option arrives as it is written: by the option, by an override, by a file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_origin

import pytest

from orchestrator.cli.sweep_arguments import Request
from orchestrator.run_options import RunOptions
from search_spaces.benchmarks import BENCHMARKS
from search_spaces.configuration import from_mapping
from search_spaces.errors import UserError
from search_spaces.hyperparameters import Resources
from search_spaces.methods import METHODS
from search_spaces.settings import Setting, settings
from search_spaces.spaces import SPACES
from search_spaces.sweeps import Sweep
from tests.support.command_lines import requested

WORDS = ("off", "no", "2024_01", "12:30", "010", "0x1F", "1e5", "2024-01-31", "007", ".5", "+1", "True", "1_0")
"""Names that YAML 1.1 makes something else of."""

NAMED: dict[str, tuple[str, ...]] = {
    "sweep.space": tuple(SPACES),
    "sweep.benchmarks": tuple(name for name in BENCHMARKS if name != "icons"),
    "sweep.methods": tuple(METHODS),
    "hyperparameters.teacher_mode": ("live", "clean", "views:1", "views:12"),
    "hyperparameters.teacher": (*WORDS, "demo", "open_clip:ViT-B-32:010", "remote:http://127.0.0.1:1/v1"),
}
"""What fields of type text allow, where not every text is."""

BY_TYPE: dict[Any, dict[str, Any]] = {
    int: {"1": 1, "12": 12, "+3": 3},
    float: dict.fromkeys(("0.25", ".25", "25e-2", "2.5E-1"), 0.25),
    bool: {"true": True, "false": False, "True": True, "off": False, "on": True},
    str: {word: word for word in WORDS},
}


def sections() -> Iterator[tuple[str, Setting]]:
    """Every field that a configuration holds, by its place there."""
    for setting in settings(Sweep):
        if setting.place != "benchmark_hyperparameters":
            yield setting.place if "." in setting.place else f"sweep.{setting.place}", setting
    yield from ((f"resources.{setting.place}", setting) for setting in settings(Resources))


def values(place: str, setting: Setting) -> dict[str, Any]:
    """What may be written there, and what it means."""
    if place in NAMED or setting.choices:
        return {name: name for name in NAMED.get(place, setting.choices)}
    return BY_TYPE[setting.kind]


def found(request: Request, place: str) -> Any:
    section, _, rest = place.partition(".")
    parts = {"sweep": request.sweep, "resources": request.options.resources}
    value: Any = request.sweep.hyperparameters if section == "hyperparameters" else parts[section]
    for name in rest.split("."):
        value = getattr(value, name)
    return value


EVERY = [(place, setting) for place, setting in sections()]
BASE = {"sweep": {"benchmarks": ["PACS"], "methods": ["erm"]}}


@pytest.mark.parametrize(("place", "setting"), EVERY, ids=[place for place, _ in EVERY])
def test_every_value_arrives_by_option_override_and_file(place: str, setting: Setting, tmp_path: Path) -> None:
    is_list = get_origin(setting.kind) is tuple
    file, base = tmp_path / "c.yaml", ["--benchmark", "PACS", "--method", "erm"]
    for text, meant in values(place, setting).items():
        wanted = (meant,) if is_list else meant
        written = f"[{text}]" if is_list else text
        assert found(requested(*base, f"{place}={written}"), place) == wanted
        section, _, rest = place.partition(".")
        *parents, last = rest.split(".")
        lines = [f"{section}:", *(f"{'  ' * depth}{name}:" for depth, name in enumerate(parents, 1))]
        lines.append(f"{'  ' * (len(parents) + 1)}{last}: {written}")
        rows = [f"  {name}: {json.dumps(value)}" for name, value in BASE["sweep"].items() if name != last]
        file.write_text("\n".join([*lines, *rows] if section == "sweep" else ["sweep:", *rows, *lines]))
        request = requested("--config", str(file))
        assert found(request, place) == wanted
        assert type(found(request, place)) is type(wanted)
        if setting.option is not None and setting.kind is not bool:
            others = [] if setting.flag in base else base
            assert found(requested(*others, *other_lists(setting), f"{setting.flag}={text}"), place) == wanted


def other_lists(setting: Setting) -> list[str]:
    """The list that a sweep needs beside the one that is given."""
    return {"--benchmark": ["--method", "erm"], "--method": ["--benchmark", "PACS"]}.get(setting.flag, [])


def test_nothing_is_left_out() -> None:
    assert len(EVERY) > 40
    assert {"swad.segments", "sweep.name"} <= {place.removeprefix("hyperparameters.") for place, _ in EVERY}
    assert requested("--benchmark", "PACS", "swad.segments=off").sweep.hyperparameters.swad.segments == "off"


@pytest.mark.parametrize("setting", [one for one in settings(RunOptions) if one.choices], ids=lambda one: one.place)
def test_every_choice_of_a_run_option_is_allowed(setting: Setting) -> None:
    for choice in setting.choices:
        options = requested("--benchmark", "PACS", setting.flag, choice).options if setting.option else RunOptions()
        assert setting.option is None or getattr(options, setting.place) == choice


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sweep.trials=010", "sweep.trials wants int, got '010'"),
        ("sweep.seeds=1:30", "sweep.seeds wants int, got '1:30'"),
        ("sweep.seeds=1_0", "sweep.seeds wants int, got '1_0'"),
        ("sweep.seeds=true", "sweep.seeds wants int, got 'true'"),
        ('sweep.seeds="3"', "sweep.seeds wants int, got '3'"),
        (f"sweep.seeds={'9' * 5000}", "sweep.seeds wants int, got '999"),
        ("align.lr=1_0.0", "align.lr wants float, got '1_0.0'"),
        ("sweep.zero_shot=1", "sweep.zero_shot wants bool, got '1'"),
        ("sweep.name=", "sweep.name wants str, got None"),
        ("sweep.name=[a, b]", "sweep.name wants str"),
        ("swad.segments=false", "unknown value for swad.segments 'false'; allowed: authors, every_evaluation, off"),
        ("sweep.methods=[erm", "is not YAML"),
        ("sweep.methods=erm", "sweep.methods wants a list, got 'erm'"),
    ],
)
def test_what_is_not_of_the_fields_type_is_one_short_line(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message.replace("[", r"\[")) as caught:
        requested("--benchmark", "PACS", override)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_text_as_a_person_writes_it_stays(tmp_path: Path) -> None:
    def name(text: str) -> str:
        return requested("--benchmark", "PACS", f"sweep.name={text}").sweep.name

    assert [name(text) for text in ("a: b", "a #b", "- x", "&a", "'quoted: 1'", '"010"')] == [
        "a: b", "a #b", "- x", "&a", "quoted: 1", "010"
    ]  # fmt: skip
    assert type(name("plain")) is str
    assert json.loads(json.dumps(requested("--benchmark", "PACS", "sweep.name=010").sweep.to_mapping()))
    with pytest.raises(UserError, match="wants int, got '3'"):
        from_mapping(Resources, {"workers": "3"})
