"""Search spaces: which hyperparameters vary, how far, and the paper's point that is always tried first.

A point names dotted hyperparameters (`distill.lr`) and two derived coordinates: `log2_batch_size_per_domain`, because
the authors draw int(2**U(3, 5.5)), and `STAGE.log10_weight_decay`, because they draw 10**U(-6, -2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from search_spaces.benchmarks import Benchmark
from search_spaces.configuration import from_mapping
from search_spaces.errors import unknown_name
from search_spaces.hyperparameters import Hyperparameters
from search_spaces.methods import MethodFacts, method_facts

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Value = float | int | str
Point = dict[str, Value]

NO_WEIGHT_DECAY = -6.0
"""The coordinate that stands for a weight decay of 0: the authors' lower end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One of a few values."""

    values: tuple[Value, ...]

    def __contains__(self, value: Value) -> bool:
        return value in self.values

    def including(self, value: Value) -> Choice:
        """The same choice with one more value, so that the point tried first lies in the space."""
        return self if value in self.values else Choice(values=tuple(sorted({*self.values, value})))

    def to_optuna(self) -> BaseDistribution:
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.values)


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """A real interval, both ends included."""

    low: float
    high: float
    log: bool = False

    def __contains__(self, value: Value) -> bool:
        return self.low <= float(value) <= self.high

    def including(self, value: Value) -> Range:
        """The interval widened to hold one value."""
        number = float(value)
        return Range(low=min(self.low, number), high=max(self.high, number), log=self.log)

    def to_optuna(self) -> BaseDistribution:
        from optuna.distributions import FloatDistribution

        return FloatDistribution(self.low, self.high, log=self.log)


@dataclass(frozen=True, kw_only=True, slots=True)
class IntegerRange:
    """Whole numbers, both ends included."""

    low: int
    high: int

    def __contains__(self, value: Value) -> bool:
        return self.low <= float(value) <= self.high and float(value).is_integer()

    def including(self, value: Value) -> IntegerRange:
        """The interval widened to hold one value."""
        return IntegerRange(low=min(self.low, int(value)), high=max(self.high, int(value)))

    def to_optuna(self) -> BaseDistribution:
        from optuna.distributions import IntDistribution

        return IntDistribution(self.low, self.high)


Dimension = Choice | Range | IntegerRange


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """A named set of dimensions, which may depend on the benchmark, the method and the fixed hyperparameters."""

    name: str
    summary: str
    """What is searched, in one line."""
    build: Callable[[Benchmark, MethodFacts, Hyperparameters], dict[str, Dimension]]

    def dimensions(self, benchmark: Benchmark, method: str, hyperparameters: Hyperparameters) -> dict[str, Dimension]:
        """Dimensions by key, widened where needed to hold the sweep's own point. Empty: nothing is searched."""
        facts = method_facts(method)
        if not facts.trains:
            return {}
        dimensions = self.build(benchmark, facts, hyperparameters)
        return {
            key: dimension.including(coordinate(hyperparameters, key)) for key, dimension in sorted(dimensions.items())
        }

    def distributions(
        self, benchmark: Benchmark, method: str, hyperparameters: Hyperparameters
    ) -> dict[str, BaseDistribution]:
        """The dimensions as Optuna's distributions."""
        dimensions = self.dimensions(benchmark, method, hyperparameters)
        return {key: dimension.to_optuna() for key, dimension in dimensions.items()}

    def paper_point(self, benchmark: Benchmark, method: str, hyperparameters: Hyperparameters) -> Point:
        """Where the sweep's own hyperparameters lie (the paper's, unless overridden): every group's first trial."""
        return {key: coordinate(hyperparameters, key) for key in self.dimensions(benchmark, method, hyperparameters)}

    def apply(self, hyperparameters: Hyperparameters, point: Mapping[str, Any]) -> Hyperparameters:
        """Hyperparameters with the point's coordinates put in; see `apply_point`."""
        return apply_point(hyperparameters, point)


def coordinate(hyperparameters: Hyperparameters, key: str) -> Value:
    """Read the coordinate of fixed hyperparameters; the inverse of `apply_point`."""
    stage, _, name = key.rpartition(".")
    if name == "log2_batch_size_per_domain":
        return math.log2(hyperparameters.batch_size_per_domain)
    if name == "log10_weight_decay":
        weight_decay = float(getattr(hyperparameters, stage).weight_decay)
        exponent = math.log10(weight_decay) if weight_decay > 0.0 else NO_WEIGHT_DECAY
        return math.nextafter(exponent, 0.0) if weight_decay > 0.0 and exponent == NO_WEIGHT_DECAY else exponent
    value: Any = hyperparameters
    for part in key.split("."):
        value = getattr(value, part)
    assert isinstance(value, float | int | str)
    return value


def apply_point(hyperparameters: Hyperparameters, point: Mapping[str, Any]) -> Hyperparameters:
    """Put a point's coordinates into hyperparameters.

    A `log10_weight_decay` of exactly -6, the lower end, stands for no weight decay at all: so the paper's point lies
    in the space. Powers are rounded to 12 digits, so that a fixed value comes back as itself.

    Raises:
        UserError: a coordinate that is not a hyperparameter.
    """
    mapping = asdict(hyperparameters)
    for key, value in point.items():
        *parents, name = key.split(".")
        if name == "log2_batch_size_per_domain":
            name, value = "batch_size_per_domain", int(float(f"{2.0**value:.12g}"))
        elif name == "log10_weight_decay":
            name, value = "weight_decay", 0.0 if value == NO_WEIGHT_DECAY else float(f"{10.0**value:.12g}")
        place = mapping
        for parent in parents:
            place = place[parent]
        place[name] = value
    return from_mapping(Hyperparameters, mapping)


def _paper(benchmark: Benchmark, method: MethodFacts, hyperparameters: Hyperparameters) -> dict[str, Dimension]:
    return {}


def _official(benchmark: Benchmark, method: MethodFacts, hyperparameters: Hyperparameters) -> dict[str, Dimension]:
    """The authors' ranges. Deviation: each stage draws its own learning rate and weight decay."""
    dimensions: dict[str, Dimension] = {
        "log2_batch_size_per_domain": Range(low=3.0, high=5.0 if benchmark.name == "DomainNet" else 5.5)
    }
    for stage in method.stages:
        dimensions[f"{stage}.lr"] = Choice(values=(5e-6, 1e-5, 5e-5, 1e-4, 5e-4, 1e-3))
        dimensions[f"{stage}.log10_weight_decay"] = Range(low=NO_WEIGHT_DECAY, high=-2.0)
    if method.uses_image_weight:
        dimensions["image_weight"] = Choice(values=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9))
    if "resnet" in hyperparameters.student and not method.student_is_teacher:
        dimensions["dropout"] = Choice(values=(0.0, 0.1, 0.5))
    return dimensions


def _wide(benchmark: Benchmark, method: MethodFacts, hyperparameters: Hyperparameters) -> dict[str, Dimension]:
    dimensions: dict[str, Dimension] = {
        "log2_batch_size_per_domain": Range(low=3.0, high=6.0),
        "dropout": Range(low=0.0, high=0.5),
    }
    for stage in method.stages:
        dimensions[f"{stage}.lr"] = Range(low=1e-6, high=1e-2, log=True)
        dimensions[f"{stage}.log10_weight_decay"] = Range(low=NO_WEIGHT_DECAY, high=-1.0)
    if method.uses_image_weight:
        dimensions["image_weight"] = Range(low=0.0, high=1.0)
    if method.uses_temperature:
        dimensions["kd_temperature"] = Range(low=0.5, high=10.0, log=True)
    if hyperparameters.swad.segments != "off":
        dimensions["swad.num_converge"] = IntegerRange(low=1, high=6)
        dimensions["swad.num_tolerate"] = IntegerRange(low=2, high=12)
        dimensions["swad.tolerance_ratio"] = Range(low=0.05, high=1.0, log=True)
    return dimensions


def _demo(benchmark: Benchmark, method: MethodFacts, hyperparameters: Hyperparameters) -> dict[str, Dimension]:
    """Only what Align does not depend on, so that the trials of a group share one Align stage."""
    return {"distill.lr": Range(low=1e-4, high=1e-2, log=True)}


SPACES: dict[str, Space] = {
    space.name: space
    for space in (
        Space(name="paper", summary="no search: the paper's hyperparameters", build=_paper),
        Space(name="official", summary="the ranges of the authors' code", build=_official),
        Space(name="wide", summary="a superset: continuous ranges, SWAD and temperature too", build=_wide),
        Space(name="demo", summary="the learning rate of Distill, for small students", build=_demo),
    )
}


def search_space(name: str) -> Space:
    """Look a space up; raises `UserError` with the nearest names."""
    if name not in SPACES:
        raise unknown_name("space", name, SPACES)
    return SPACES[name]
