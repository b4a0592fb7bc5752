"""Weights files: what is read, whatever wraps it and whatever the file is called, and what is refused in one line."""

from __future__ import annotations

import argparse
import gzip
import pickle
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from search_spaces.errors import UserError
from tests.support.damaged_bytes import damaged_bytes
from trainables.weights import read_weights


def state() -> dict[str, Tensor]:
    """A small state dict with a counter and a mask."""
    generator = torch.Generator().manual_seed(3)
    return {
        "conv.weight": torch.randn(4, 3, 2, 2, generator=generator),
        "norm.running_var": torch.rand(4, generator=generator) + 0.5,
        "norm.num_batches_tracked": torch.tensor(7),
        "attn_mask": torch.full((2, 2), float("-inf")).triu(1),
    }


def the_line(path: Path) -> str:
    """The one line with which reading a file fails."""
    with pytest.raises(UserError) as caught:
        read_weights(path)
    line = str(caught.value)
    assert "\n" not in line
    assert str(path) in line
    assert len(line) < 500 + len(str(path))
    return line


def same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    """Whether both have the same names, numbers and types."""
    return found.keys() == expected.keys() and all(
        found[name].dtype == value.dtype and torch.equal(found[name], value) for name, value in expected.items()
    )


def wrapped(key: str) -> dict[str, Any]:
    """What a training script saves."""
    optimiser = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}], "names": state()}
    return {"epoch": 3, "accuracy": torch.tensor(0.5), key: state(), "optimizer": optimiser, "config": {"lr": 0.1}}


@pytest.mark.parametrize(
    "key", ["model_state_dict", "net", "model_dict", "state_dict", "model_ema", "backbone_weights", "ema.shadow"]
)
def test_whatever_key_the_weights_stand_below(key: str, tmp_path: Path) -> None:
    file = tmp_path / "w.pt"
    torch.save(wrapped(key), file)
    assert same(read_weights(file), state())
    torch.save({"checkpoint": {"run": wrapped(key)}}, file)
    assert same(read_weights(file), state())


def test_averaged_weights_go_before_the_last_ones(tmp_path: Path) -> None:
    file, other = tmp_path / "w.pt", {"conv.weight": torch.zeros(1)}
    torch.save({"state_dict": other, "model": other, "state_dict_ema": state()}, file)
    assert same(read_weights(file), state())


def test_several_state_dicts_are_named(tmp_path: Path) -> None:
    file = tmp_path / "dino.pt"
    torch.save({"student": state(), "teacher": state(), "epoch": 1}, file)
    assert "holds several state dicts: student, teacher; save the one that is meant" in the_line(file)


def test_a_file_without_tensors_says_what_it_holds(tmp_path: Path) -> None:
    file = tmp_path / "w.pt"
    torch.save({"epoch": 3, "arch": "resnet18", "model": {"depth": 18}}, file)
    assert "holds no named tensor, only epoch (int), arch (str), model (dict); a state dict" in the_line(file)
    torch.save({0: torch.ones(2)}, file)
    assert "holds no named tensor, only 0 (Tensor)" in the_line(file)
    torch.save([state()], file)
    assert "holds a list" in the_line(file)


@pytest.mark.parametrize(
    "names",
    [
        "module.{}",
        "module.module.{}",
        "module._orig_mod.{}",
        "_orig_mod.module.{}",
        "_fsdp_wrapped_module.{}",
        "_orig_mod._checkpoint_wrapped_module.{}",
    ],
)
def test_names_lose_what_wrapping_for_training_adds(names: str, tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    save_file({names.format(name): value for name, value in state().items()}, file)
    assert same(read_weights(file), state())
    inner = {name.replace(".", "._orig_mod."): value for name, value in state().items()}
    save_file(inner, file)
    assert same(read_weights(file), state())


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".bin", ".ckpt", ""])
def test_the_content_counts_and_not_the_ending(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"weights{suffix}"
    save_file(state(), file)
    assert same(read_weights(file), state())
    torch.save(state(), file)
    assert same(read_weights(file), state())
    torch.save(state(), file, _use_new_zipfile_serialization=False)
    assert same(read_weights(file), state())


class _Payload:
    def __reduce__(self) -> Any:
        return (print, ("a pickle ran",))


def _write_foreign(file: Path, kind: str) -> None:
    contents: dict[str, bytes] = {
        "empty": b"",
        "zeros": bytes(4096),
        "git lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
        "web page": b"<!DOCTYPE html><html><body>class Quota exceeded</body></html>",
        "json": b'{"class": "model"}' + b" " * 99,
        "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(99),
        "gzip": gzip.compress(bytes(99)),
        "gguf": b"GGUF" + bytes(99),
        "pickle": pickle.dumps({"a": np.zeros(3)}),
    }
    if kind == "npz":
        with file.open("wb") as stream:
            np.savez(stream, a=np.zeros(3))
    elif kind == "objects":
        torch.save({"model": state(), "args": argparse.Namespace(lr=1)}, file)
    elif kind == "module":
        torch.save(torch.nn.Linear(2, 2), file)
    elif kind == "payload":
        torch.save({"model": state(), "extra": _Payload()}, file)
    else:
        file.write_bytes(contents[kind])


FOREIGN = {
    "empty": "it is empty",
    "zeros": "it begins with zeros",
    "git lfs": "it is a Git LFS pointer: the weights themselves were not downloaded",
    "web page": "it is a web page",
    "json": "it is JSON",
    "hdf5": "it is an HDF5 file, as Keras writes",
    "gzip": "it is compressed with gzip",
    "gguf": "it is a GGUF file",
    "pickle": "it is a pickle that torch.save did not write",
    "npz": "it is a NumPy archive",
    "objects": "holds Python objects (argparse.Namespace) beside tensors",
    "module": "holds Python objects (torch.nn.modules.linear.Linear) beside tensors",
    "payload": "which could run code",
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_is_taken_for_weights_is_called_what_it_is(
    kind: str, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / f"w{suffix}"
    _write_foreign(file, kind)
    line = the_line(file)
    assert FOREIGN[kind] in line
    assert ("Python objects" in line) == (kind in ("objects", "module", "payload"))
    assert "a pickle ran" not in capsys.readouterr().out


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    assert "is a folder; a weights file" in the_line(tmp_path)
    assert "no weights file" in the_line(tmp_path / "nothing.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("form", ["pt", "safetensors"])
@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_numbers_that_are_not_finite_are_refused(value: float, form: str, kind: torch.dtype, tmp_path: Path) -> None:
    weights, file = state(), tmp_path / f"w.{form}"
    weights["conv.weight"] = weights["conv.weight"].to(kind)
    weights["conv.weight"][2, 1, 0, 1] = value
    save_file(weights, file) if form == "safetensors" else torch.save(weights, file)
    assert "the tensor conv.weight holds numbers that are not finite" in the_line(file)


def test_a_mask_may_be_infinite_and_not_nan(tmp_path: Path) -> None:
    weights, file = state(), tmp_path / "w.pt"
    weights["attn_mask"][0, 0] = float("nan")
    torch.save(weights, file)
    assert "the tensor attn_mask holds" in the_line(file)


def test_a_number_too_large_for_float32_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "w.pt"
    torch.save(state() | {"norm.bias": torch.tensor([1e300, 0.0], dtype=torch.float64)}, file)
    assert "norm.bias holds numbers that are not finite" in the_line(file)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["sparse", "meta", "quantised"])
def test_tensors_that_are_no_plain_numbers_are_refused(kind: str, tmp_path: Path) -> None:
    odd = {
        "sparse": lambda: torch.eye(3).to_sparse(),
        "meta": lambda: torch.empty(3, device="meta"),
        "quantised": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8),
    }[kind]()
    file = tmp_path / "w.pt"
    torch.save(state() | {"odd": odd}, file)
    assert "the tensor odd is no plain tensor of numbers" in the_line(file)


def test_a_flipped_bit_in_torchs_file_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "w.pt"
    torch.save(state(), file)
    content = bytearray(file.read_bytes())
    place = content.find(state()["conv.weight"].numpy().tobytes())
    content[place] ^= 1
    file.write_bytes(content)
    assert re.search("is damaged: its record .*data/0 is not as it was saved", the_line(file))


def test_a_record_that_a_flipped_bit_calls_a_folder_is_noticed(tmp_path: Path) -> None:
    """Of such a record torch makes a tensor of whatever is in memory."""
    file = tmp_path / "w.pt"
    torch.save(state(), file)
    content = bytearray(file.read_bytes())
    # The attributes of a record in the list at the end of the file: 8 bytes before its name.
    place = content.rfind(b"/data/1") - len("w")
    content[place - 8] ^= 0x10
    file.write_bytes(content)
    assert re.search("is damaged: its record .*data/1 is not as it was saved", the_line(file))


def test_a_file_without_checksums_is_read(tmp_path: Path) -> None:
    file = tmp_path / "w.pt"
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state(), file)
    finally:
        torch.serialization.set_crc32_options(True)
    assert same(read_weights(file), state())


def attempt(file: Path) -> dict[str, Tensor] | str:
    """The weights, or the line with which reading them fails."""
    try:
        return read_weights(file)
    except UserError as error:
        return str(error)


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_damage_of_any_kind_is_one_line_or_nothing(form: str, tmp_path: Path) -> None:
    """Cuts, flipped bits, zeros and random bytes, at places that a seed draws."""
    file, generator = tmp_path / "w.pt", random.Random(5)
    if form == "safetensors":
        save_file(state(), file)
    else:
        torch.save(wrapped("model"), file, _use_new_zipfile_serialization=form == "zip")
    whole = file.read_bytes()
    refused = 0
    for _ in range(150):
        file.write_bytes(damaged_bytes(whole, generator))
        found = attempt(file)
        refused += isinstance(found, str)
        assert not isinstance(found, str) or "\n" not in found
        # Only torch's zip files have checksums, of their records and not of the padding between them.
        assert isinstance(found, str) or form != "zip" or same(found, state())
    assert refused > 40
