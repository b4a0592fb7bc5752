"""The GPUs that are here, and how much of one's memory a fold takes: measured, so that several may be put on one."""

from __future__ import annotations

import torch


def num_gpus() -> int:
    """GPUs that this process sees."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def begin_measuring(device: torch.device) -> None:
    """Forget what earlier folds of this process held."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def gpu_memory(device: torch.device) -> dict[str, int] | None:
    """`peak_bytes` that torch held since `begin_measuring`, and `total_bytes` of the GPU; None on a CPU."""
    if device.type != "cuda":
        return None
    total_bytes = torch.cuda.get_device_properties(device).total_memory
    return {"peak_bytes": torch.cuda.max_memory_reserved(device), "total_bytes": total_bytes}
