"""Weights from files and from the Hugging Face hub: read as plain tensors, so that no file can run code.

Building a model draws random numbers; `seeded` keeps that apart from everybody else's.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import socket
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor

from search_spaces.errors import UserError, first_line

WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Keys below which training scripts (timm, DeiT, open_clip) put the state dict, best first."""
PREFIXES = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before every name."""


@contextmanager
def seeded(seed: int, purpose: str) -> Iterator[None]:
    """Draw from a CPU generator of our own: what is built inside depends on (seed, purpose) alone.

    The global random state, CUDA's too, is afterwards what it was before.
    """
    digest = hashlib.sha256(f"{purpose}:{seed}".encode()).digest()
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would reseed the CUDA generators as well.
        torch.default_generator.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        yield


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a .safetensors file or a tensors-only .pt file, without the wrappers of training scripts.

    Raises:
        UserError: the file is missing, damaged, holds no tensors, or holds objects that could run code.
    """
    if not path.is_file():
        raise UserError(f"no weights file {path}")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    for wrapper in WRAPPERS:
        if isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"{path} holds no tensors; a state dict (name -> tensor) is wanted")
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a whole safetensors file ({first_line(error)[:200]})") from None


def _read_torch(path: Path) -> Mapping[str, Any]:
    advice = "save its state_dict() with safetensors or torch.save"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        if "TorchScript" in str(error):
            raise UserError(f"{path} is a TorchScript archive, a program and not only weights; {advice}") from None
        if "Unsupported global" in str(error) or "Unsupported operand" in str(error) or "class" in str(error):
            raise UserError(f"{path} holds Python objects beside tensors, which could run code; {advice}") from None
        raise UserError(f"{path} is not a whole weights file of torch ({first_line(error)[:200]})") from None
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}; a state dict (name -> tensor) is wanted")
    return content


def load_strictly(module: torch.nn.Module, weights: Mapping[str, Tensor], *, what: str) -> None:
    """Load a state dict whose names and shapes all fit, or say in one line what does not.

    Raises:
        UserError: a name is missing or unknown, or a shape differs; `what` names the file and the model.
    """
    try:
        module.load_state_dict(dict(weights), strict=True)
    except RuntimeError as error:
        raise misfit(error, what=what) from None


def misfit(error: Exception, *, what: str) -> UserError:
    """One line from torch's many-line complaint about a state dict: the first two differences and their number."""
    lines = [line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()]
    details = [_shortened(line) for line in lines if not line.startswith("Error(s) in loading")]
    more = f" (and {len(details) - 2} more differences)" if len(details) > 2 else ""
    return UserError(f"{what}: the weights do not fit the architecture; {'; '.join(details[:2])}{more}")


def _shortened(line: str) -> str:
    head, separator, names = line.partition(": ")
    listed = names.split(", ")
    if not separator or len(listed) <= 3 or "key(s)" not in head:
        return line
    return f"{head}: {', '.join(listed[:3])} and {len(listed) - 3} more"


def hub_weights(repository: str, filenames: Sequence[str], *, local_hint: str) -> Path:
    """Fetch the first of some files that a repository of the Hugging Face hub has; its local cache goes first.

    Raises:
        UserError: none can be had; the line names what was tried and repeats `local_hint`, the way around the hub.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.utils import logging as hub_logging

    for name in filenames:
        try:
            return Path(hf_hub_download(repository, name, local_files_only=True))
        except (OSError, ValueError):
            continue
    reason = _unreachable(constants.ENDPOINT)
    if not reason:
        verbosity = hub_logging.get_verbosity()
        hub_logging.set_verbosity(logging.ERROR)
        try:
            for name in filenames:
                try:
                    return Path(hf_hub_download(repository, name))
                except Exception as error:
                    # The hub's errors share no base class with those of the HTTP library below it.
                    reason = reason or first_line(error)[:200]
        finally:
            hub_logging.set_verbosity(verbosity)
    tried = f"{constants.ENDPOINT}/{repository} ({', '.join(filenames)})"
    raise UserError(f"cannot download {tried}: {reason}; {local_hint}")


def _unreachable(endpoint: str) -> str:
    """Why an address cannot be reached at all, at once instead of after a minute of retries; empty if it may be."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return ""
    host = urlsplit(endpoint).hostname or endpoint
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return f"{host} does not resolve, so this machine is offline"
    return ""
