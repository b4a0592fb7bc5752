"""Where a fold or an embedding computes: the GPU that was asked for, or the CPU; never one in place of the other."""

from __future__ import annotations

import torch

from search_spaces.errors import UserError, first_line
from search_spaces.hyperparameters import Resources


def asked_device(resources: Resources) -> torch.device:
    """The device that a process computes on.

    Raises:
        UserError: a GPU was asked for, and torch cannot use one in this process.
    """
    if resources.gpus_per_worker == 0:
        return torch.device("cpu")
    try:
        torch.zeros(1, device="cuda")
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"{resources.gpus_per_worker:g} GPUs per worker were asked for, and torch {torch.__version__} can use none "
            f"here ({first_line(error).rstrip('.')}); repair it (see doctor), or give --gpus-per-worker 0 for the CPU"
        ) from None
    return torch.device("cuda")
