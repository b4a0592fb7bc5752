"""What a teacher is: two embeddings and a scale; and the zero-shot classifier that follows from them.

Shapes: N images, D embedding dimensions, C classes, T prompt templates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TEMPLATE = "a photo of a {}"
"""The one template of the paper; no full stop (method.md, section 1)."""


class Teacher(Protocol):
    """An image-text model that can be asked for embeddings; whether it is local or a vendor's does not show."""

    @property
    def name(self) -> str:
        """What `open_teacher` opened."""

    @property
    def embedding_dim(self) -> int:
        """D."""

    @property
    def logit_scale(self) -> float:
        """The factor on cosine similarities, already exponentiated (about 100)."""

    def embed_images(self, images_N3HW: Tensor) -> Tensor:
        """L2-normalised embeddings [N, D], float32, of ImageNet-normalised images: the student's very own tensor."""

    def embed_texts(self, prompts: Sequence[str]) -> Tensor:
        """L2-normalised embeddings [len(prompts), D], float32."""

    def image_encoder(self) -> tuple[nn.Module, int]:
        """A fresh trainable copy of the image encoder (images -> un-normalised [N, D]) and D.

        Raises:
            UserError: the teacher is a black box.
        """


def prompts(class_names: Sequence[str], template: str = TEMPLATE) -> list[str]:
    """One prompt per class: `_` becomes a space, case is kept.

    >>> prompts(["alarm_clock", "TV"])
    ['a photo of a alarm clock', 'a photo of a TV']
    """
    return [template.format(name.replace("_", " ")) for name in class_names]


def average_templates(raw_CTD: Tensor) -> Tensor:
    """One L2-normalised text embedding per class [C, D] from those of its templates [C, T, D], of any length.

    Each is normalised, then averaged, then normalised again (Radford et al. 2021, CLIP's zero-shot notebook).
    """
    return F.normalize(F.normalize(raw_CTD, dim=-1).mean(dim=1), dim=-1)


def class_texts(teacher: Teacher, class_names: Sequence[str], templates: Sequence[str] = (TEMPLATE,)) -> Tensor:
    """Text embeddings of the classes [C, D], L2-normalised; asks C * T text queries."""
    if len(templates) == 1:
        return teacher.embed_texts(prompts(class_names, templates[0]))
    return average_templates(torch.stack([teacher.embed_texts(prompts(class_names, t)) for t in templates], dim=1))


def zero_shot_logits(features_ND: Tensor, texts_CD: Tensor, logit_scale: float) -> Tensor:
    """Class logits [N, C] = logit_scale * normalise(features) @ texts.T (method.md, section 1, Predict)."""
    return logit_scale * F.normalize(features_ND, dim=-1) @ texts_CD.T
