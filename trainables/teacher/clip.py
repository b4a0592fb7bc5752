"""CLIP as a teacher through open_clip: any architecture with a tag, a local checkpoint or random weights."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.errors import UserError, first_line, unknown_name
from trainables.state_dicts import load_strictly
from trainables.teacher.names import ARCHITECTURES, parse_open_clip
from trainables.weights import hub_weights, read_weights, seeded

TEXT_BATCH_SIZE = 256
HUB_FILENAMES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""open_clip's own file names, best first (its `HF_SAFE_WEIGHTS_NAME` and `HF_WEIGHTS_NAME`)."""


class OpenClipTeacher:
    """A CLIP model in fp32 and eval mode; it takes the student's ImageNet-normalised tensor as it is.

    Deviation: none from the authors' code, which never applies CLIP's own mean and standard deviation either.
    """

    def __init__(self, *, name: str, architecture: str, model: nn.Module, device: torch.device | str = "cpu") -> None:
        import open_clip

        self.name = name
        self._architecture = architecture
        scale: Any = model.logit_scale
        self.logit_scale = float(scale.detach().float().exp())
        self._model: Any = model.eval().requires_grad_(False).float().to(device)
        self._device = torch.device(device)
        self.embedding_dim = int((open_clip.get_model_config(architecture) or {})["embed_dim"])

    def embed_images(self, images_N3HW: Tensor) -> Tensor:
        """L2-normalised image embeddings [N, D], float32, on the teacher's device."""
        with torch.inference_mode():
            features_ND = self._model.encode_image(images_N3HW.to(self._device, torch.float32))
            embeddings_ND = F.normalize(features_ND, dim=-1)
        # An inference tensor cannot take part in a loss; its copy can.
        return embeddings_ND.clone()

    def embed_texts(self, prompts: Sequence[str]) -> Tensor:
        """L2-normalised text embeddings [len(prompts), D], float32, on the teacher's device."""
        tokenizer = _tokenizer(self._architecture, self.name)
        parts = []
        with torch.inference_mode():
            for start in range(0, len(prompts), TEXT_BATCH_SIZE):
                tokens = tokenizer(list(prompts[start : start + TEXT_BATCH_SIZE])).to(self._device)
                parts.append(F.normalize(self._model.encode_text(tokens), dim=-1))
            embeddings_CD = torch.cat(parts) if parts else torch.zeros(0, self.embedding_dim, device=self._device)
        return embeddings_CD.clone()

    def image_encoder(self) -> tuple[nn.Module, int]:
        """A fresh trainable copy of the image tower with its projection, and D."""
        encoder: nn.Module = copy.deepcopy(self._model.visual)
        return encoder.requires_grad_(True), self.embedding_dim


@dataclass(frozen=True, kw_only=True, slots=True)
class _Architecture:
    """An architecture in open_clip's list."""

    name: str
    """Its name there: for a file, one made from the file's content, so that no other architecture has it."""
    shown: str
    """Its name for readers, and in open_clip's list of weights: a file's is the file's own."""
    config: dict[str, Any]


def open_clip_teacher(name: str, *, image_size: int, device: torch.device | str) -> OpenClipTeacher:
    """Open `open_clip:ARCHITECTURE:TAG`, `:PATH` or `:random:SEED` for images of the given side.

    Raises:
        UserError: unknown architecture or tag, weights that cannot be had, are unsafe or do not fit, or an image size
            that the architecture cannot take.
    """
    wanted = parse_open_clip(name)
    file = wanted.architecture_file
    architecture = _of_file(file) if file is not None else _of_list(wanted.architecture)
    seed = wanted.random_seed
    weights = None if seed is not None else wanted.weights_file or _download(architecture, wanted.weights)
    _check_image_size(architecture, image_size)
    with seeded(0 if seed is None else seed, "teacher"), _quiet_open_clip():
        model = _build(architecture, image_size)
    if weights is not None:
        _load(model, weights, name=name)
    model.requires_grad_(False)
    teacher = OpenClipTeacher(name=name, architecture=architecture.name, model=model, device=device)
    if file is not None and file.parent != ARCHITECTURES:
        _check_answers(teacher, file, image_size)
    return teacher


def _check_answers(teacher: OpenClipTeacher, file: Path, image_size: int) -> None:
    """Raise `UserError` where the model of a user's own file gives no embeddings of the dimensions that it states."""
    try:
        image, text = teacher.embed_images(torch.zeros(1, 3, image_size, image_size)), teacher.embed_texts(["a"])
    except Exception as error:
        # Numbers that do not go together show when the model computes, in errors of any kind.
        raise UserError(f"the architecture {file} computes nothing: {first_line(error)}") from None
    found = {image.shape[1], text.shape[1]}
    if teacher.embedding_dim < 1 or found != {teacher.embedding_dim}:
        raise UserError(f"the architecture {file} states embed_dim {teacher.embedding_dim}, but gives {sorted(found)}")


def _of_list(name: str) -> _Architecture:
    import open_clip

    known = open_clip.list_models()
    if name not in known:
        nearest = get_close_matches(name, known, n=4, cutoff=0.3)
        raise UserError(
            f"unknown open_clip architecture {name!r}; nearest: {', '.join(nearest) or 'none'}; "
            f"open_clip.list_models() lists all {len(known)}"
        )
    return _Architecture(name=name, shown=name, config=open_clip.get_model_config(name))


def _of_file(file: Path) -> _Architecture:
    """The architecture of a file, added to open_clip's list: its content alone says what is built."""
    import open_clip

    content = file.read_bytes()
    config = _checked_config(content, file)
    name = f"content-{hashlib.sha256(content).hexdigest()}"
    if open_clip.get_model_config(name) != config:
        with tempfile.TemporaryDirectory() as folder:
            # open_clip takes the name of the file for the architecture's, and keeps what it has read.
            copied = Path(folder) / f"{name}.json"
            copied.write_text(json.dumps(config), "ascii")
            open_clip.add_model_config(copied)
    return _Architecture(name=name, shown=file.stem, config=config)


def _checked_config(content: bytes, file: Path) -> dict[str, Any]:
    try:
        config = json.loads(content)
    except (ValueError, RecursionError):
        raise UserError(f"{file} is not JSON") from None
    kinds = {"embed_dim": int, "vision_cfg": dict, "text_cfg": dict}
    if not isinstance(config, dict):
        config = {}
    missing = [key for key in kinds if key not in config]
    if missing:
        raise UserError(f"{file} is not an open_clip architecture: it lacks {', '.join(missing)}")
    wrong = [f"{key} is no {kind.__name__}" for key, kind in kinds.items() if type(config[key]) is not kind]
    if wrong:
        raise UserError(f"{file} is not an open_clip architecture: {', '.join(wrong)}")
    return config


def _download(architecture: _Architecture, tag: str) -> Path:
    import open_clip
    from open_clip.pretrained import download_pretrained_from_url, get_pretrained_cfg

    shown = architecture.shown
    hint = f"give a local file instead: open_clip:{shown}:PATH"
    found = get_pretrained_cfg(shown, tag)
    if not found:
        tags = open_clip.list_pretrained_tags_by_model(shown)
        raise unknown_name(f"weights of open_clip:{shown}:", tag, [*tags, "random:SEED", "a file"], hint=hint)
    if bool(found.get("quick_gelu")) != bool(architecture.config.get("quick_gelu")):
        other = "-quickgelu added" if found.get("quick_gelu") else "-quickgelu left away"
        raise UserError(
            f"the weights {tag!r} were trained with another activation than {shown} has; "
            f"take the architecture's name with {other}"
        )
    if found.get("hf_hub"):
        repository, filename = os.path.split(found["hf_hub"])
        return hub_weights(repository, _filenames(filename), local_hint=hint)
    try:
        return Path(download_pretrained_from_url(found["url"]))
    except Exception as error:
        raise UserError(f"cannot download {found.get('url')} ({type(error).__name__}); {hint}") from None


def _filenames(filename: str) -> tuple[str, ...]:
    if not filename:
        return HUB_FILENAMES
    safe = f"{Path(filename).stem}.safetensors"
    return (safe, filename) if safe != filename else (filename,)


def _check_image_size(architecture: _Architecture, image_size: int) -> None:
    vision = architecture.config["vision_cfg"]
    patch, shown = vision.get("patch_size"), architecture.shown
    if isinstance(patch, int) and patch > 0 and not isinstance(vision.get("layers"), list) and image_size % patch:
        raise UserError(f"image_size {image_size} is not a multiple of {shown}'s patch of {patch} pixels")
    if isinstance(vision.get("layers"), list) and image_size % 32:
        raise UserError(f"image_size {image_size} is not a multiple of 32, which {shown} needs")


def _build(architecture: _Architecture, image_size: int) -> nn.Module:
    import open_clip

    native = architecture.config["vision_cfg"].get("image_size", 224)
    try:
        model: nn.Module = open_clip.create_model(
            architecture.name,
            pretrained=None,
            precision="fp32",
            device="cpu",
            force_image_size=None if native == image_size else image_size,
            pretrained_text=False,
        )
    except Exception as error:
        # Architectures bring timm and transformers with them, whose errors are of any kind.
        line = first_line(error)
        raise UserError(f"open_clip cannot build {architecture.shown} for {image_size} px: {line}") from None
    return model


def _load(model: nn.Module, file: Path, *, name: str) -> None:
    """Load a checkpoint strictly, position embeddings resized to the image size."""
    what = f"{name} ({file.name})"
    load_strictly(model, read_weights(file), what=what, convert=lambda weights: _fitted_where_possible(weights, model))


def _fitted_where_possible(weights: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """What `_fitted` gives; the weights as they are where it cannot convert them, so that what differs is named."""
    try:
        return _fitted(weights, model)
    except Exception:
        # open_clip's conversions take a file of this very architecture for granted, and fail in errors of any kind.
        return weights


def _fitted(weights: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """The conversions of `open_clip.factory.load_checkpoint`, on weights that were read safely."""
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed, resize_text_pos_embed

    # Three numbers that OpenAI's own archives carry as tensors.
    openai_numbers = ("input_resolution", "context_length", "vocab_size")
    weights = {key: value for key, value in weights.items() if key not in openai_numbers}
    weights = convert_state_dict(model, weights)
    if "positional_embedding" in weights and not hasattr(model, "positional_embedding"):
        weights = convert_to_custom_text_state_dict(weights)
    for scalar in ("logit_scale", "logit_bias"):
        target = getattr(model, scalar, None)
        if target is not None and scalar in weights:
            weights[scalar] = weights[scalar].reshape(target.shape)
    weights.pop("text.transformer.embeddings.position_ids", None)
    resize_pos_embed(weights, model)
    resize_text_pos_embed(weights, model)
    _resize_attention_pool(weights, model)
    return weights


def _resize_attention_pool(weights: dict[str, Tensor], model: Any) -> None:
    """Resize the position embedding [1 + S * S, W] of CLIP's ResNets, which open_clip leaves as it is."""
    name = "visual.attnpool.positional_embedding"
    pool = getattr(model.visual, "attnpool", None)
    old, new = weights.get(name), getattr(pool, "positional_embedding", None)
    if old is None or new is None or old.shape == new.shape or old.shape[1:] != new.shape[1:]:
        return
    side_old, side_new = (round((rows.shape[0] - 1) ** 0.5) for rows in (old, new))
    grid = old[1:].float().reshape(1, side_old, side_old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(side_new, side_new), mode="bicubic", antialias=True, align_corners=False)
    weights[name] = torch.cat([old[:1].float(), grid.permute(0, 2, 3, 1).reshape(side_new**2, -1)])


def _tokenizer(architecture: str, name: str) -> Any:
    import open_clip

    try:
        with _quiet_open_clip():
            return open_clip.get_tokenizer(architecture)
    except Exception as error:
        # A tokenizer may come from the hub through transformers, whose errors are of any kind.
        line = first_line(error)
        raise UserError(f"the tokenizer of {name} cannot be loaded: {line}") from None


@contextmanager
def _quiet_open_clip() -> Iterator[None]:
    """Keep open_clip's lines to the root logger (and the set-up of logging they cause) to itself."""
    root, handler = logging.getLogger(), logging.NullHandler()

    def not_from_open_clip(record: logging.LogRecord) -> bool:
        return "open_clip" not in record.pathname

    root.addHandler(handler)
    root.addFilter(not_from_open_clip)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeFilter(not_from_open_clip)
        root.removeHandler(handler)
