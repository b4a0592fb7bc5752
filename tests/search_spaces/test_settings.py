"""Settings: what a field means is read from below it, and what is an option follows from its type."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

import pytest

from orchestrator.run_options import RunOptions
from search_spaces.hyperparameters import Hyperparameters, Resources
from search_spaces.settings import flag_of, option, settings
from search_spaces.sweeps import Sweep


@dataclass(frozen=True, kw_only=True, slots=True)
class Oven:
    """An oven."""

    heat: float | None = field(default=None, metadata=option("Resources of a fold", flag="--degrees"))
    """How hot it gets,
    in [0, 300]."""
    door: Literal["left", "right"] = field(default="left", metadata=option("Where"))
    """Where it opens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kitchen:
    """What stands around."""

    num_chairs: int = field(default=4, metadata=option("Where"))
    """How many sit."""
    guests: tuple[str, ...] = field(metadata=option("Where"))
    """Who comes."""
    colour: str = "white"
    """What it is painted in."""
    is_tidy: bool = field(default=False, metadata=option("Where"))
    oven: Oven = field(default_factory=Oven)


def test_a_field_is_described_by_the_string_below_it_and_nested_ones_by_their_place() -> None:
    chairs, guests, colour, tidy, heat, door = settings(Kitchen)
    assert (chairs.place, chairs.flag, chairs.metavar, chairs.default) == ("num_chairs", "--num-chairs", "N", 4)
    assert chairs.meaning == "How many sit."
    assert (guests.kind, guests.metavar, guests.default) == (tuple[str, ...], "NAME[,NAME...]", None)
    assert (colour.option, colour.meaning, colour.metavar) == (None, "What it is painted in.", "NAME")
    assert (tidy.meaning, tidy.metavar) == ("", "")
    assert (heat.place, heat.flag, heat.kind, heat.metavar) == ("oven.heat", "--degrees", float, "X")
    assert heat.meaning == "How hot it gets, in [0, 300]."
    assert heat.option is not None
    assert heat.option.panel == "Resources of a fold"
    assert (door.choices, door.metavar) == (("left", "right"), "left|right")
    assert [flag_of(one) for one in fields(Oven)] == ["--degrees", "--door"]


@pytest.mark.parametrize("cls", [Sweep, RunOptions, Hyperparameters, Resources])
def test_every_field_of_ours_says_what_it_means(cls: type) -> None:
    assert [setting.place for setting in settings(cls) if not setting.meaning] == []


def test_no_two_options_are_spelt_alike() -> None:
    flags = [setting.flag for cls in (Sweep, RunOptions) for setting in settings(cls) if setting.option is not None]
    assert "--gpu-hours-budget" in flags
    assert len(flags) == len(set(flags))
