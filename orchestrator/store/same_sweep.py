"""Whether an output folder, by the content of its `sweep.json`, is that of the sweep being asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from search_spaces.configuration import flat
from search_spaces.errors import UserError
from search_spaces.sweeps import Sweep

LEFT_OUT = (("sweep", "name"), ("sweep", "selection"))
"""Settings that may change from one command to the next."""


def check_same_sweep(before: Mapping[str, Any], sweep: Sweep, *, where: str) -> None:
    """Raises `UserError` where the folder belongs to another sweep."""
    if before.get("key") == sweep.key:
        return
    name = dict(before.get("sweep", {})).get("name", "?")
    changed = ", ".join(_differences(before, sweep.to_mapping())) or "its settings"
    raise UserError(
        f"the output folder {where} belongs to another sweep ({name!r}, which differs in {changed}); give another --out"
    )


def check_same_inputs(before: Mapping[str, Any], now: Mapping[str, Any], *, where: str) -> None:
    """Raises `UserError` where the folder was made by another trainer, or with other images."""
    made = f"the output folder {where} was made"
    version = before.get("trainer_version")
    if version != now["trainer_version"]:
        raise UserError(f"{made} by trainer version {version}, this is {now['trainer_version']}; give another --out")
    for name, manifest in now["manifests"].items():
        if before["manifests"].get(name) != manifest:
            raise UserError(f"{made} with other images of {name} than there are now; give another --out")


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Dotted names of the settings that differ."""
    for section in ("sweep", "hyperparameters", "benchmark_hyperparameters"):
        old, new = flat(before.get(section, {})), flat(now.get(section, {}))
        for key in sorted({*old, *new}):
            if old.get(key) != new.get(key) and (section, key) not in LEFT_OUT:
                yield f"{section}.{key}"
