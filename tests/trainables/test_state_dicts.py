"""Weights go into a model by names: prefixes are found, orders do not matter, nothing is matched by shape."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from search_spaces.errors import UserError
from tests.fuzz import weights as fuzzed_weights
from tests.support.named_network import NamedNetwork, below, named_state
from trainables.state_dicts import ForeignNamesError, load_strictly, look_of


def loaded(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the network holds afterwards."""
    network = NamedNetwork()
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


@pytest.mark.parametrize("prefix", ["backbone.", "model.backbone.", "net.", "featurizer.network.", "0.", "blocks."])
def test_any_prefix_is_found_and_a_head_beside_it_left_out(prefix: str) -> None:
    heads = {"head.weight": torch.ones(7, 3), "model.fc.bias": torch.ones(7), "1.weight": torch.ones(7, 3)}
    assert same(loaded(below(prefix, named_state())), named_state())
    assert same(loaded(heads | below(prefix, named_state()) | {"n_averaged": torch.tensor(9)}), named_state())


def test_what_is_no_head_beside_a_prefix_is_named() -> None:
    neck = {"neck.conv.weight": torch.ones(3, 3, 1, 1)}
    assert "beside backbone. the file holds neck.conv.weight; save the model alone" in the_line(
        below("backbone.", named_state()) | neck
    )
    assert "the model has no neck.conv.weight" in the_line(named_state() | neck)


def test_two_models_that_fit_are_refused_unless_they_are_equal() -> None:
    two = below("student.", named_state(1)) | below("teacher.", named_state(2))
    assert "holds several models that fit, below student., teacher.; save the one that is meant" in the_line(two)
    assert same(loaded(below("featurizer.", named_state()) | below("network.0.", named_state())), named_state())


def test_missing_names_shapes_and_types_are_named() -> None:
    for prefix in ("", "backbone."):
        weights = below(prefix, named_state())
        del weights[f"{prefix}blocks.1.1.running_var"]
        assert "the file lacks blocks.1.1.running_var" in the_line(weights)
        weights[f"{prefix}blocks.1.1.running_var"] = torch.ones(4)
        assert "blocks.1.1.running_var is (4,) instead of (3,)" in the_line(weights)
        weights[f"{prefix}blocks.1.1.running_var"] = torch.ones(3, dtype=torch.int8)
        assert "blocks.1.1.running_var holds torch.int8 instead of torch.float32" in the_line(weights)
        weights[f"{prefix}blocks.1.1.running_var"] = torch.ones(3, dtype=torch.complex64)
        assert "blocks.1.1.running_var holds torch.complex64 instead of torch.float32" in the_line(weights)


def test_counters_of_batches_may_be_missing_and_one_number_is_a_scalar() -> None:
    weights = {name: value for name, value in named_state().items() if not name.endswith("num_batches_tracked")}
    weights["scale"] = weights["scale"].reshape(1)
    found = loaded(weights)
    assert all(torch.equal(found[name], value.reshape(found[name].shape)) for name, value in weights.items())


def test_names_of_another_library_show_five_of_both_sides() -> None:
    foreign = {name.replace("stem", "first").replace("blocks", "layer"): value for name, value in named_state().items()}
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
        load_strictly(NamedNetwork(), below("x.y.", {"a": torch.ones(1)}), what="w", convert=convert)
    network = NamedNetwork()
    load_strictly(network, named_state(), what="w", convert=convert)
    assert same(network.state_dict(), named_state())


def test_a_conversion_is_not_needed_where_the_names_are_the_models_own() -> None:
    """Some tell by the classifier whether a file is old: one without it would be renamed."""

    def convert(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return {f"new.{name}" if "head.weight" not in weights else name: value for name, value in weights.items()}

    for weights in (named_state(), below("backbone.", named_state())):
        network = NamedNetwork()
        load_strictly(network, weights, what="w", convert=convert)
        assert same(network.state_dict(), named_state())


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


def test_random_files_load_right_or_not_at_all() -> None:
    """Other names, orders, prefixes, types and damaged bytes, as .pt and as .safetensors; `make fuzz` tries more."""
    assert fuzzed_weights.tried(60, seed=0).problems == []
