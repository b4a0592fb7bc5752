"""An architecture file is what is built, whatever its name; checkpoints go in by names."""

from __future__ import annotations

import copy
import json
import random
import socket
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from search_spaces.errors import UserError
from trainables.teacher.fingerprint import teacher_fingerprint
from trainables.teacher.names import ARCHITECTURES
from trainables.teacher.open import open_teacher

TINY: dict[str, Any] = json.loads((ARCHITECTURES / "vl2v-tiny.json").read_text())
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def written(folder: Path, name: str = "ViT-B-32.json", **changes: Any) -> Path:
    """A file of the tiny architecture with changes."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text(json.dumps(TINY | changes))
    return file


def teacher(file: Path, weights: str = "random:0", image_size: int = 32) -> Any:
    """The teacher of an architecture file."""
    return open_teacher(f"open_clip:{file}:{weights}", image_size=image_size)


def the_line(file: Path, weights: str = "random:0", image_size: int = 32) -> str:
    """The one line with which opening a teacher fails."""
    with pytest.raises(UserError) as caught:
        teacher(file, weights, image_size)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 900
    return line


def test_a_file_named_like_a_known_architecture_is_what_is_built(tmp_path: Path) -> None:
    found = teacher(written(tmp_path, embed_dim=24))
    assert found.embedding_dim == 24
    assert found.embed_images(IMAGES).shape == (2, 24)
    assert found.embed_texts(["a dog"]).shape == (1, 24)
    assert open_clip.get_model_config("ViT-B-32")["embed_dim"] == 512
    assert "multiple of ViT-B-32's patch of 8" in the_line(written(tmp_path), image_size=36)


@pytest.mark.parametrize("name", ["mine.json", "vl2v-tiny.json", "RN50.json"])
def test_files_of_one_name_are_told_apart(name: str, tmp_path: Path) -> None:
    files = [written(tmp_path / str(dimension), name, embed_dim=dimension) for dimension in (16, 24)]
    assert [teacher(file).embedding_dim for file in files] == [16, 24]
    assert [teacher(file).embedding_dim for file in reversed(files)] == [24, 16]
    changed = written(tmp_path / "16", name, embed_dim=40)
    assert teacher(changed).embedding_dim == 40
    assert open_teacher("open_clip:vl2v-tiny:random:0", image_size=32).embedding_dim == TINY["embed_dim"]


def test_one_content_under_two_names_is_one_teacher(tmp_path: Path) -> None:
    files = [written(tmp_path, "a.json", embed_dim=24), written(tmp_path, "siglip.json", embed_dim=24)]
    first, second = (teacher(file) for file in files)
    names = [f"open_clip:{file}:random:0" for file in files]
    assert teacher_fingerprint(names[0]) == teacher_fingerprint(names[1])
    assert torch.equal(first.embed_images(IMAGES), second.embed_images(IMAGES))
    assert torch.equal(first.embed_texts(["x"]), second.embed_texts(["x"]))


def test_a_copy_of_a_known_architecture_has_its_published_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*arguments: Any, **settings: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    file = tmp_path / "ViT-B-16-quickgelu.json"
    file.write_text(json.dumps(open_clip.get_model_config("ViT-B-16-quickgelu")))
    assert "timm/vit_base_patch16_clip_224.openai" in the_line(file, "openai", 224)
    file.write_text(json.dumps(open_clip.get_model_config("ViT-B-16")))
    assert "trained with another activation than ViT-B-16-quickgelu has" in the_line(file, "openai", 224)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", "is not JSON"),
        (b"", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"5", "lacks embed_dim, vision_cfg, text_cfg"),
        (b"[1]", "lacks embed_dim, vision_cfg, text_cfg"),
        (b'{"embed_dim": "32", "vision_cfg": [], "text_cfg": {}}', "embed_dim is no int, vision_cfg is no dict"),
        (b'{"embed_dim": 32, "vision_cfg": {"patch_size": "x"}, "text_cfg": {}}', "open_clip cannot build mine"),
        (b'{"embed_dim": -1, "vision_cfg": {"patch_size": 0}, "text_cfg": {}}', "open_clip cannot build mine"),
    ],
)
def test_a_file_that_is_no_architecture_is_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_bytes(content)
    assert message in the_line(file)


def _mutated(config: Any, generator: random.Random) -> Any:
    """One value somewhere in it that a seed draws, replaced or taken away."""
    config = copy.deepcopy(config)
    place = config
    while isinstance(place[key := generator.choice(list(place))], dict) and generator.random() < 0.8:
        place = place[key]
    value = generator.choice([None, "x", -1, 0, 1.5, [], {}, 16, True, "drop"])
    if value == "drop":
        del place[key]
    else:
        place[key] = value
    return config


@pytest.mark.parametrize("seed", range(40))
def test_any_content_is_built_as_it_says_or_refused_in_one_line(seed: int, tmp_path: Path) -> None:
    generator = random.Random(seed)
    config = _mutated(TINY, generator)
    file = tmp_path / "ViT-B-16.json"
    file.write_text(json.dumps(config))
    dimensions, line = attempt(file)
    assert "\n" not in line
    assert line or dimensions == {config["embed_dim"]}


def attempt(file: Path) -> tuple[set[int], str]:
    """The dimensions of a teacher's answers, or the line with which opening it fails."""
    try:
        found = teacher(file)
    except UserError as error:
        return set(), str(error)
    return {found.embedding_dim, found.embed_images(IMAGES).shape[1], found.embed_texts(["a"]).shape[1]}, ""


def tiny_state() -> dict[str, Tensor]:
    """State dict of the random tiny CLIP."""
    found: Any = open_teacher("open_clip:vl2v-tiny:random:3", image_size=32)
    return {name: value.clone() for name, value in found._model.state_dict().items()}


@pytest.mark.parametrize("form", ["pt", "safetensors"])
@pytest.mark.parametrize("prefix", ["module.", "model.", "clip_model.", "_orig_mod.module."])
def test_a_prefix_loads_from_either_kind_of_checkpoint(form: str, prefix: str, tmp_path: Path) -> None:
    state, file = tiny_state(), tmp_path / f"w.{form}"
    wrapped = {f"{prefix}{name}": value for name, value in reversed(list(state.items()))}
    save_file(wrapped, file) if form == "safetensors" else torch.save({"net": wrapped, "epoch": 3}, file)
    found: Any = open_teacher(f"open_clip:vl2v-tiny:{file}", image_size=32)
    assert all(torch.equal(value, state[name]) for name, value in found._model.state_dict().items())


def test_a_checkpoint_that_is_not_of_numbers_is_refused(tmp_path: Path) -> None:
    state, file = tiny_state(), tmp_path / "w.pt"
    state["ln_final.weight"][3] = float("nan")
    torch.save(state, file)
    with pytest.raises(UserError, match=r"w.pt: the tensor ln_final.weight holds numbers that are not finite"):
        open_teacher(f"open_clip:vl2v-tiny:{file}", image_size=32)


def test_a_checkpoint_of_another_text_width_is_one_line(tmp_path: Path) -> None:
    wide = copy.deepcopy(TINY)
    wide["text_cfg"]["width"] *= 2
    file = tmp_path / "w.pt"
    torch.save(tiny_state(), file)
    line = the_line(written(tmp_path, "wide.json", text_cfg=wide["text_cfg"]), str(file))
    assert "w.pt): the weights do not fit the architecture" in line
    assert "AssertionError" not in line


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_a_checkpoint_of_16_bits_is_resized_to_another_image_size(kind: torch.dtype, tmp_path: Path) -> None:
    file = tmp_path / "w.pt"
    torch.save({name: value.to(kind) for name, value in tiny_state().items()}, file)
    found = open_teacher(f"open_clip:vl2v-tiny:{file}", image_size=64)
    assert found.embed_images(torch.zeros(1, 3, 64, 64)).shape == (1, TINY["embed_dim"])


def test_whose_checkpoint_it_looks_like(tmp_path: Path) -> None:
    file = tmp_path / "hf.safetensors"
    save_file({f"vision_model.encoder.layers.{n}.self_attn.q_proj.weight": torch.ones(2) for n in range(7)}, file)
    with pytest.raises(
        UserError, match=r"and 2 more, names as in Hugging Face transformers; the model has positional_"
    ):
        open_teacher(f"open_clip:vl2v-tiny:{file}", image_size=32)
