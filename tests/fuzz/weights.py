"""Random weights files: other names, orders, prefixes, types and damaged bytes; right in the network, or one line."""

from __future__ import annotations

import random
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from search_spaces.errors import UserError
from tests.fuzz.tally import Tally, main, tally
from tests.support.damaged_bytes import damaged_bytes
from tests.support.named_network import NamedNetwork, below, named_state
from trainables.state_dicts import load_strictly
from trainables.weights import read_weights

SUFFIXES = (".pt", ".pth", ".bin", ".safetensors", "")
WRAPPERS = ("state_dict", "model", "net", "model_state_dict", "model_dict", "my.weights", "model_ema")


def tried(inputs: int, *, seed: int) -> Tally:
    """What came of so many files."""
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tally(
            lambda chance: chance.choice([_changed, _changed, _damaged])(chance, Path(scratch)), inputs, seed=seed
        )


def _changed(chance: random.Random, folder: Path) -> str:
    """A file of other names or numbers loads right or not at all, and as .pt as it does as .safetensors."""
    number = chance.randrange(1000)
    weights, is_right = named_state(number), True
    for _ in range(chance.randint(1, 3)):
        weights, is_harmless = _change(weights, chance)
        is_right &= is_harmless
    if chance.random() < 0.2:
        name = chance.choice([name for name in weights if weights[name].is_floating_point()])
        weights[name].view(-1)[0] = chance.choice([float("nan"), float("inf"), float("-inf")])
        is_right = False
    answers = []
    for form in ("torch", "legacy", "safetensors"):
        file = folder / f"w{chance.choice(SUFFIXES)}"
        _write(file, weights, form, chance)
        answers.append(_loaded(file))
    for answer in answers:
        if isinstance(answer, str):
            if is_right or "\n" in answer or len(answer) > 2000:
                return f"refused: {answer!r}"
        elif not is_right:
            return "what is wrong was loaded"
        elif problem := _difference(answer, named_state(number)):
            return problem
    return ""


def _write(file: Path, weights: dict[str, Tensor], form: str, chance: random.Random) -> None:
    if form == "safetensors":
        save_file(weights, file)
        return
    content: Any = weights
    for _ in range(chance.randrange(3)):
        content = {
            "epoch": 3,
            chance.choice(WRAPPERS): content,
            "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}},
        }
    torch.save(content, file, _use_new_zipfile_serialization=form == "torch")


def _loaded(file: Path) -> dict[str, Tensor] | str:
    """What the network holds afterwards, or the line of a refusal."""
    network = NamedNetwork()
    try:
        load_strictly(network, read_weights(file), what="network (w)")
    except UserError as error:
        return str(error)
    return network.state_dict()


def _difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> str:
    for name, value in expected.items():
        # torch fills in a counter that was left out.
        was_left_out = name.endswith("num_batches_tracked") and int(found[name]) == 0
        if not was_left_out and not torch.equal(found[name], value):
            return f"{name} was loaded wrong"
    return ""


def _change(weights: dict[str, Tensor], chance: random.Random) -> tuple[dict[str, Tensor], bool]:
    """One change, and whether the weights still mean the same."""
    names = list(weights)
    # Not those beside the network, which may change as they like.
    name, other = chance.sample([name for name in names if not name.endswith(("head.weight", "n_averaged"))], 2)
    change = chance.choice(
        ["order", "prefix", "head", "twice", "type", "drop", "rename", "swap", "integers", "last part"]
    )
    prefix = ".".join(chance.choices(["backbone", "net", "model", "0", "encoder", "module"], k=chance.randint(1, 3)))
    if change == "order":
        chance.shuffle(names)
        return {key: weights[key] for key in names}, True
    if change in ("prefix", "head"):
        head = {"head.weight": torch.ones(5, 3), "n_averaged": torch.tensor(2)} if change == "head" else {}
        return head | below(f"{prefix}.", weights), True
    if change == "twice":
        return below("student.", weights) | below("teacher.", {key: value + 1 for key, value in weights.items()}), False
    if change == "type":
        kind = chance.choice([torch.float64, torch.float32])
        return {key: value.to(kind) if value.is_floating_point() else value for key, value in weights.items()}, True
    if change == "drop":
        return {key: value for key, value in weights.items() if key != name}, name.endswith("tracked")
    if change == "rename":
        return {f"{key}_" if key in (name, other) else key: value for key, value in weights.items()}, False
    if change == "swap":
        # A norm's bias before its scale, under names of another library.
        last = {"weight": "gamma", "bias": "beta"}
        return {".".join(last.get(part, part) for part in key.split(".")): weights[key] for key in sorted(names)}, False
    if change == "integers":
        # Of a file that was quantised, or whose counters were averaged.
        is_float = weights[name].dtype != torch.int64
        return weights | {name: weights[name].to(torch.int8 if is_float else torch.float32)}, False
    return {key.replace("weight", "kernel"): value for key, value in weights.items()}, False


def _damaged(chance: random.Random, folder: Path) -> str:
    """Cuts, flipped bits, zeros and noise are one line; torch's own checksums find them all."""
    file, form = folder / f"w{chance.choice(SUFFIXES)}", chance.choice(["torch", "legacy", "safetensors"])
    _write(file, named_state(), form, chance)
    file.write_bytes(damaged_bytes(file.read_bytes(), chance))
    found = _loaded(file)
    if isinstance(found, str):
        return repr(found) if "\n" in found or len(found) > 2000 else ""
    return _difference(found, named_state()) if form == "torch" else ""


if __name__ == "__main__":
    main(tried, "weights")
