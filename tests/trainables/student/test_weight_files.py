"""A student's weights from files of any origin: right, or refused with the names of both sides."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from search_spaces.errors import UserError
from trainables.student.backbones import build_backbone
from trainables.student.model import Student
from trainables.student.storage import save_student
from trainables.student.torchvision_weights import TorchvisionNetwork, renamed

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
FORMS = ("pt", "safetensors")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small sums are quickest on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def drawn(network: nn.Module) -> nn.Module:
    """The network in eval mode, every norm's scale, bias and statistics different from what initialisation gives."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.is_floating_point() and value.ndim == 1:
                is_scale = name.endswith(("weight", "running_var"))
                noise = torch.rand(value.shape, generator=generator)
                value.copy_(noise + 0.5 if is_scale else 0.2 * (noise - 0.5))
    return network.requires_grad_(False).eval()


def mobilenet_v2(**settings: Any) -> nn.Module:
    """The network of torchvision with the statistics of some noise: with those of initialisation it hears no image."""
    torch.manual_seed(1)
    source: nn.Module = drawn(torchvision.models.mobilenet_v2(**settings))
    for module in source.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    source.train()(torch.randn(16, 3, 64, 64, generator=torch.Generator().manual_seed(2)))
    return source.eval()


def timms(name: str, **settings: Any) -> nn.Module:
    """A timm model with drawn weights."""
    torch.manual_seed(1)
    model: nn.Module = timm.create_model(name, pretrained=False, **settings)
    return drawn(model)


def written(weights: dict[str, Tensor], folder: Path, form: str) -> str:
    """Path of a weights file."""
    file = folder / f"weights.{form}"
    weights = {name: value.contiguous() for name, value in weights.items()}
    save_file(weights, file) if form == "safetensors" else torch.save(weights, file)
    return str(file)


def features(student: str, file: str, image_size: int = 64) -> Tensor:
    """Features [2, W] of a student with a file's weights."""
    backbone, _ = build_backbone(student, file, image_size=image_size, seed=0)
    found: Tensor = backbone.eval()(IMAGES)
    return found.detach()


def the_line(student: str, file: str) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(UserError) as caught:
        build_backbone(student, file, image_size=64, seed=0)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 900
    return line


def off(found: Tensor, expected: Tensor) -> float:
    """The largest difference, as a part of the largest feature."""
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("prefix", ["backbone.", "net.", "model.encoder.", "module.backbone."])
def test_a_prefix_loads_from_either_kind_of_file(form: str, prefix: str, tmp_path: Path) -> None:
    source = timms("resnet18", num_classes=7)
    weights = {f"{prefix}{name}": value for name, value in source.state_dict().items()}
    expected = source.forward_head(source.forward_features(IMAGES), pre_logits=True)  # type: ignore[operator]
    assert torch.equal(features("resnet18", written(weights, tmp_path, form)), expected)


@pytest.mark.parametrize("form", FORMS)
def test_another_order_of_the_same_names_changes_nothing(form: str, tmp_path: Path) -> None:
    source = timms("resnet18", num_classes=0)
    weights = {f"net.{name}": value for name, value in reversed(list(source.state_dict().items()))}
    assert torch.equal(features("resnet18", written(weights, tmp_path, form)), source(IMAGES))


@pytest.mark.parametrize("form", FORMS)
def test_a_norms_bias_before_its_scale_is_not_taken_for_it(form: str, tmp_path: Path) -> None:
    """As converters from other libraries write it: equal shapes in another order, under other names."""
    source = timms("resnet18", num_classes=0).state_dict()
    weights: dict[str, Tensor] = {}
    for name, value in source.items():
        path, _, last = name.rpartition(".")
        if f"{path}.running_mean" not in source:
            weights[f"net.{name}"] = value
        elif last == "weight":
            weights |= {f"net.{path}.beta": source[f"{path}.bias"], f"net.{path}.gamma": value}
        elif last != "bias":
            weights[f"net.{name}"] = value
    line = the_line("resnet18", written(weights, tmp_path, form))
    assert "do not fit the architecture" in line
    assert "bn1.weight" in line
    assert "bn1.beta" in line or "bn1.gamma" in line


def test_equal_shapes_in_order_are_no_reason_to_load(tmp_path: Path) -> None:
    source = timms("resnet18", num_classes=0)
    weights = {f"w{number}": value for number, value in enumerate(source.state_dict().values())}
    line = the_line("resnet18", written(weights, tmp_path, "pt"))
    assert (
        "the file has w0, w1, w2, w3, w4 and 115 more; the model has "
        "conv1.weight, bn1.weight, bn1.bias, bn1.running_mean, bn1.running_var and 115 more"
    ) in line


@pytest.mark.parametrize("form", FORMS)
def test_weights_that_are_not_numbers_are_refused(form: str, tmp_path: Path) -> None:
    weights = timms("resnet18", num_classes=0).state_dict()
    weights["layer3.0.bn2.running_mean"][5] = float("nan")
    assert "layer3.0.bn2.running_mean holds numbers that are not finite" in the_line(
        "resnet18", written(weights, tmp_path, form)
    )


@pytest.mark.parametrize(("form", "prefix"), [("pt", ""), ("safetensors", "net.")])
def test_torchvisions_names_load_from_either_kind_of_file(form: str, prefix: str, tmp_path: Path) -> None:
    source = mobilenet_v2(num_classes=11)
    weights = {f"{prefix}{name}": value for name, value in source.state_dict().items()}
    source.classifier = nn.Identity()
    found = features("mobilenetv2_100", written(weights, tmp_path, form))
    assert off(found, source(IMAGES)) < 1e-6
    assert off(found[0], found[1]) > 0.05


def test_a_network_that_torchvision_defines_otherwise_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(1)
    weights = {key: value.half() for key, value in torchvision.models.convnext_tiny().state_dict().items()}
    line = the_line("convnext_tiny", written(weights, tmp_path, "pt"))
    assert "names as in torchvision; the model has stem.0.weight, stem.0.bias" in line
    assert "they are those of torchvision's convnext_tiny" in line
    assert "KeyError" not in line
    assert not re.search(r"architecture; '[\w.]+'", line)


def test_features_that_differ_from_torchvisions_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and shapes agree one by one, and the networks still compute something else."""
    file = written(mobilenet_v2().state_dict(), tmp_path, "pt")
    create = timm.create_model

    def with_other_norms(*names: Any, **settings: Any) -> Any:
        model = create(*names, **settings)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 1e-3
        return model

    monkeypatch.setattr(timm, "create_model", with_other_norms)
    assert "those of torchvision's mobilenet_v2, which computes other features" in the_line("mobilenetv2_100", file)


def test_torchvisions_order_counts_only_where_kinds_and_shapes_agree() -> None:
    def network(*names: str) -> TorchvisionNetwork:
        return TorchvisionNetwork(name="x", module=nn.Identity(), weights={name: torch.ones(3, 3) for name in names})

    backbone = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    found = renamed(network("a.weight", "b.weight"), backbone)
    assert found is not None
    assert list(found) == ["0.weight", "1.weight"]
    assert renamed(network("a.weight", "b.gamma"), backbone) is None
    assert renamed(network("a.weight"), backbone) is None
    assert renamed(network("a.weight", "b.weight", "c.weight"), backbone) is None
    assert renamed(network("a.weight", "b.weight"), nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 2))) is None


def facebooks(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """ConvNeXt's weights under the names of its authors, which timm renames."""
    renames = (
        (r"^stem\.", "downsample_layers.0."),
        (r"^stages\.(\d+)\.blocks\.(\d+)\.", r"stages.\1.\2."),
        (r"^stages\.(\d+)\.downsample\.", r"downsample_layers.\1."),
        ("conv_dw", "dwconv"),
        (r"mlp\.fc", "pwconv"),
        (r"^head\.norm\.", "norm."),
        (r"^head\.fc\.", "head."),
    )
    for form, name in renames:
        weights = {re.sub(form, name, key): value for key, value in weights.items()}
    return weights


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_a_classifier_is_left_out_after_timm_renamed_it(form: str, prefix: str, tmp_path: Path) -> None:
    source = timms("convnext_atto", num_classes=7)
    weights = {f"{prefix}{name}": value for name, value in facebooks(source.state_dict()).items()}
    assert {"head.weight", "norm.weight"} <= {name.removeprefix(prefix) for name in weights}
    expected = source.forward_head(source.forward_features(IMAGES), pre_logits=True)  # type: ignore[operator]
    torch.testing.assert_close(features("convnext_atto", written(weights, tmp_path, form)), expected, rtol=0, atol=1e-6)


def test_a_file_of_nothing_but_a_classifier_is_refused_and_nothing_downloaded(tmp_path: Path) -> None:
    line = the_line("resnet18", written({"fc.weight": torch.ones(7, 512)}, tmp_path, "pt"))
    assert "do not fit the architecture" in line


def test_what_is_no_classifier_is_not_left_out(tmp_path: Path) -> None:
    weights = timms("resnet18", num_classes=7).state_dict() | {"layer5.0.conv1.weight": torch.ones(3, 3)}
    line = the_line("resnet18", written(weights, tmp_path, "pt"))
    assert line.endswith("do not fit the architecture; the model has no layer5.0.conv1.weight")


def test_what_timm_itself_would_leave_random_is_refused(tmp_path: Path) -> None:
    """Some models timm loads loosely: what is missing would stay as it was drawn."""
    weights = timms("dla46_c", num_classes=0).state_dict()
    del weights["level2.tree1.bn1.weight"]
    assert "the file lacks level2.tree1.bn1.weight" in the_line("dla46_c", written(weights, tmp_path, "pt"))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_numbers_of_other_sizes_load(kind: torch.dtype, tmp_path: Path) -> None:
    source = timms("test_vit", num_classes=0).state_dict()
    weights = {name: value.to(kind) for name, value in source.items()}
    backbone, _ = build_backbone("test_vit", written(weights, tmp_path, "pt"), image_size=64, seed=0)
    own = backbone.state_dict()
    assert torch.equal(own["blocks.0.attn.qkv.weight"], source["blocks.0.attn.qkv.weight"].to(kind).float())


def test_integers_are_not_taken_for_weights(tmp_path: Path) -> None:
    weights = timms("test_vit", num_classes=0).state_dict()
    weights["blocks.0.attn.qkv.weight"] = (weights["blocks.0.attn.qkv.weight"] * 127).to(torch.int8)
    line = the_line("test_vit", written(weights, tmp_path, "safetensors"))
    assert "blocks.0.attn.qkv.weight holds torch.int8 instead of torch.float32" in line


@pytest.mark.parametrize("name", ["test_vit", "small"])
def test_a_trained_student_is_a_start_for_the_next(name: str, tmp_path: Path) -> None:
    """What a fold leaves holds the backbone below its group's name, beside the head."""
    backbone, width = build_backbone(name, "random", image_size=64, seed=3)
    student = Student(backbone=backbone, head=nn.Linear(width, 5), head_name="projection")
    save_student(student, tmp_path / "student.safetensors")
    assert torch.equal(features(name, str(tmp_path / "student.safetensors")), backbone.eval()(IMAGES))
