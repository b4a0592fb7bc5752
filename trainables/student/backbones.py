"""Backbones: images [N, 3, S, S] to features [N, W], from timm, from a local weights file, or the demo student."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.errors import UserError, first_line
from trainables.state_dicts import ForeignNamesError, load_strictly
from trainables.student.names import SMALL, student_weights_file, tagged_name
from trainables.student.torchvision_weights import check_features, find_network, renamed
from trainables.weights import hub_weights, read_weights, seeded

HUB_FILENAMES = ("model.safetensors", "pytorch_model.bin")
"""timm's own file names on the hub, best first."""


def build_backbone(student: str, weights: str, *, image_size: int, seed: int) -> tuple[nn.Module, int]:
    """Build a student's backbone in fp32 on the CPU; returns it with its feature width W.

    The feature is timm's pooled one before the classifier: the class token of a ViT, the mean of class and distillation
    tokens of a distilled DeiT, the average over places of a ResNet. `weights` is `pretrained`, `random` (a function of
    `seed`), or the path of a file; classifiers in a file are left out, everything else must fit strictly, by names.

    Raises:
        UserError: no such student, weights that cannot be had or do not fit, or an image size it cannot take.
    """
    file = student_weights_file(student, weights)
    with seeded(seed, "backbone"):
        backbone = _small(file) if student == SMALL else _timm(student, weights, file, image_size)
    return backbone, _feature_width(backbone, student, image_size)


def _small(file: Path | None) -> nn.Module:
    from trainables.student.small.network import SmallStudent

    backbone = SmallStudent()
    if file is not None:
        load_strictly(backbone, read_weights(file), what=f"student small ({file.name})")
    return backbone


def _timm(student: str, weights: str, file: Path | None, image_size: int) -> nn.Module:
    import timm

    _check_name(student)
    name = tagged_name(student)
    if weights == "pretrained":
        file = _download(student, name)
    settings: dict[str, Any] = {"num_classes": 0}
    config = timm.get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size and config.input_size[-1] != image_size:
        settings["img_size"] = image_size
    backbone: Any
    try:
        if file is None:
            backbone = timm.create_model(name, pretrained=False, **settings)
        else:
            backbone = _with_weights(name, file, settings, image_size)
    except (RuntimeError, TypeError, AssertionError, ValueError, KeyError) as error:
        if isinstance(error, UserError):
            raise
        line = first_line(error)
        raise UserError(f"student {student!r} cannot be built for {image_size} px: {line}") from None
    # timm's settings name its own weights, which these may not be.
    backbone.pretrained_cfg = backbone.default_cfg = {}
    _check_patches(backbone, student, image_size)
    built: nn.Module = backbone
    return built


def _check_name(student: str) -> None:
    import timm

    if not timm.is_model(student.partition(".")[0]):
        known = timm.list_models()
        nearest = get_close_matches(student, known, n=4, cutoff=0.4)
        raise UserError(
            f"unknown student {student!r}; nearest: {', '.join(nearest) or 'none'}; allowed: small, or any of the "
            f"{len(known)} names of timm.list_models()"
        )
    tags = timm.list_pretrained(f"{student.partition('.')[0]}.*")
    if "." in student and student not in tags:
        raise UserError(f"timm has no weights {student!r}; allowed: {', '.join(tags) or 'none'}")


def _download(student: str, name: str) -> Path:
    import timm

    hint = "give a local file (student_weights=PATH) or start from random weights (student_weights=random)"
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        raise UserError(f"timm has no pretrained weights for {student!r} on the hub; {hint}")
    filenames = (config.hf_hub_filename,) if config.hf_hub_filename else HUB_FILENAMES
    return hub_weights(config.hf_hub_id, filenames, local_hint=hint)


def _with_weights(name: str, file: Path, settings: Mapping[str, Any], image_size: int) -> nn.Module:
    """Build a timm model with a file's weights, converted and resized by timm, or renamed from torchvision's names."""
    network = _TimmNetwork(name, settings)
    what = f"student {name} ({file.name})"
    weights = read_weights(file)
    try:
        load_strictly(network.model, weights, what=what, convert=network.convert, leave_out=network.may_leave_out)
    except ForeignNamesError as error:
        original = find_network(weights, name)
        if original is None:
            raise
        own_names = renamed(original, network.model)
        if own_names is None:
            raise UserError(f"{error}; they are those of torchvision's {original.name}") from None
        load_strictly(network.model, own_names, what=what)
        check_features(original, network.model, image_size=image_size, what=what)
    return network.model


class _TimmNetwork:
    """A timm model before its weights are loaded, and what timm does with the weights of a file."""

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        import timm
        from timm.models import _builder

        self._filter: Callable[..., Any] | None = None
        self._is_strict = True
        config = timm.get_pretrained_cfg(name)
        named = config.classifier if config is not None and config.classifier else ()
        classifiers = (named,) if isinstance(named, str) else tuple(named)
        self._head_parts = {classifier.partition(".")[0] for classifier in classifiers}
        # timm hands a model's conversion of names and shapes to this function alone, which lets missing weights pass
        # in some models.
        original = _builder.load_pretrained
        _builder.load_pretrained = self._keep
        try:
            overlay = {"num_classes": 0, "label_offset": 0}
            self.model: nn.Module = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **settings)
        finally:
            _builder.load_pretrained = original

    def _keep(
        self, model: nn.Module, *arguments: Any, filter_fn: Any = None, strict: bool = True, **settings: Any
    ) -> None:
        self._filter, self._is_strict = filter_fn, strict

    def convert(self, weights: dict[str, Tensor]) -> Mapping[str, Tensor]:
        """The names and shapes of a file as timm's model has them; classifiers stay."""
        if self._filter is None:
            return weights
        try:
            converted: Mapping[str, Tensor] = self._filter(weights, self.model)
        except TypeError:
            # Some conversions take the weights alone.
            converted = self._filter(weights)
        return converted

    def may_leave_out(self, name: str) -> bool:
        """Whether a converted name is a classifier's; and any, where timm itself lets more pass (auxiliary heads)."""
        return not self._is_strict or name.partition(".")[0] in self._head_parts


def _check_patches(backbone: nn.Module, student: str, image_size: int) -> None:
    patch = getattr(getattr(backbone, "patch_embed", None), "patch_size", None)
    if isinstance(patch, tuple) and patch and image_size % int(patch[0]):
        raise UserError(f"image_size {image_size} is not a multiple of {student}'s patch of {patch[0]} pixels")


def _feature_width(backbone: nn.Module, student: str, image_size: int) -> int:
    """W, by asking for the feature of one black image."""
    training = backbone.training
    backbone.eval()
    try:
        with torch.inference_mode():
            features_1W = backbone(torch.zeros(1, 3, image_size, image_size))
    except (RuntimeError, AssertionError, ValueError) as error:
        line = first_line(error)
        raise UserError(f"student {student!r} cannot take images of {image_size} px: {line}") from None
    backbone.train(training)
    if not isinstance(features_1W, Tensor) or features_1W.ndim != 2:
        raise UserError(f"student {student!r} gives no pooled feature [N, W]")
    return int(features_1W.shape[1])
