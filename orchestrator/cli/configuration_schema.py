"""The JSON Schema of a configuration file, from the fields that read it: an editor then completes and checks it.

It refuses what the command line refuses in one value. What only values together can break (a sampler that cannot search
the space, a benchmark's hyperparameters without the benchmark), the command line alone says. To a schema, 3.0 is a
whole number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import inf
from typing import Any, get_args, get_origin

from orchestrator.cli.catalogue import FROM_NAMES
from search_spaces.hyperparameters import Hyperparameters, Resources
from search_spaces.settings import Setting, settings
from search_spaces.sweeps import SECTIONS, Sweep

DRAFT = "https://json-schema.org/draft/2020-12/schema"

PATTERNS: Mapping[str, str] = {
    "teacher_mode": r"^(live|clean|views:(?=[0-9]{1,6}$)0*([1-9][0-9]{0,4}|100000))$",
    # An address that would show a secret: see `check_shows_no_secret`.
    "teacher": r"^(?!remote:.*[?#])(?!remote:[^/]*//[^/]*@)",
}
"""What a text has to look like, by field."""

POWERS_OF_TEN = r"^[+-]?[0-9]+(\.[0-9]*)?[eE][+-]?[0-9]+$"
"""YAML reads 1e-4, without a dot, as text; a number is meant."""


def configuration_schema() -> dict[str, Any]:
    """The schema of what `sweep --config` and `train --config` take."""
    own = [one for one in settings(Sweep) if "." not in one.place and one.place != "benchmark_hyperparameters"]
    sections = {
        "sweep": _section("What is run, searched and repeated.", own),
        "hyperparameters": {"$ref": "#/$defs/hyperparameters"},
        "benchmark_hyperparameters": {
            "description": "Hyperparameters by benchmark, which replace the common ones there.",
            "type": ["object", "null"],
            "additionalProperties": {"$ref": "#/$defs/hyperparameters"},
        },
        "resources": _section("How a fold is computed; changes no result.", settings(Resources)),
    }
    assert tuple(sections) == SECTIONS
    hyperparameters = _section("What changes a fold's result.", settings(Hyperparameters))
    return {
        "$schema": DRAFT,
        "title": "Configuration of vl2v-orchestrate",
        "type": "object",
        "additionalProperties": False,
        "properties": sections,
        "$defs": {"hyperparameters": hyperparameters},
    }


def _section(description: str, found: Any) -> dict[str, Any]:
    """An object with a property for each setting; dotted places are objects inside."""
    whole: dict[str, Any] = {
        "description": description,
        "type": ["object", "null"],
        "additionalProperties": False,
        "properties": {},
    }
    for setting in found:
        *parents, name = setting.place.split(".")
        place = whole
        for parent in parents:
            inner = {"type": "object", "additionalProperties": False, "properties": {}}
            place = place["properties"].setdefault(parent, inner)
        place["properties"][name] = _property(setting)
    return whole


def _property(setting: Setting) -> dict[str, Any]:
    described: dict[str, Any] = {"description": setting.meaning}
    if setting.default is not None:
        described["default"] = list(setting.default) if isinstance(setting.default, tuple) else setting.default
    kind = _kind(setting)
    if not setting.can_be_none:
        return described | kind
    return described | {"anyOf": [kind, {"type": "null"}]}


def _kind(setting: Setting) -> dict[str, Any]:
    if setting.choices:
        return {"enum": list(setting.choices)}
    if get_origin(setting.kind) is tuple:
        item: dict[str, Any] = _text(get_args(setting.kind)[0], setting.place)
        if setting.place == "benchmarks":
            # The command line takes one name, too, and names twice as once.
            return {"anyOf": [{"type": "array", "items": {"type": "string"}, "minItems": 1}, {"type": "string"}]}
        return {"type": "array", "items": item, "minItems": 1, "uniqueItems": True}
    if setting.kind is bool:
        return {"type": "boolean"}
    if setting.kind is int:
        return {"type": "integer"} | _bounds(setting)
    if setting.kind is float:
        return {"anyOf": [{"type": "number"} | _bounds(setting), {"type": "string", "pattern": POWERS_OF_TEN}]}
    return _text(setting.kind, setting.place)


def _text(kind: Any, place: str) -> dict[str, Any]:
    assert kind is str, f"{place}: the schema knows no {kind}"
    if place in FROM_NAMES:
        return {"enum": list(FROM_NAMES[place])}
    pattern = PATTERNS.get(place)
    # What an editor takes for a number or a truth value is text, too: a sweep may be called 7.
    others = [kind for kind, text in (("number", "7"), ("boolean", "true")) if not pattern or re.search(pattern, text)]
    return {"type": ["string", *others]} | ({"pattern": pattern} if pattern else {})


def _bounds(setting: Setting) -> dict[str, float]:
    bounds = setting.bounds
    if bounds is None:
        return {}
    found = {"minimum" if bounds.holds_low else "exclusiveMinimum": bounds.low}
    if bounds.high < inf:
        found["maximum" if bounds.holds_high else "exclusiveMaximum"] = bounds.high
    return found
