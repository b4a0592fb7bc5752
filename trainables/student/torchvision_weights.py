"""Weights of torchvision in timm's models: torchvision's names say which tensor is meant, in whatever order they come.

timm and torchvision define many of their networks in the same order under other names. Names and shapes say which
network of torchvision a file is of, and both networks have to give the same features in the end.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.errors import UserError
from trainables.state_dicts import look_of

NEAREST = 8
"""Networks that are compared with a file."""
TOLERANCE = 1e-6
"""Largest difference of two features, in float64, as a part of the largest feature."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TorchvisionNetwork:
    """A classification network of torchvision without its last linear layer, and a file's weights for it."""

    name: str
    module: nn.Module
    """On the meta device: it has shapes and no numbers."""
    weights: dict[str, Tensor]
    """In the order in which torchvision defines them, without counters of batches."""


def find_network(weights: Mapping[str, Tensor], student: str) -> TorchvisionNetwork | None:
    """The network of torchvision whose names and shapes these are; None where there is none.

    The classifier does not count, nor does a prefix that all names share. Only networks of a name like the student's
    are looked at: building one takes a moment, on the meta device too.
    """
    if look_of(weights) != "torchvision":
        return None
    import torchvision

    kept = _without_counters(weights)
    candidates = [kept]
    while len({name.partition(".")[0] for name in candidates[-1]}) == 1 < len(candidates[-1]):
        candidates.append({name.partition(".")[2]: value for name, value in candidates[-1].items()})
    names = torchvision.models.list_models(module=torchvision.models)
    for name in get_close_matches(student.partition(".")[0], names, n=NEAREST, cutoff=0.0):
        module = _network(name)
        if module is None:
            continue
        head = _cut_head(module)
        own = _without_counters(module.state_dict())
        for candidate in candidates:
            body = {key: value for key, value in candidate.items() if not key.startswith(f"{head}.")}
            if body.keys() == own.keys() and all(body[key].shape == own[key].shape for key in own):
                return TorchvisionNetwork(name=name, module=module, weights={key: body[key] for key in own})
    return None


def _network(name: str) -> nn.Module | None:
    import torchvision

    try:
        # Two of them warn of how long drawing their weights takes, which the meta device does not do.
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network: nn.Module = torchvision.models.get_model(name, weights=None)
    except NotImplementedError:
        # Its own code wants numbers (the RegNets).
        return None
    return network


def _cut_head(network: nn.Module) -> str:
    """Take the last linear layer away; returns its name."""
    last: list[str] = [path for path, module in network.named_modules() if isinstance(module, nn.Linear)][-1:]
    if not last:
        return ""
    parent, _, child = last[0].rpartition(".")
    setattr(network.get_submodule(parent), child, nn.Identity())
    return last[0]


def _without_counters(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if not name.endswith("num_batches_tracked")}


def renamed(network: TorchvisionNetwork, backbone: nn.Module) -> dict[str, Tensor] | None:
    """The weights under the backbone's names; None where the two are not defined alike, tensor by tensor.

    The last part of each name (`weight`, `bias`, `running_mean`) and each shape have to agree.
    """
    own = _without_counters(backbone.state_dict())
    pairs = list(zip(own.items(), network.weights.items(), strict=False))
    alike = all(
        name.rpartition(".")[2] == other.rpartition(".")[2] and value.shape == given.shape
        for (name, value), (other, given) in pairs
    )
    if not alike or len(own) != len(network.weights):
        return None
    return {name: given for (name, _), (_, given) in pairs}


def check_features(network: TorchvisionNetwork, backbone: nn.Module, *, image_size: int, what: str) -> None:
    """Raise `UserError` unless the backbone's features are those of torchvision's network, in float64."""
    original: Any = network.module
    # With what torchvision writes beside the weights: one of its networks looks for its version there.
    state = original.state_dict()
    state.update(network.weights)
    original.load_state_dict(state, assign=True)
    images = torch.rand(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.inference_mode():
        expected, found = (copy.deepcopy(module).double().eval()(images) for module in (original, backbone))
    size = float(expected.abs().max())
    if expected.shape != found.shape or not float((found - expected).abs().max()) <= TOLERANCE * size:
        raise UserError(
            f"{what}: the weights are those of torchvision's {network.name}, which computes other features than timm's "
            "network; give weights of timm"
        )
