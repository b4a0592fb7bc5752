"""The student: a backbone and a head, in parameter groups that are frozen or trained as a whole.

Shapes: N images, S pixels a side, W feature width, D embedding dimensions, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.errors import UserError
from search_spaces.hyperparameters import Hyperparameters
from trainables.student.backbones import build_backbone
from trainables.teacher.protocol import Teacher
from trainables.weights import seeded

Head = Literal["projection", "none", "classifier"]


class Student(nn.Module):
    """Images [N, 3, S, S] to un-normalised embeddings [N, D], or to class logits [N, C] with a classifier.

    The groups are `backbone` and, unless `head_name` is `none`, the head's name. All train until `set_trainable`.
    """

    def __init__(self, *, backbone: nn.Module, head: nn.Module, head_name: Head, dropout: float = 0.0) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.head_name = head_name
        self.dropout = dropout
        self._trainable = frozenset(self.groups)
        self._shared_rows = 0
        self._shared_noise: Tensor | None = None

    @property
    def groups(self) -> dict[str, nn.Module]:
        """Parameter groups by name."""
        if self.head_name == "none":
            return {"backbone": self.backbone}
        return {"backbone": self.backbone, self.head_name: self.head}

    @property
    def trainable(self) -> frozenset[str]:
        """Names of the groups that train."""
        return self._trainable

    def set_trainable(self, groups: Iterable[str]) -> None:
        """Train these groups and freeze all others: no gradients, and eval mode whatever mode the student is in."""
        wanted = frozenset(groups)
        if not wanted <= set(self.groups):
            raise ValueError(f"the student has the groups {sorted(self.groups)}, not {sorted(wanted)}")
        self._trainable = wanted
        for name, module in self.groups.items():
            module.requires_grad_(name in wanted)
        self.zero_grad(set_to_none=True)
        self.train(self.training)

    def train(self, mode: bool = True) -> Student:
        """Set training mode, except for frozen groups and for every BatchNorm: those stay in eval mode always.

        BatchNorm's statistics are the pre-trained ones throughout (method.md, section 1).
        """
        super().train(False)
        self.training = mode
        for name in self._trainable:
            self.groups[name].train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def features(self, images_N3SS: Tensor) -> Tensor:
        """Backbone features [N, W], with dropout while the backbone trains.

        Align, which trains a projection on a frozen backbone, never drops out: its key leaves dropout out.
        """
        features_NW = self.backbone(images_N3SS)
        assert isinstance(features_NW, Tensor)
        if self.dropout == 0.0 or not (self.training and "backbone" in self._trainable):
            return features_NW
        if self._shared_rows == 0:
            return F.dropout(features_NW, self.dropout)
        return features_NW * self._next_noise(features_NW)

    def share_dropout(self, num_images: int) -> None:
        """The next training passes are the pieces of one batch of so many images: they share one draw of dropout."""
        self._shared_rows, self._shared_noise = num_images, None

    def _next_noise(self, features_NW: Tensor) -> Tensor:
        """This piece's rows of what dropout multiplies the whole batch by; after the last piece all is as before."""
        if self._shared_noise is None:
            self._shared_noise = F.dropout(features_NW.new_ones(self._shared_rows, features_NW.shape[1]), self.dropout)
        noise, self._shared_noise = self._shared_noise.tensor_split([len(features_NW)])
        if len(self._shared_noise) == 0:
            self._shared_rows, self._shared_noise = 0, None
        return noise

    def forward(self, images_N3SS: Tensor) -> Tensor:
        """Un-normalised embeddings [N, D], or class logits [N, C] with a classifier."""
        outputs: Tensor = self.head(self.features(images_N3SS))
        return outputs


def build_student(
    hyperparameters: Hyperparameters,
    method_head: Head,
    *,
    embedding_dim: int,
    num_classes: int,
    image_size: int,
    teacher: Teacher | None,
    seed: int,
) -> Student:
    """Build a student on the CPU: its weights depend on the arguments and weight files alone, not on the global RNG.

    `method_head` `none` takes the teacher's own image encoder (VL2V-SD); the hyperparameters' student is not looked at.

    Raises:
        UserError: the student or its weights cannot be had, the teacher is a black box, or dimensions do not fit.
    """
    if method_head == "none":
        if teacher is None:
            raise ValueError("self-distillation needs the teacher, whose image encoder is the student")
        backbone, width = teacher.image_encoder()
        if width != embedding_dim:
            raise UserError(f"the teacher's image encoder gives {width} dimensions, its texts have {embedding_dim}")
        student = Student(
            backbone=backbone.cpu(), head=nn.Identity(), head_name="none", dropout=hyperparameters.dropout
        )
    else:
        backbone, width = build_backbone(
            hyperparameters.student, hyperparameters.student_weights, image_size=image_size, seed=seed
        )
        outputs = embedding_dim if method_head == "projection" else num_classes
        with seeded(seed, method_head):
            head = nn.Linear(width, outputs)
        student = Student(backbone=backbone, head=head, head_name=method_head, dropout=hyperparameters.dropout)
    return student
