"""Backbones: widths, features, weights from files, image sizes, and one clear line for what is wrong."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from search_spaces.errors import UserError
from trainables.student.backbones import build_backbone
from trainables.student.names import PAPER_WEIGHTS, tagged_name

TINY_VIT = "vit_tiny_patch16_224"
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def the_line(student: str, weights: str = "random", *, image_size: int = 64) -> str:
    """The one line with which building a backbone fails."""
    with pytest.raises(UserError) as caught:
        build_backbone(student, weights, image_size=image_size, seed=0)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 900
    return line


@pytest.mark.parametrize(
    ("student", "image_size", "width"),
    [
        ("vit_base_patch16_224", 32, 768),
        ("vit_small_patch16_224", 224, 384),
        ("deit_small_distilled_patch16_224", 224, 384),
        ("resnet50", 64, 2048),
        ("mobilenetv3_small_050", 64, 1024),
        ("small", 64, 192),
    ],
)
def test_feature_width(student: str, image_size: int, width: int) -> None:
    backbone, found = build_backbone(student, "random", image_size=image_size, seed=0)
    assert found == width
    assert backbone.eval()(torch.zeros(2, 3, image_size, image_size)).shape == (2, width)


def test_deit_feature_is_the_mean_of_class_and_distillation_tokens() -> None:
    backbone: Any = build_backbone("deit_tiny_distilled_patch16_224", "random", image_size=64, seed=0)[0].eval()
    tokens = backbone.forward_features(IMAGES)
    assert tokens.shape == (2, 2 + 16, 192)
    torch.testing.assert_close(backbone(IMAGES), (tokens[:, 0] + tokens[:, 1]) / 2)
    backbone.train()
    assert isinstance(backbone(IMAGES), torch.Tensor)


def test_vit_feature_is_the_normalised_class_token_and_resnets_the_average_over_places() -> None:
    vit: Any = build_backbone(TINY_VIT, "random", image_size=64, seed=0)[0].eval()
    torch.testing.assert_close(vit(IMAGES), vit.forward_features(IMAGES)[:, 0])
    resnet: Any = build_backbone("resnet18", "random", image_size=64, seed=0)[0].eval()
    torch.testing.assert_close(resnet(IMAGES), resnet.forward_features(IMAGES).mean(dim=(2, 3)))


def test_random_weights_follow_from_the_seed_alone() -> None:
    def first_weight(seed: int) -> torch.Tensor:
        return next(iter(build_backbone("resnet18", "random", image_size=64, seed=seed)[0].parameters())).detach()

    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = first_weight(0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert torch.equal(first_weight(0), first)
    assert not torch.equal(first_weight(1), first)


def test_the_papers_weights_are_in_timms_list() -> None:
    assert PAPER_WEIGHTS == {
        "vit_base_patch16_224": "augreg_in21k_ft_in1k",
        "vit_small_patch16_224": "augreg_in21k_ft_in1k",
        "deit_small_distilled_patch16_224": "fb_in1k",
        "resnet50": "tv_in1k",
    }
    for student in PAPER_WEIGHTS:
        assert tagged_name(student) in timm.list_models(f"{student}.*", pretrained=True)
    assert tagged_name("vit_base_patch16_224.mae") == "vit_base_patch16_224.mae"


@pytest.mark.parametrize("wrapper", ["plain", "deit", "safetensors"])
def test_a_file_in_timms_format_loads_all_but_the_classifier(wrapper: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = timm.create_model("deit_tiny_distilled_patch16_224", pretrained=False, num_classes=21).eval()
    file = tmp_path / ("w.safetensors" if wrapper == "safetensors" else "w.pth")
    if wrapper == "safetensors":
        save_file(source.state_dict(), file)
    else:
        torch.save({"model": source.state_dict(), "epoch": 1} if wrapper == "deit" else source.state_dict(), file)
    backbone, _ = build_backbone("deit_tiny_distilled_patch16_224", str(file), image_size=224, seed=0)
    images = torch.randn(1, 3, 224, 224)
    source.reset_classifier(0)
    torch.testing.assert_close(backbone.eval()(images), source(images), rtol=0, atol=0)
    assert not any("head" in name for name in backbone.state_dict())


def test_position_embeddings_are_resized_to_the_image_size(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = timm.create_model(TINY_VIT, pretrained=False)
    file = tmp_path / "vit.pt"
    torch.save(source.state_dict(), file)
    backbone: Any = build_backbone(TINY_VIT, str(file), image_size=96, seed=0)[0]
    assert backbone.pos_embed.shape == (1, 1 + 6 * 6, 192)
    assert torch.equal(backbone.pos_embed[0, 0], source.pos_embed[0, 0])
    assert torch.equal(backbone.blocks[0].attn.qkv.weight, source.blocks[0].attn.qkv.weight)
    assert backbone(torch.zeros(1, 3, 96, 96)).shape == (1, 192)
    assert not backbone.pretrained_cfg


def test_torchvision_resnet50_weights_load_without_their_classifier(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = torchvision.models.resnet50().eval()
    file = tmp_path / "resnet50.pth"
    torch.save({k: v for k, v in source.state_dict().items() if not k.endswith("num_batches_tracked")}, file)
    backbone, width = build_backbone("resnet50", str(file), image_size=64, seed=0)
    source.fc = torch.nn.Identity()
    assert width == 2048
    torch.testing.assert_close(backbone.eval()(IMAGES), source(IMAGES), rtol=1e-5, atol=1e-5)


def test_another_librarys_names_load_in_order_where_all_shapes_agree(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = torchvision.models.mobilenet_v2().eval()
    for module in source.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    file = tmp_path / "mobilenet.pth"
    torch.save(source.state_dict(), file)
    backbone, width = build_backbone("mobilenetv2_100", str(file), image_size=64, seed=0)
    source.classifier = torch.nn.Identity()
    assert width == 1280
    torch.testing.assert_close(backbone.eval()(IMAGES), source(IMAGES), rtol=1e-4, atol=1e-4)


def test_weights_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    file = tmp_path / "other.pt"
    weights = timm.create_model("resnet18", pretrained=False).state_dict()
    torch.save(weights, file)
    assert "other.pt" in the_line("resnet34", str(file))
    assert "do not fit the architecture" in the_line(TINY_VIT, str(file))
    del weights["layer1.0.conv1.weight"]
    torch.save(weights, file)
    assert "layer1.0.conv1.weight" in the_line("resnet18", str(file))
    weights["layer1.0.conv1.weight"] = torch.zeros(3, 3)
    torch.save(weights, file)
    assert "layer1.0.conv1.weight" in the_line("resnet18", str(file))
    torch.save({"stages.0.0.weight": torch.zeros(1)}, file)
    assert "do not fit the architecture" in the_line("small", str(file))


def test_names_and_sizes_that_do_not_exist_are_one_line() -> None:
    assert "vit_base_patch16_224" in the_line("vit_base_patch16_244")
    assert "no student weights 'pretraned'" in the_line("resnet18", "pretraned")
    assert "multiple of vit_tiny_patch16_224's patch of 16" in the_line(TINY_VIT, image_size=60)
    assert "timm has no weights 'resnet50.nonsense'" in the_line("resnet50.nonsense")


def test_hub_weights_without_internet_are_one_line_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def offline(*arguments: Any, **settings: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    line = the_line("resnet50", "pretrained")
    assert "timm/resnet50.tv_in1k" in line
    assert "student_weights=PATH" in line


def test_the_packaged_small_student_loads() -> None:
    packaged, width = build_backbone("small", "pretrained", image_size=64, seed=0)
    random, _ = build_backbone("small", "random", image_size=64, seed=0)
    assert width == 192
    assert not torch.equal(packaged(IMAGES), random(IMAGES))
