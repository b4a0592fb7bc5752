"""Settings: what a field means is read from below it, and what is an option follows from its type."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from math import inf, nan
from typing import Literal

import pytest

from orchestrator.run_options import RunOptions
from search_spaces.errors import UserError
from search_spaces.hyperparameters import Hyperparameters, Resources
from search_spaces.settings import check_bounds, flag_of, option, settings, within
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
    assert {"--gpu-hours-budget", "--teacher", "--teacher-mode", "--workers", "--gpus-per-worker"} <= set(flags)
    assert len(flags) == len(set(flags))


@dataclass(frozen=True, kw_only=True, slots=True)
class Scales:
    """What is weighed."""

    weight: float = field(default=1.0, metadata=within(0, holds_low=False))
    share: float = field(default=0.5, metadata=option("Where") | within(0, 1, holds_high=False))
    number: int | None = field(default=None, metadata=within(2))

    def __post_init__(self) -> None:
        check_bounds(self)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"weight": 0.0}, "weight is a number above 0, got 0.0"),
        ({"weight": inf}, "weight is a number above 0, got inf"),
        ({"weight": nan}, "weight is a number above 0, got nan"),
        ({"share": 1.0}, "share lies in [0, 1), got 1.0"),
        ({"share": -0.1}, "share lies in [0, 1), got -0.1"),
        ({"number": 1}, "number is 2 or more, got 1"),
    ],
)
def test_a_number_out_of_bounds_is_refused_in_words(value: dict[str, float], message: str) -> None:
    with pytest.raises(UserError) as caught:
        Scales(**value)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_the_ends_are_allowed_where_they_are_held() -> None:
    assert Scales(weight=1e-9, share=0.0, number=2).share == 0.0
    assert Scales(number=None).number is None
    assert [one.bounds is None for one in settings(Scales)] == [False] * 3
    assert [one.can_be_none for one in settings(Scales)] == [False, False, True]
    assert flag_of(fields(Scales)[1]) == "--share", "an option keeps what it is beside its bounds"
    with pytest.raises(UserError, match="--share lies in"):
        check_bounds(replace_unchecked(Scales(), share=2.0), flag_of)


def replace_unchecked(scales: Scales, **values: float) -> Scales:
    """Scales whose values nobody checked."""
    for name, value in values.items():
        object.__setattr__(scales, name, value)
    return scales


def test_what_a_fold_is_computed_with_where_nothing_is_said() -> None:
    assert {one.place: one.default for one in settings(Resources)} == {
        "workers": 1,
        "gpus_per_worker": 0.0,
        "cpus_per_worker": 1.0,
        "threads_per_worker": 1,
        "loader_processes": 0,
        "decode_cache_mb": 512,
        "batch_pieces": 1,
        "swad_device": "same",
        "teacher_requests": 4,
        "teacher_timeout_s": 60.0,
        "teacher_patience_s": 300.0,
    }


def test_help_shows_the_teacher_s_modes() -> None:
    (mode,) = (one for one in settings(Hyperparameters) if one.place == "teacher_mode")
    assert mode.metavar == "live|views:K|clean"
