"""A sweep: benchmarks x methods x space x seeds x protocol. Recipes are functions, or packaged YAML files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from search_spaces.benchmarks import HEADLINE
from search_spaces.configuration import apply_overrides, from_mapping
from search_spaces.errors import UserError, echoed, first_line, shortened, unknown_name
from search_spaces.hyperparameters import Hyperparameters, Resources, content_key
from search_spaces.methods import method_facts
from search_spaces.samplers import Sampler
from search_spaces.settings import check_bounds, option, within
from search_spaces.spaces import search_space
from search_spaces.yaml_text import parse_yaml

Scope = Literal["domain", "benchmark"]
Pruner = Literal["none", "median", "asha"]
SweepSelection = Literal["source_validation", "leave_one_domain_out"]
"""What a sweep may choose configurations by; a report may also look back with test-domain numbers (`oracle`)."""

SECTIONS = ("sweep", "hyperparameters", "benchmark_hyperparameters", "resources")

RECORDED = frozenset({"key", "trainer_version", "manifests", "groups"})
"""What a sweep's own `sweep.json` holds besides, so that it serves as a configuration file too."""

BENCHMARK_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    # The paper's learning rate is for models a hundred times larger and thirty times as many steps.
    "icons": {"student": "small", "teacher": "demo", "align": {"lr": 1e-3}, "distill": {"lr": 2e-3}}
}
"""Hyperparameters that a benchmark brings along; whatever a configuration states goes before them."""

UNSTATED = Hyperparameters()
"""A sweep that was given none: its benchmarks bring theirs along."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """One table: what is run, searched and repeated. Where and with what it runs is not in here."""

    name: str = field(default="sweep", metadata=option("What is run"))
    """What the sweep is called."""
    benchmarks: tuple[str, ...] = field(
        metadata=option("What is run", flag="--benchmark", metavar="NAME[,NAME...]|all")
    )
    """Benchmarks, each with its own fold groups: names, `all` five, a folder below --data-root, or folder:PATH. May be
    repeated."""
    methods: tuple[str, ...] = field(default=("vl2v_adip",), metadata=option("What is run", flag="--method"))
    """Methods, the rows of the table in order; `vl2v_adip` if nothing is said. May be repeated."""
    space: str = field(default="paper", metadata=option("Search"))
    """Search space: `paper` (nothing), `official`, `wide`, `demo`."""
    trials: int = field(default=1, metadata=option("Search") | within(1))
    """Configurations tried in each fold group; the first is the sweep's own hyperparameters."""
    seeds: int = field(default=1, metadata=option("Search") | within(1))
    """Seeds that the selected trial of a group runs on: 0 to N - 1. The search runs on seed 0; with the sampler
    `authors`, every seed has its own."""
    scope: Scope = field(default="domain", metadata=option("Search"))
    """Choose hyperparameters per test domain (as DomainBed), or once for all test domains of a benchmark."""
    selection: SweepSelection = field(default="source_validation", metadata=option("Search"))
    """What a configuration is selected by: source validation accuracy, or further folds that leave two domains out."""
    sampler: Sampler = field(default="tpe", metadata=option("Search"))
    """How configurations are suggested after the sweep's own, which always comes first."""
    pruner: Pruner = field(default="none", metadata=option("Search"))
    """Rule that stops folds of a search early, by source validation accuracy."""
    stop_level: float = field(default=0.05, metadata=within(0, 0.5, holds_high=False))
    """In scope `benchmark`, a configuration's folds run one test domain after another. It stops once its chance to
    overtake the best is below this. The level is shared among the looks (D - 2 with D test domains); 0 runs every
    fold."""
    audit_share: float = field(default=0.1, metadata=within(0, 1))
    """Share of what was pruned or stopped that runs on, so that the regret is known."""
    search_seed: int = 0
    """Seed of the sampler; suggestions follow from it, the fold group and the history."""
    zero_shot: bool = True
    """Adds the teacher's own zero-shot accuracy as a row."""
    hyperparameters: Hyperparameters = UNSTATED
    """Of every benchmark. A value states all of them. Where none is given, benchmarks bring their own along: `icons`
    bring the demo's student and teacher."""
    benchmark_hyperparameters: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Nested hyperparameters by benchmark name that replace the sweep's own there."""

    def __post_init__(self) -> None:
        _check_list("benchmarks", self.benchmarks)
        _check_list("methods", self.methods)
        for method in self.methods:
            method_facts(method)
        search_space(self.space)
        check_bounds(self)
        for name in self.benchmark_hyperparameters:
            if name not in self.benchmarks:
                raise unknown_name("benchmark in benchmark_hyperparameters", name, self.benchmarks)
            self.hyperparameters_for(name)
        if self.hyperparameters is UNSTATED:
            stated = Hyperparameters()
            own = _with_brought(self.benchmarks, {}, self.benchmark_hyperparameters)
            object.__setattr__(self, "hyperparameters", stated)
            object.__setattr__(self, "benchmark_hyperparameters", _differences(stated, own))

    @property
    def all_methods(self) -> tuple[str, ...]:
        """The rows in order, the teacher's zero-shot row first where it was asked for."""
        if self.zero_shot and "zero_shot" not in self.methods:
            return ("zero_shot", *self.methods)
        return self.methods

    @property
    def key(self) -> str:
        """SHA-256 over everything but the name and the selection, which tries the same trials and adds folds."""
        content = self.to_mapping()
        del content["sweep"]["name"], content["sweep"]["selection"]
        for name in ("pruner", "stop_level", "audit_share"):
            # Fields that came later: the folder of an older sweep stays its own.
            if content["sweep"][name] == Sweep.__dataclass_fields__[name].default:
                del content["sweep"][name]
        return content_key(content)

    def hyperparameters_for(self, benchmark_name: str) -> Hyperparameters:
        """The sweep's hyperparameters with a benchmark's own put in."""
        own = self.benchmark_hyperparameters.get(benchmark_name, {})
        return from_mapping(Hyperparameters, _merged(asdict(self.hyperparameters), own))

    def to_mapping(self) -> dict[str, Any]:
        """Plain values in the layout of a configuration file; `sweep_from_mapping` reads them back."""
        content = asdict(self)
        hyperparameters = content.pop("hyperparameters")
        own = content.pop("benchmark_hyperparameters")
        content["benchmarks"], content["methods"] = list(self.benchmarks), list(self.methods)
        return {"sweep": content, "hyperparameters": hyperparameters, "benchmark_hyperparameters": own}


def sweep_from_mapping(config: Mapping[str, Any]) -> Sweep:
    """Build a sweep from a configuration; its `resources` section is read by `resources_from_mapping`.

    Raises:
        UserError: an unknown section, key, method or space, or a value of the wrong kind.
    """
    for section in config:
        if section not in SECTIONS:
            raise unknown_name("section of the configuration", str(section), SECTIONS)
    common = _section(config, "hyperparameters")
    per_benchmark = _section(config, "benchmark_hyperparameters")
    content = dict(_section(config, "sweep"))
    for name in ("hyperparameters", "benchmark_hyperparameters"):
        if name in content:
            raise UserError(f"sweep.{name} stands at the top level of a configuration, beside sweep")
    names = content.get("benchmarks", ())
    stated = {str(name): _section(per_benchmark, name) for name in per_benchmark}
    own = _with_brought(names if isinstance(names, list | tuple) else (), common, stated)
    if "benchmarks" not in content:
        raise UserError("a sweep needs benchmarks; give --benchmark or sweep.benchmarks in the configuration")
    check_sweep_selection(content.get("selection"))
    content["hyperparameters"] = from_mapping(Hyperparameters, common)
    content["benchmark_hyperparameters"] = _differences(content["hyperparameters"], own)
    return from_mapping(Sweep, content, where="sweep")


def check_sweep_selection(name: Any) -> None:
    """Raises `UserError` for the one selection that a report knows and a sweep refuses."""
    if name == "oracle":
        raise UserError(
            "a sweep never chooses by test-domain numbers: run it with source_validation or leave_one_domain_out; "
            "report --selection oracle then computes the oracle from the same folds"
        )


def check_shared_choice(sweep: Sweep) -> None:
    """Refuse a choice for all test domains that would read the very images which are reported.

    In scope `benchmark` a pair fold that judges a configuration for one test domain is tested on another test domain.

    Raises:
        UserError: scope `benchmark` with selection `leave_one_domain_out`, where there is something to choose.
    """
    if sweep.scope == "benchmark" and sweep.selection == "leave_one_domain_out" and sweep.trials > 1:
        raise UserError(
            "scope benchmark makes one choice for all test domains, and leave_one_domain_out would make it by the "
            "reported images themselves; allowed: --scope domain with leave_one_domain_out, or --scope benchmark with "
            "source_validation"
        )


def resources_from_mapping(config: Mapping[str, Any]) -> Resources:
    """The `resources` section of a configuration."""
    return from_mapping(Resources, _section(config, "resources"), where="resources")


def load_config(path_or_name: str) -> dict[str, Any]:
    """Read a configuration file, or a packaged recipe (`smoke.yaml`, `demo.yaml`) where there is no such file.

    Raises:
        UserError: no such file or recipe; not a YAML mapping.
    """
    path = Path(path_or_name)
    recipes = {item.name: item for item in files("search_spaces").joinpath("recipes").iterdir()}
    packaged = recipes.get(path_or_name) or recipes.get(f"{path_or_name}.yaml")
    try:
        # A folder may be called as a recipe is.
        found = packaged if packaged is not None and not path.is_file() else path
        raw = found.read_bytes()
    except FileNotFoundError:
        packaged_names = [name for name in recipes if name.endswith(".yaml")]
        raise unknown_name("configuration", path_or_name, packaged_names, hint="or the path of a YAML file") from None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {shortened(path_or_name)}: {first_line(error)}") from None
    content = parse_yaml(raw, shortened(path_or_name))
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{shortened(path_or_name)} wants a mapping with the sections {', '.join(SECTIONS)}")
    if set(content) >= RECORDED:
        return {name: value for name, value in content.items() if name not in RECORDED}
    return content


def override_config(config: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Set dotted keys: `align.lr=1e-4` is a hyperparameter, `sweep.trials=3` names its section."""
    dotted = []
    for override in overrides:
        head = override.partition("=")[0].partition(".")[0]
        dotted.append(override if head in SECTIONS else f"hyperparameters.{override}")
    return apply_overrides(dict(config), dotted)


def headline() -> Sweep:
    """The published table: both methods on the five benchmarks, the paper's hyperparameters, three seeds."""
    return Sweep(name="headline", benchmarks=HEADLINE, methods=("vl2v_sd", "vl2v_adip"), seeds=3)


def smoke() -> Sweep:
    """Every fold group of the five benchmarks on `data sample` pictures, made as small as it can be."""
    return sweep_from_mapping(load_config("smoke.yaml"))


def demo() -> Sweep:
    """The packaged icons, the demo teacher and the small student."""
    return sweep_from_mapping(load_config("demo.yaml"))


def _section(config: Mapping[str, Any], name: Any) -> dict[str, Any]:
    section = config.get(name) or {}
    if not isinstance(section, Mapping):
        raise UserError(f"{name} wants a mapping, got {echoed(section)}")
    return dict(section)


def _with_brought(
    names: Iterable[Any], common: Mapping[str, Any], own: Mapping[str, Mapping[str, Any]]
) -> dict[str, Mapping[str, Any]]:
    """What each benchmark changes: what it brings along, then what is stated for all, then what is stated for it."""
    brought = {
        name: _merged(_merged(BENCHMARK_DEFAULTS[name], common), own.get(name, {}))
        for name in names
        if isinstance(name, str) and name in BENCHMARK_DEFAULTS
    }
    return {**own, **brought}


def _differences(common: Hyperparameters, own: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What each benchmark changes, and nothing else: equal sweeps are then equal as values."""
    base = asdict(common)
    result = {}
    for name, changes in own.items():
        where = f"benchmark_hyperparameters.{name}"
        resolved = asdict(from_mapping(Hyperparameters, _merged(base, changes), where=where))
        difference = _subtracted(resolved, base)
        if difference:
            result[name] = difference
    return result


def _subtracted(content: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            value = _subtracted(value, base[key])
            if value:
                result[key] = value
        elif value != base[key]:
            result[key] = value
    return result


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = _merged(old, value) if both else value  # type: ignore[arg-type]
    return result


def _check_list(name: str, values: tuple[str, ...]) -> None:
    if not values:
        raise UserError(f"a sweep needs {name}")
    if len(set(values)) != len(values):
        raise UserError(f"{name} are named once each, got {', '.join(values)}")
