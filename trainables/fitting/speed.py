"""The options of `Speed`, one function each. With all of them off, nothing here changes a bit.

Measured on the CPU: fused Adam and channels-last move the last digits, so neither belongs to exact mode.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from search_spaces.errors import UserError, first_line
from search_spaces.hyperparameters import Speed, StageHyperparameters

Arranged = TypeVar("Arranged", Tensor, nn.Module)


def adam(weights: Iterable[nn.Parameter], settings: StageHyperparameters, speed: Speed) -> torch.optim.Adam:
    """Adam with constant settings; which of torch's forms is left to torch in exact mode."""
    return torch.optim.Adam(
        weights, lr=settings.lr, weight_decay=settings.weight_decay, fused=True if speed.fused_adam else None
    )


def arranged(thing: Arranged) -> Arranged:
    """Images [N, 3, S, S] or a module's convolutions with the channels innermost; anything else stays as it is."""
    if isinstance(thing, Tensor) and thing.ndim != 4:
        return thing
    changed: Any = thing.to(memory_format=torch.channels_last)
    return changed  # type: ignore[no-any-return]


def compiled(module: nn.Module) -> nn.Module:
    """The module behind torch.compile; parameters are shared, evaluation uses the module itself.

    What this process compiled before is forgotten first: past its limit of variants torch would silently go back to
    uncompiled arithmetic, and a fold's numbers would depend on the folds before it.
    """
    torch._dynamo.reset()
    changed: Any = torch.compile(module, dynamic=False)
    return changed  # type: ignore[no-any-return]


@lru_cache(maxsize=2)
def check_compiler(device: torch.device) -> None:
    """Compile one line for this device.

    Raises:
        UserError: there is no compiler that works.
    """
    try:
        torch.compile(_one_line, dynamic=False)(torch.ones(2, device=device))
    except Exception as error:
        line = first_line(error)
        raise UserError(
            f"speed.compile finds no compiler that works for {device.type}: {line}; "
            "install one (a C++ compiler for the CPU, Triton for a GPU) or leave speed.compile off"
        ) from None


def _one_line(numbers: Tensor) -> Tensor:
    return torch.relu(numbers)
