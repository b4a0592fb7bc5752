"""Weights go into a model by names: prefixes are found, orders do not matter, nothing is matched by shape."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from search_spaces.errors import UserError
from trainables.state_dicts import ForeignNamesError, load_strictly, look_of
from trainables.weights import read_weights


class Network(nn.Module):
    """Tensors of equal shape everywhere, so that shapes say nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 3)
        self.blocks = nn.Sequential(*(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)) for _ in range(3)))
        self.scale = nn.Parameter(torch.ones(()))


def state(seed: int = 1) -> dict[str, Tensor]:
    """Random weights for the network."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(value.shape, generator=generator) + 0.5 if value.is_floating_point() else value + 3
        for name, value in Network().state_dict().items()
    }


def loaded(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the network holds afterwards."""
    network = Network()
    load_strictly(network, weights, what="network (w.pt)")
    return network.state_dict()


def the_line(weights: dict[str, Tensor]) -> str:
    """The one line with which loading fails."""
    with pytest.raises(UserError) as caught:
        loaded(weights)
    line = str(caught.value)
    assert line.startswith("network (w.pt): ")
    assert "\n" not in line
    return line


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    """Whether both hold the same numbers by name."""
    return found.keys() == expected.keys() and all(torch.equal(found[name], value) for name, value in expected.items())


def below(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights with a prefix."""
    return {f"{prefix}{name}": value for name, value in weights.items()}


@pytest.mark.parametrize("prefix", ["backbone.", "model.backbone.", "net.", "featurizer.network.", "0.", "blocks."])
def test_any_prefix_is_found_and_a_head_beside_it_left_out(prefix: str) -> None:
    heads = {"head.weight": torch.ones(7, 3), "model.fc.bias": torch.ones(7), "1.weight": torch.ones(7, 3)}
    assert same(loaded(below(prefix, state())), state())
    assert same(loaded(heads | below(prefix, state()) | {"n_averaged": torch.tensor(9)}), state())


def test_what_is_no_head_beside_a_prefix_is_named() -> None:
    neck = {"neck.conv.weight": torch.ones(3, 3, 1, 1)}
    assert "beside backbone. the file holds neck.conv.weight; save the model alone" in the_line(
        below("backbone.", state()) | neck
    )
    assert "the model has no neck.conv.weight" in the_line(state() | neck)


def test_two_models_that_fit_are_refused_unless_they_are_equal() -> None:
    two = below("student.", state(1)) | below("teacher.", state(2))
    assert "holds several models that fit, below student., teacher.; save the one that is meant" in the_line(two)
    assert same(loaded(below("featurizer.", state()) | below("network.0.", state())), state())


def test_missing_names_shapes_and_types_are_named() -> None:
    for prefix in ("", "backbone."):
        weights = below(prefix, state())
        del weights[f"{prefix}blocks.1.1.running_var"]
        assert "the file lacks blocks.1.1.running_var" in the_line(weights)
        weights[f"{prefix}blocks.1.1.running_var"] = torch.ones(4)
        assert "blocks.1.1.running_var is (4,) instead of (3,)" in the_line(weights)
        weights[f"{prefix}blocks.1.1.running_var"] = torch.ones(3, dtype=torch.int8)
        assert "blocks.1.1.running_var holds torch.int8 instead of torch.float32" in the_line(weights)
        weights[f"{prefix}blocks.1.1.running_var"] = torch.ones(3, dtype=torch.complex64)
        assert "blocks.1.1.running_var holds torch.complex64 instead of torch.float32" in the_line(weights)


def test_counters_of_batches_may_be_missing_and_one_number_is_a_scalar() -> None:
    weights = {name: value for name, value in state().items() if not name.endswith("num_batches_tracked")}
    weights["scale"] = weights["scale"].reshape(1)
    found = loaded(weights)
    assert all(torch.equal(found[name], value.reshape(found[name].shape)) for name, value in weights.items())


def test_names_of_another_library_show_five_of_both_sides() -> None:
    foreign = {name.replace("stem", "first").replace("blocks", "layer"): value for name, value in state().items()}
    foreign = {name.replace("weight", "gamma").replace("bias", "beta"): value for name, value in foreign.items()}
    line = the_line(below("net.", foreign))
    assert (
        "the file has net.scale, net.first.gamma, net.first.beta, net.layer.0.0.gamma, net.layer.0.0.beta and 19 more, "
        "names as in Keras; the model has scale, stem.weight, stem.bias, blocks.0.0.weight, blocks.0.0.bias and 19 more"
    ) in line
    with pytest.raises(ForeignNamesError):
        loaded(foreign)


def test_a_conversion_that_fails_says_where() -> None:
    def convert(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"stem.weight": weights["embed.kernel"]}

    with pytest.raises(
        UserError, match=r"the model has scale, .*; the conversion of its names stops at 'embed.kernel'"
    ):
        load_strictly(Network(), below("x.y.", {"a": torch.ones(1)}), what="w", convert=convert)
    network = Network()
    load_strictly(network, state(), what="w", convert=convert)
    assert same(network.state_dict(), state())


def test_a_conversion_is_not_needed_where_the_names_are_the_models_own() -> None:
    """Some tell by the classifier whether a file is old: one without it would be renamed."""

    def convert(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return {f"new.{name}" if "head.weight" not in weights else name: value for name, value in weights.items()}

    for weights in (state(), below("backbone.", state())):
        network = Network()
        load_strictly(network, weights, what="w", convert=convert)
        assert same(network.state_dict(), state())


@pytest.mark.parametrize(
    ("name", "library"),
    [
        ("vit.encoder.layer.0.attention.attention.query.weight", "Hugging Face transformers"),
        ("vision_model.embeddings.patch_embedding.weight", "Hugging Face transformers"),
        ("visual.transformer.resblocks.0.ln_1.weight", "open_clip or CLIP"),
        ("encoder.layers.encoder_layer_0.ln_1.weight", "torchvision"),
        ("features.0.1.running_mean", "torchvision"),
        ("params/encoder/block0/Dense_0/kernel", "Flax"),
        ("backbone.blocks.0.attn.qkv.weight", "timm"),
        ("conv2_block1_0_bn.moving_mean", "Keras"),
        ("layer1.0.conv1.weight", ""),
    ],
)
def test_whose_names_they_look_like(name: str, library: str) -> None:
    assert look_of([name]) == library


def _changed(weights: dict[str, Tensor], generator: random.Random) -> tuple[dict[str, Tensor], bool]:
    """One change that a seed draws, and whether the weights still mean the same."""
    names = list(weights)
    name, other = generator.sample(names, 2)
    change = generator.choice(["order", "prefix", "prefix and head", "type", "drop", "rename", "integers", "last part"])
    if change == "order":
        generator.shuffle(names)
        return {key: weights[key] for key in names}, True
    if change in ("prefix", "prefix and head"):
        prefix = ".".join(generator.choices(["backbone", "net", "model", "0", "encoder"], k=generator.randint(1, 3)))
        head = {"head.weight": torch.ones(5, 3)} if change != "prefix" else {}
        return head | below(f"{prefix}.", weights), True
    if change == "type":
        kind = generator.choice([torch.float64, torch.float32])
        return {key: value.to(kind) if value.is_floating_point() else value for key, value in weights.items()}, True
    if change == "drop":
        return {key: value for key, value in weights.items() if key != name}, name.endswith("tracked")
    if change == "rename":
        return {f"{key}_" if key in (name, other) else key: value for key, value in weights.items()}, False
    if change == "integers":
        # Of a file that was quantised, or whose counters were averaged.
        is_float = weights[name].is_floating_point()
        return weights | {name: weights[name].to(torch.int8 if is_float else torch.float32)}, False
    return {key.replace("weight", "gamma"): value for key, value in weights.items()}, False


@pytest.mark.parametrize("seed", range(60))
def test_what_loads_means_the_same_whatever_was_done_to_the_file(seed: int, tmp_path: Path) -> None:
    """A file loads right or not at all, and as .pt as it does as .safetensors."""
    generator = random.Random(seed)
    weights, means_the_same = state(seed), True
    for _ in range(generator.randint(1, 3)):
        weights, harmless = _changed(weights, generator)
        means_the_same &= harmless
    if generator.random() < 0.2:
        weights[generator.choice([key for key in weights if weights[key].is_floating_point()])].fill_(float("nan"))
        means_the_same = False
    torch.save(weights, tmp_path / "w.pt")
    save_file(weights, tmp_path / "w.safetensors")
    for file in (tmp_path / "w.pt", tmp_path / "w.safetensors"):
        if not means_the_same:
            with pytest.raises(UserError, match=r"^[^\n]*$"):
                loaded(read_weights(file))
            continue
        found, expected = loaded(read_weights(file)), state(seed)
        for name, value in expected.items():
            was_dropped = name.endswith("tracked") and int(found[name]) == 0
            assert was_dropped or torch.equal(found[name], value)
