"""On what a sweep's folds will compute, as far as it can be known before Ray starts."""

from __future__ import annotations

import os
import shutil
import subprocess

from search_spaces.errors import UserError

PATIENCE_S = 30.0


def nvidia_gpus() -> list[str]:
    """Name and memory of each GPU, as the driver's own tool lists them; empty where it lists none.

    Raises:
        UserError: the tool is there and does not answer.
    """
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"nvidia-smi does not answer ({error})") from None
    return listed.stdout.strip().splitlines() if listed.returncode == 0 else []


def device_line(asked: float, *, address: str | None = None) -> str:
    """What folds compute on, in one line; a GPU that is there and not used is named.

    Args:
        asked: GPUs for each worker.
        address: of the Ray cluster; None is RAY_ADDRESS, or this machine.
    """
    wanted = f"{asked:g} GPUs for each worker" if asked else "the CPU"
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if address != "local":
        return f"device: {wanted}; which one the cluster at {address} decides at the start"
    try:
        gpus = nvidia_gpus()
    except UserError as error:
        return f"device: {wanted}; which one is decided at the start: {error}"
    if asked and not gpus:
        return f"device: {wanted}; nvidia-smi lists none here, and without one the sweep does not start"
    if asked:
        return f"device: {wanted}, of {'; '.join(gpus)}"
    if gpus:
        return f"device: the CPU, although there is {'; '.join(gpus)}: add --gpus-per-worker 1 to use it"
    return "device: the CPU"
