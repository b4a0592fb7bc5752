"""Weights from files and from the Hugging Face hub: read as plain tensors, so that no file can run code.

Building a model draws random numbers; `seeded` keeps that apart from everybody else's.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import socket
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor

from search_spaces.errors import UserError, first_line

WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict", "model_dict", "net", "network")
"""Keys below which training scripts put the state dict, best first; any other key counts where it is the only one."""
WRAPPING_PARTS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""What torch.compile, FSDP and activation checkpointing put into names, wherever a module is wrapped."""
PARALLEL = "module."
"""What DistributedDataParallel puts before every name."""

_ADVICE = "save its state_dict() with safetensors or torch.save"
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_FOLDER = 0x10
"""The bit of a zip file's attributes that says so."""
_FOREIGN = (
    (b"version https://git-lfs", "it is a Git LFS pointer: the weights themselves were not downloaded"),
    (b"\x89HDF", "it is an HDF5 file, as Keras writes"),
    (b"\x93NUMPY", "it is a NumPy array"),
    (b"GGUF", "it is a GGUF file"),
    (b"\x1f\x8b", "it is compressed with gzip; unpack it"),
    (b"<", "it is a web page"),
    (b"{", "it is JSON"),
    (b"\0\0\0\0\0\0\0\0", "it begins with zeros"),
)
"""How files begin that are taken for weights, and what they are."""


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
    """Read a state dict from a safetensors file or a tensors-only file of torch, without the wrappers of training.

    The content says which of the two it is, not the name. The checksums of torch's records are compared.

    Raises:
        UserError: the file is missing, damaged, holds no tensors or several state dicts, holds objects that could run
            code, or holds a tensor that is no plain one of finite numbers.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; a weights file (.safetensors or .pt) is wanted")
    if not path.is_file():
        raise UserError(f"no weights file {path}")
    try:
        content = _read_safetensors(path) if _is_safetensors(path) else _read_torch(path)
    except OSError as error:
        raise UserError(f"cannot read the weights file {path}: {error.strerror or first_line(error)}") from None
    tensors = _unwrapped_names(_state_dict(content, path))
    for name, value in tensors.items():
        if problem := _unusable(name, value):
            raise UserError(f"{path}: the tensor {name} {problem}")
    return tensors


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors does: with the length of a header, and the header."""
    with path.open("rb") as file:
        start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    if start[8:] == b"{" and length + 8 <= path.stat().st_size:
        return True
    return path.suffix == ".safetensors" and not start.startswith((_ZIP, _PICKLE))


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:
        # Its own error, and what torch raises for a type of numbers that it does not have.
        reason = _foreign(path) or first_line(error)[:200]
        raise UserError(f"{path} is not a whole safetensors file ({reason})") from None


def _read_torch(path: Path) -> Mapping[str, Any]:
    try:
        # Opened here: torch goes by the ending of a path.
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        # Bytes that are not as torch expects them end in errors of any kind, among them one of seeking in the file.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise _not_torch(path, str(error), first_line(error)) from None
    if record := _damaged_record(path):
        raise UserError(f"{path} is damaged: its record {record} is not as it was saved")
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}; a state dict (name -> tensor) is wanted")
    return content


def _not_torch(path: Path, said: str, first: str) -> UserError:
    if "TorchScript" in said:
        return UserError(f"{path} is a TorchScript archive, a program and not only weights; {_ADVICE}")
    if found := re.search(r"GLOBAL (\S+) was not an allowed", said):
        return UserError(f"{path} holds Python objects ({found[1]}) beside tensors, which could run code; {_ADVICE}")
    cause = said.partition("WeightsUnpickler error:")[2].strip().splitlines() or [first]
    return UserError(f"{path} is not a whole weights file of torch ({_foreign(path) or cause[0][:200]})")


def _foreign(path: Path) -> str:
    """What a file is that is neither torch's nor safetensors', where it can be told."""
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        return "it is empty"
    if start.startswith(_ZIP):
        with suppress(Exception), zipfile.ZipFile(path) as archive:
            if any(name.endswith(".npy") for name in archive.namelist()):
                return "it is a NumPy archive, as big_vision writes"
    if start.startswith(_PICKLE) and b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19" not in start:
        return "it is a pickle that torch.save did not write"
    return next((words for beginning, words in _FOREIGN if start.lstrip().startswith(beginning)), "")


def _damaged_record(path: Path) -> str:
    """Name of a record of torch's zip file whose bytes do not have its checksum; torch itself does not compare."""
    if not zipfile.is_zipfile(path):
        return ""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            # Called a folder, a record is not read by torch: the tensor holds what was in memory.
            folders = [record.filename for record in records if record.external_attr & _FOLDER and record.file_size]
            # Saved without checksums (torch.serialization.set_crc32_options), all of them are 0.
            damaged = archive.testzip() if any(record.CRC for record in records) else None
            return damaged or next(iter(folders), "")
    except Exception:
        # A changed bit can say that a record is encrypted, or compressed in a way that is not known.
        return "of all records"


def _state_dict(content: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    """The tensors by name, below whatever wrappers a training script put around them."""
    for wrapper in WRAPPERS:
        if _places(content.get(wrapper)):
            return _state_dict(content[wrapper], path)
    places = _places(content)
    if len(places) > 1:
        raise UserError(f"{path} holds several state dicts: {', '.join(sorted(places))}; save the one that is meant")
    if not places:
        held = ", ".join(f"{key} ({type(value).__name__})" for key, value in list(content.items())[:5])
        raise UserError(f"{path} holds no named tensor, only {held or 'nothing'}; a state dict is wanted")
    (inside,) = places.values()
    return {name: value for name, value in inside.items() if isinstance(name, str) and isinstance(value, Tensor)}


def _places(content: object, place: str = "", depth: int = 4) -> dict[str, Mapping[Any, Any]]:
    """The state dicts in nested mappings by where they stand; what has tensors with a side of its own is one."""
    if not isinstance(content, Mapping) or depth == 0:
        return {}
    named = [value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)]
    if any(value.ndim for value in named):
        return {place: content}
    inside: dict[str, Mapping[Any, Any]] = {}
    for key, value in content.items():
        # What an optimiser and its like remember goes by the parameters' names in some scripts.
        if isinstance(key, str) and not any(word in key for word in ("optim", "sched", "scaler")):
            inside |= _places(value, f"{place}.{key}" if place else key, depth - 1)
    return inside or ({place: content} if named else {})


def _unwrapped_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the parts of names that wrapping a module for training adds."""
    plain = {".".join(part for part in name.split(".") if part not in WRAPPING_PARTS): name for name in tensors}
    while all(name.startswith(PARALLEL) for name in plain):
        plain = {name.removeprefix(PARALLEL): full for name, full in plain.items()}
    return {name: tensors[full] for name, full in plain.items()} if len(plain) == len(tensors) else tensors


def _unusable(name: str, value: Tensor) -> str:
    """Why a tensor cannot be a weight; empty where it can."""
    if value.is_meta or value.is_quantized or value.layout != torch.strided:
        return f"is no plain tensor of numbers ({'meta' if value.is_meta else value.dtype}, {value.layout})"
    if not value.is_floating_point():
        return ""
    try:
        # Where a number is too large for float32, it would be infinite in the model.
        numbers = value.float()
        found, infinite = bool(numbers.isnan().any()), bool(numbers.isinf().any())
    except (RuntimeError, NotImplementedError):
        return f"has numbers of type {value.dtype}, which cannot be converted"
    # The masks of attention are made of minus infinity.
    if found or (infinite and not name.endswith("mask")):
        return "holds numbers that are not finite; its training diverged, or the file is damaged"
    return ""


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
