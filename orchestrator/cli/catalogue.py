"""Every setting with its default, what is allowed, what it means, who reads it, and where benchmarks differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, get_origin

from orchestrator.run_options import RunOptions
from search_spaces.benchmarks import BENCHMARKS, Benchmark
from search_spaces.configuration import flat
from search_spaces.errors import unknown_name
from search_spaces.hyperparameters import NOT_READ_BY_ALIGN
from search_spaces.methods import METHODS
from search_spaces.settings import Setting, settings
from search_spaces.spaces import SPACES
from search_spaces.sweeps import BENCHMARK_DEFAULTS, Sweep

READ_BY_PREDICT = ("teacher", "student", "image_size", "eval_batch_size")
"""Hyperparameters that evaluation reads beside the stages that train."""

FROM_NAMES: Mapping[str, tuple[str, ...]] = {"space": tuple(SPACES), "methods": tuple(METHODS)}
"""Sweep fields whose values are names of a table."""

OWN_OF_BENCHMARK = tuple(field.name for field in fields(Benchmark) if field.type == "int")
"""Numbers that a benchmark brings along, where a hyperparameter is None."""

KINDS: Mapping[Any, str] = {int: "a whole number", float: "a number", str: "text"}

SECTION_TITLES = {
    "sweep": "What is run and searched (section `sweep`)",
    "hyperparameters": "Hyperparameters (section `hyperparameters`)",
    "resources": "How a fold is computed (section `resources`; changes no result)",
    "options": "How a sweep is run (options of the command line alone; change no result)",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One setting as a manual shows it."""

    key: str
    """As KEY=VALUE and `settings KEY` take it: `align.lr`, `sweep.trials`; of an option alone its flag."""
    section: str
    """A key of `SECTION_TITLES`."""
    default: Any
    allowed: str
    meaning: str
    read_by: str
    """Stages of a fold (align, distill, predict), or the part of the program."""
    methods: tuple[str, ...]
    """Methods that read it."""
    by_benchmark: Mapping[str, Any]
    """Its default where a benchmark has one of its own."""
    flag: str
    """Its option with what stands for the value; empty where it has none."""

    @property
    def default_text(self) -> str:
        """The default in words, with the benchmarks that differ from most."""
        if not self.by_benchmark:
            return as_typed(self.default)
        values = list(self.by_benchmark.values())
        usual = max(values, key=values.count) if self.default is None else self.default
        others = [f"{name} {as_typed(value)}" for name, value in self.by_benchmark.items() if value != usual]
        return "; ".join([as_typed(usual), *others])

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "key": self.key,
            "section": self.section,
            "default": list(self.default) if isinstance(self.default, tuple) else self.default,
            "allowed": self.allowed,
            "meaning": self.meaning,
            "read_by": self.read_by,
            "methods": list(self.methods),
            "by_benchmark": dict(self.by_benchmark),
            "option": self.flag,
        }


def as_typed(value: Any) -> str:
    """A default as one types it."""
    if value is None:
        return "-"
    if isinstance(value, tuple):
        return ", ".join(value)
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def catalogue() -> tuple[Entry, ...]:
    """Every field of sweep, hyperparameters and resources, and every option, in the order of their definition."""
    return tuple(_entries())


def find_entries(key: str) -> tuple[Entry, ...]:
    """The settings that a key names: a whole key, an option, the head of some (`swad`), or a last name (`lr`).

    Raises:
        UserError: there is none, with the nearest.
    """
    known = catalogue()
    asked = _plain(key.removeprefix("hyperparameters."))
    exact = tuple(entry for entry in known if asked in (_plain(entry.key), _plain(entry.flag.partition(" ")[0])))
    found = exact or tuple(
        entry for entry in known if entry.key.startswith(f"{asked}.") or asked == entry.key.rpartition(".")[2]
    )
    if not found:
        raise unknown_name("setting", key, [entry.key.removeprefix("--") for entry in known])
    return found


def _plain(name: str) -> str:
    """`--max-concurrent` and `max_concurrent` are one name."""
    return name.removeprefix("--").replace("-", "_")


def _entries() -> Iterator[Entry]:
    for setting in settings(Sweep):
        head, _, rest = setting.place.partition(".")
        if head == "hyperparameters":
            yield _entry(setting, rest, "hyperparameters")
        else:
            yield _entry(setting, f"sweep.{head}" if head != "benchmark_hyperparameters" else head, "sweep")
    ran = settings(RunOptions)
    for setting in ran:
        if setting.place.startswith("resources."):
            yield _entry(setting, setting.place, "resources")
    for setting in ran:
        if setting.option is not None and not setting.place.startswith("resources."):
            yield _entry(setting, setting.flag, "options")


def _entry(setting: Setting, key: str, section: str) -> Entry:
    return Entry(
        key=key,
        section=section,
        default=setting.default,
        allowed=_allowed(setting),
        meaning=setting.meaning,
        read_by=_read_by(key, section),
        methods=_methods(key) if section == "hyperparameters" else tuple(METHODS),
        by_benchmark=_by_benchmark(key) if section == "hyperparameters" else {},
        flag=f"{setting.flag} {setting.metavar}".strip() if setting.option is not None else "",
    )


def _allowed(setting: Setting) -> str:
    if setting.bounds is not None:
        words = setting.bounds.words(setting.kind).removeprefix("is ").replace("lies in", "in")
    elif get_origin(setting.kind) in (dict, Mapping):
        words = "hyperparameters by benchmark"
    elif setting.kind is bool:
        words = "true, false"
    elif setting.place in FROM_NAMES:
        words = ", ".join(FROM_NAMES[setting.place])
    elif setting.choices:
        words = ", ".join(setting.choices)
    elif get_origin(setting.kind) is tuple:
        words = "a list of names"
    else:
        own = "" if setting.option is None else setting.option.metavar
        words = own.replace("|", ", ") or KINDS[setting.kind]
    return f"{words}, or nothing" if setting.can_be_none else words


def _read_by(key: str, section: str) -> str:
    if section != "hyperparameters":
        return {"sweep": "plan and search", "resources": "worker", "options": "command"}[section]
    head = key.partition(".")[0]
    if head == "align":
        return "align"
    stages = ["distill"] if head in NOT_READ_BY_ALIGN else ["align", "distill"]
    return ", ".join([*stages, "predict"] if head in READ_BY_PREDICT else stages)


def _methods(key: str) -> tuple[str, ...]:
    """Who reads a hyperparameter; the baselines' single stage is `distill`."""

    def reads(name: str) -> bool:
        facts, head = METHODS[name], key.partition(".")[0]
        if key == "image_weight":
            return facts.uses_image_weight
        if key == "kd_temperature":
            return facts.uses_temperature
        if head == "align":
            return facts.aligns
        if head in ("student", "student_weights"):
            return facts.trains and not facts.student_is_teacher
        if head in ("teacher", "teacher_mode"):
            return facts.asks
        return facts.trains or head in READ_BY_PREDICT

    return tuple(name for name in METHODS if reads(name))


def _by_benchmark(key: str) -> dict[str, Any]:
    name = key.rpartition(".")[2]
    own = {known.name: getattr(known, name) for known in BENCHMARKS.values()} if name in OWN_OF_BENCHMARK else {}
    return own | {known: flat(brought)[key] for known, brought in BENCHMARK_DEFAULTS.items() if key in flat(brought)}
