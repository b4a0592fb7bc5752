"""CLIP teachers through open_clip: dimensions, weights from everywhere, and one clear line for what is wrong."""

from __future__ import annotations

import json
import logging
import math
import pickle
import re
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import save_file

from search_spaces.errors import UserError
from tests.support.golden import golden_json, golden_path
from tests.support.repository import REPOSITORY
from trainables.teacher import clip
from trainables.teacher.open import open_teacher

TINY = "open_clip:vl2v-tiny:random:3"
IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def tiny_state() -> dict[str, torch.Tensor]:
    """State dict of the random tiny CLIP."""
    teacher: Any = open_teacher(TINY, image_size=32)
    return {name: value.clone() for name, value in teacher._model.state_dict().items()}


def the_line(name: str, *, image_size: int = 32) -> str:
    """The one line with which opening a teacher fails."""
    with pytest.raises(UserError) as caught:
        open_teacher(name, image_size=image_size)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 700
    return line


def test_vit_large_has_768_dimensions() -> None:
    open_teacher(TINY, image_size=32)
    assert open_clip.get_model_config("ViT-L-14")["embed_dim"] == 768
    assert open_clip.get_model_config("ViT-B-16-quickgelu")["embed_dim"] == 512


def test_embeddings_are_normalised_float32_and_may_stand_in_a_loss() -> None:
    teacher = open_teacher(TINY, image_size=32)
    images_ND, texts_CD = teacher.embed_images(IMAGES), teacher.embed_texts(["a photo of a dog", "a photo of a cat"])
    assert images_ND.shape == (3, 32)
    assert texts_CD.shape == (2, 32)
    for embeddings in (images_ND, texts_CD):
        assert embeddings.dtype == torch.float32
        torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(len(embeddings)))
        assert not embeddings.is_inference()
    student = torch.randn(3, 32, requires_grad=True)
    F.cosine_similarity(student, images_ND).mean().backward()
    assert student.grad is not None
    assert not torch.equal(texts_CD[0], texts_CD[1])


def test_golden_embeddings_are_the_normalised_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays, teacher = np.load(golden_path("zero_shot_head.npz")), open_teacher(TINY, image_size=32)
    for head in golden_json("zero_shot_head.json")["heads"]:
        raw = {name: torch.from_numpy(arrays[f"{head['key']}/{name}"]) for name in ("img_raw", "text_raw")}
        monkeypatch.setattr(teacher._model, "encode_image", lambda images, raw=raw: raw["img_raw"])  # type: ignore[attr-defined]
        monkeypatch.setattr(teacher._model, "encode_text", lambda tokens, raw=raw: raw["text_raw"][:, 0])  # type: ignore[attr-defined]
        np.testing.assert_allclose(
            teacher.embed_images(IMAGES), arrays[f"{head['key']}/img_feat"], rtol=1e-5, atol=1e-6
        )
        texts_CD = teacher.embed_texts(["whatever is asked"]) * head["logit_scale_exp_f32"]
        np.testing.assert_allclose(texts_CD, arrays[f"{head['key']}/zeroshot_weights"], rtol=1e-4, atol=1e-4)


def test_the_teacher_gets_the_tensor_as_it_is() -> None:
    teacher: Any = open_teacher(TINY, image_size=32)
    seen = []
    teacher._model.visual.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    teacher.embed_images(IMAGES)
    assert len(seen) == 1
    assert torch.equal(seen[0], IMAGES)


def test_random_weights_follow_from_the_seed_alone() -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first = open_teacher(TINY, image_size=32).embed_images(IMAGES)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(12)
    assert torch.equal(open_teacher(TINY, image_size=32).embed_images(IMAGES), first)
    other = open_teacher("open_clip:vl2v-tiny:random:4", image_size=32).embed_images(IMAGES)
    assert not torch.allclose(other, first)


def test_nothing_is_logged_and_logging_is_not_set_up(caplog: pytest.LogCaptureFixture) -> None:
    root = logging.getLogger()
    handlers, filters = list(root.handlers), list(root.filters)
    open_teacher(TINY, image_size=32).embed_texts(["a"])
    assert root.handlers == handlers
    assert root.filters == filters
    assert not caplog.records


@pytest.mark.parametrize("form", ["plain.pt", "training.pt", "half.safetensors"])
def test_a_local_checkpoint_gives_the_same_embeddings(form: str, tmp_path: Path) -> None:
    state, file = tiny_state(), tmp_path / form
    if form == "plain.pt":
        torch.save(state, file)
    elif form == "training.pt":
        wrapped = {f"module.{name}": value for name, value in state.items()}
        torch.save({"epoch": 3, "name": "run", "state_dict": wrapped, "optimizer": {"state": {}}}, file)
    else:
        save_file({name: value.half() for name, value in state.items()}, file)
    teacher = open_teacher(f"open_clip:vl2v-tiny:{file}", image_size=32)
    expected = open_teacher(TINY, image_size=32)
    tolerance = 2e-2 if form.startswith("half") else 0.0
    torch.testing.assert_close(teacher.embed_images(IMAGES), expected.embed_images(IMAGES), rtol=0, atol=tolerance)
    torch.testing.assert_close(teacher.embed_texts(["x"]), expected.embed_texts(["x"]), rtol=0, atol=tolerance)
    assert teacher.embed_images(IMAGES).dtype == torch.float32
    assert teacher.logit_scale == pytest.approx(expected.logit_scale, rel=1e-3)


def test_another_image_size_resizes_the_position_embedding(tmp_path: Path) -> None:
    file = tmp_path / "tiny.pt"
    torch.save(tiny_state(), file)
    teacher: Any = open_teacher(f"open_clip:vl2v-tiny:{file}", image_size=64)
    assert teacher._model.visual.positional_embedding.shape == (1 + 8 * 8, 64)
    assert torch.equal(teacher._model.visual.positional_embedding[0], tiny_state()["visual.positional_embedding"][0])
    assert teacher.embed_images(torch.zeros(1, 3, 64, 64)).shape == (1, 32)
    assert "multiple of vl2v-tiny's patch of 8" in the_line(f"open_clip:vl2v-tiny:{file}", image_size=60)


@pytest.fixture
def resnet(tmp_path: Path) -> Path:
    """An architecture file: CLIP's ResNet, as small as it can be."""
    file = tmp_path / "small-resnet.json"
    vision = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    file.write_text(json.dumps({"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}))
    return file


def test_a_resnet_takes_another_image_size(resnet: Path, tmp_path: Path) -> None:
    native: Any = open_teacher(f"open_clip:{resnet}:random:0", image_size=64)
    file = tmp_path / "weights.safetensors"
    save_file(native._model.state_dict(), file)
    teacher: Any = open_teacher(f"open_clip:{resnet}:{file}", image_size=96)
    assert teacher._model.visual.attnpool.positional_embedding.shape == (1 + 3 * 3, 256)
    assert teacher.embed_images(torch.zeros(1, 3, 96, 96)).shape == (1, 24)
    assert "multiple of 32, which small-resnet needs" in the_line(f"open_clip:{resnet}:random:0", image_size=48)


def test_the_teacher_judges_each_image_alone_and_never_changes(resnet: Path) -> None:
    """A ResNet's BatchNorm in training mode would mix the images of a batch, and learn from them."""
    teacher: Any = open_teacher(f"open_clip:{resnet}:random:0", image_size=64)
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    before = {name: value.clone() for name, value in teacher._model.state_dict().items()}
    together = teacher.embed_images(images)
    torch.testing.assert_close(teacher.embed_images(images[:1]), together[:1], rtol=0, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in teacher._model.state_dict().items())
    encoder, _ = teacher.image_encoder()
    encoder.train()
    encoder(images)
    assert torch.equal(teacher.embed_images(images), together)
    assert not any(parameter.requires_grad for parameter in teacher._model.parameters())


def test_a_checkpoint_of_another_architecture_is_one_line(tmp_path: Path) -> None:
    state, file = tiny_state(), tmp_path / "wide.pt"
    state["visual.conv1.weight"] = torch.zeros(48, 3, 8, 8)
    del state["ln_final.bias"]
    torch.save(state, file)
    line = the_line(f"open_clip:vl2v-tiny:{file}")
    assert "wide.pt" in line
    assert "do not fit the architecture" in line
    assert "ln_final.bias" in line
    assert "visual.conv1.weight" in line
    torch.save({"backbone.weight": torch.zeros(2)}, file)
    assert "do not fit" in the_line(f"open_clip:vl2v-tiny:{file}")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("positional_embedding", (77, 20)),
        ("positional_embedding", (77,)),
        ("positional_embedding", ()),
        ("visual.positional_embedding", (17, 20)),
        ("visual.positional_embedding", (64,)),
        ("logit_scale", (3,)),
    ],
)
def test_a_checkpoint_of_another_width_is_one_line_that_names_it(
    name: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    state, file = tiny_state(), tmp_path / "other.pt"
    state[name] = torch.zeros(shape)
    torch.save(state, file)
    line = the_line(f"open_clip:vl2v-tiny:{file}")
    assert "do not fit the architecture" in line
    assert name in line


class _Payload:
    def __reduce__(self) -> Any:
        return (print, ("a pickle ran",))


def test_a_pickle_that_could_run_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "evil.pt"
    torch.save({"state_dict": tiny_state(), "extra": _Payload()}, file)
    assert "could run code" in the_line(f"open_clip:vl2v-tiny:{file}")
    file.write_bytes(pickle.dumps(_Payload()))
    the_line(f"open_clip:vl2v-tiny:{file}")
    assert "a pickle ran" not in capsys.readouterr().out


def test_damaged_files_are_one_line(tmp_path: Path) -> None:
    whole = tmp_path / "whole.pt"
    torch.save(tiny_state(), whole)
    torn = tmp_path / "torn.pt"
    torn.write_bytes(whole.read_bytes()[:5000])
    assert "torn.pt is not a whole weights file" in the_line(f"open_clip:vl2v-tiny:{torn}")
    safe = tmp_path / "torn.safetensors"
    save_file(tiny_state(), safe)
    safe.write_bytes(safe.read_bytes()[:5000])
    assert "torn.safetensors is not a whole safetensors file" in the_line(f"open_clip:vl2v-tiny:{safe}")
    number = tmp_path / "number.pt"
    torch.save(3, number)
    assert "holds a int" in the_line(f"open_clip:vl2v-tiny:{number}")


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "script.pt"
    zipped = torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2))
    torch.jit.save(zipped, file)
    assert "TorchScript" in the_line(f"open_clip:vl2v-tiny:{file}")


def test_unknown_architecture_names_the_nearest() -> None:
    line = the_line("open_clip:ViT-B16:openai")
    assert re.search(r"nearest: .*ViT-B-16\b", line)


def test_unknown_tag_names_the_tags() -> None:
    line = the_line("open_clip:ViT-B-16-quickgelu:open_ai", image_size=224)
    assert "nearest: openai" in line
    assert "open_clip:ViT-B-16-quickgelu:PATH" in line


def test_quickgelu_weights_want_the_quickgelu_architecture() -> None:
    assert "-quickgelu added" in the_line("open_clip:ViT-B-16:openai", image_size=224)


def test_missing_file_and_malformed_names() -> None:
    assert "no teacher checkpoint /nowhere/x.pt" in the_line("open_clip:vl2v-tiny:/nowhere/x.pt")
    assert "ARCHITECTURE:TAG_OR_PATH" in the_line("open_clip:ViT-B-16")
    assert "random:SEED" in the_line("open_clip:vl2v-tiny:random:x")
    assert "nearest: demo" in the_line("demos")


def test_a_tag_without_internet_is_one_line_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def offline(*arguments: Any, **settings: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    line = the_line("open_clip:ViT-B-16-quickgelu:openai", image_size=224)
    assert "timm/vit_base_patch16_clip_224.openai" in line
    assert "offline" in line
    assert "give a local file instead: open_clip:ViT-B-16-quickgelu:PATH" in line


def test_an_architecture_file_of_the_user(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    source = REPOSITORY / "trainables/teacher/architectures/vl2v-tiny.json"
    file.write_text(source.read_text().replace('"embed_dim": 32', '"embed_dim": 24'))
    assert open_teacher(f"open_clip:{file}:random:0", image_size=32).embedding_dim == 24
    file = tmp_path / "not-one.json"
    file.write_text("{}")
    assert "lacks embed_dim" in the_line(f"open_clip:{file}:random:0")


def test_image_encoder_is_a_fresh_trainable_copy() -> None:
    teacher = open_teacher(TINY, image_size=32)
    before = teacher.embed_images(IMAGES)
    encoder, dimension = teacher.image_encoder()
    assert dimension == 32
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    torch.testing.assert_close(F.normalize(encoder.eval()(IMAGES), dim=-1), before)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.zero_()
    assert torch.equal(teacher.embed_images(IMAGES), before)
    encoder.train()
    encoder(IMAGES).sum().backward()
    assert not any(parameter.grad is None for parameter in encoder.parameters())


def test_texts_are_embedded_alike_in_batches_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, words = open_teacher(TINY, image_size=32), ["a", "b cat", "c", "d dog", "e"]
    whole = teacher.embed_texts(words)
    monkeypatch.setattr(clip, "TEXT_BATCH_SIZE", 2)
    torch.testing.assert_close(teacher.embed_texts(words), whole, rtol=0, atol=1e-6)
    torch.testing.assert_close(teacher.embed_texts(words[3:4]), whole[3:4], rtol=0, atol=1e-6)
    assert teacher.embed_texts([]).shape == (0, 32)


def test_the_scale_is_the_exponential_of_the_checkpoints(tmp_path: Path) -> None:
    state, file = tiny_state(), tmp_path / "scaled.pt"
    numbers = {"input_resolution": torch.tensor(224), "context_length": torch.tensor(77), "vocab_size": torch.tensor(9)}
    torch.save(state | numbers | {"logit_scale": torch.tensor([2.0])}, file)
    teacher = open_teacher(f"open_clip:vl2v-tiny:{file}", image_size=32)
    assert teacher.logit_scale == pytest.approx(math.exp(2.0))
    assert torch.equal(teacher.embed_images(IMAGES), open_teacher(TINY, image_size=32).embed_images(IMAGES))


def test_a_checkpoint_fits_an_architecture_that_keeps_its_text_tower_apart(tmp_path: Path) -> None:
    file, architecture = tmp_path / "tiny.pt", tmp_path / "apart.json"
    torch.save(tiny_state(), file)
    source = REPOSITORY / "trainables/teacher/architectures/vl2v-tiny.json"
    architecture.write_text(json.dumps(json.loads(source.read_text()) | {"custom_text": True}))
    teacher, expected = (
        open_teacher(f"open_clip:{name}:{file}", image_size=32) for name in (architecture, "vl2v-tiny")
    )
    torch.testing.assert_close(teacher.embed_images(IMAGES), expected.embed_images(IMAGES))
    torch.testing.assert_close(teacher.embed_texts(["a cat", "x"]), expected.embed_texts(["a cat", "x"]))


def test_a_resnets_positions_are_resized_as_a_picture() -> None:
    name, generator = "visual.attnpool.positional_embedding", torch.Generator().manual_seed(0)
    old = torch.randn(1 + 16, 5, generator=generator)

    def resized(rows: int, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        pool = SimpleNamespace(positional_embedding=torch.zeros(rows, 5))
        clip._resize_attention_pool(weights, SimpleNamespace(visual=SimpleNamespace(attnpool=pool)))
        return weights

    for side in (2, 7):
        new = resized(1 + side**2, {name: old})[name]
        picture = old[1:].T.reshape(1, 5, 4, 4)
        expected = torchvision.transforms.functional.resize(
            picture, [side, side], torchvision.transforms.InterpolationMode.BICUBIC, antialias=True
        )
        assert torch.equal(new[0], old[0]), "the mean's place is no part of the grid"
        torch.testing.assert_close(new[1:].T.reshape(1, 5, side, side), expected)
    assert resized(1 + 16, {name: old})[name] is old
    assert resized(1 + 4, {}) == {}
    narrow = torch.zeros(1 + 16, 4)
    assert resized(1 + 4, {name: narrow})[name] is narrow, "another width is for the loader to refuse"


def test_files_of_a_tag_come_from_the_hub_safe_ones_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file, asked = tmp_path / "tiny.pt", []
    torch.save(tiny_state(), file)

    def hub(repository: str, filenames: tuple[str, ...], *, local_hint: str) -> Path:
        asked.append((repository, filenames, local_hint))
        return file

    monkeypatch.setattr(clip, "hub_weights", hub)
    monkeypatch.setattr(open_clip.pretrained, "get_pretrained_cfg", lambda model, tag: {"hf_hub": f"timm/{tag}/"})
    teacher = open_teacher("open_clip:vl2v-tiny:mine", image_size=32)
    assert torch.equal(teacher.embed_images(IMAGES), open_teacher(TINY, image_size=32).embed_images(IMAGES))
    safe = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    assert asked == [("timm/mine", safe, "give a local file instead: open_clip:vl2v-tiny:PATH")]
    assert clip._filenames("a.bin") == ("a.safetensors", "a.bin")
    assert clip._filenames("a.safetensors") == ("a.safetensors",)
    monkeypatch.setattr(
        open_clip.pretrained, "get_pretrained_cfg", lambda model, tag: {"hf_hub": "a/", "quick_gelu": True}
    )
    assert "with -quickgelu added" in the_line("open_clip:vl2v-tiny:mine")


def test_architectures_that_cannot_be_built_are_one_line(tmp_path: Path) -> None:
    architecture = tmp_path / "other.json"
    architecture.write_text("{")
    assert "other.json is not JSON" in the_line(f"open_clip:{architecture}:random:0")
    architecture.write_text(
        '{"embed_dim": 8, "vision_cfg": {"image_size": 32, "layers": 1, "width": 7}, "text_cfg": {}}'
    )
    assert "open_clip cannot build other for 32 px" in the_line(f"open_clip:{architecture}:random:0")


@pytest.mark.parametrize(("image_size", "forced"), [(32, None), (64, 64)])
def test_open_clip_builds_in_fp32_on_the_cpu_and_downloads_nothing(
    monkeypatch: pytest.MonkeyPatch, image_size: int, forced: int | None
) -> None:
    create, asked = open_clip.create_model, []

    def noted(architecture: str, **settings: Any) -> Any:
        asked.append({"architecture": architecture, **settings})
        return create(architecture, **settings)

    monkeypatch.setattr(open_clip, "create_model", noted)
    open_teacher(TINY, image_size=image_size)
    (settings,) = asked
    # An architecture file is built under a name made of its content.
    assert settings.pop("architecture").startswith("content-")
    assert settings == {
        "pretrained": None, "precision": "fp32", "device": "cpu", "force_image_size": forced, "pretrained_text": False,
    }  # fmt: skip


def test_everything_lies_on_the_teachers_device() -> None:
    """Torch's `meta` device has shapes and no numbers: it stands for a GPU here."""
    teacher = open_teacher(TINY, image_size=32, device=torch.device("meta"))
    for embeddings in (teacher.embed_images(IMAGES), teacher.embed_texts(["a", "b"]), teacher.embed_texts([])):
        assert embeddings.device.type == "meta"


@pytest.mark.parametrize(
    ("architecture", "dimension"), [("RN50-quickgelu", 1024), ("RN101", 512), ("ViT-B-32", 512), ("ViT-B-16", 512)]
)
def test_embedding_dimension_of_the_architectures(architecture: str, dimension: int) -> None:
    teacher = open_teacher(f"open_clip:{architecture}:random:0", image_size=224)
    assert teacher.embedding_dim == dimension
    assert teacher.embed_images(torch.zeros(1, 3, 224, 224)).shape == (1, dimension)
