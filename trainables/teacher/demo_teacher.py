"""The demo teacher behind the `Teacher` protocol: a small dual encoder for drawings that travels with the package."""

from __future__ import annotations

import json
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.errors import UserError
from trainables.state_dicts import load_strictly
from trainables.teacher.demo import CLASS_PROMPTS, TEACHER_WEIGHTS
from trainables.teacher.demo.network import DemoImageTower
from trainables.weights import read_weights, seeded


class DemoTeacher:
    """Its image tower runs; its text side is a table of the benchmark's class prompts."""

    name = "demo"

    def __init__(
        self,
        *,
        device: torch.device | str = "cpu",
        weights_file: Path = TEACHER_WEIGHTS,
        prompts_file: Path = CLASS_PROMPTS,
    ) -> None:
        self._device = torch.device(device)
        self._weights_file = weights_file
        self._texts = _read_prompts(prompts_file)
        self._tower = self._fresh_tower().eval().requires_grad_(False)
        self.logit_scale = float(self._tower.logit_scale.exp())
        self.embedding_dim = int(next(iter(self._texts.values())).shape[0])

    def embed_images(self, images_N3HW: Tensor) -> Tensor:
        """L2-normalised image embeddings [N, D], float32, on the teacher's device."""
        with torch.inference_mode():
            embeddings_ND = F.normalize(self._tower(images_N3HW.to(self._device, torch.float32)), dim=-1)
        # An inference tensor cannot take part in a loss; its copy can.
        return embeddings_ND.clone()

    def embed_texts(self, prompts: Sequence[str]) -> Tensor:
        """L2-normalised text embeddings [len(prompts), D] of the benchmark's own class prompts.

        Raises:
            UserError: a prompt is not in the table.
        """
        unknown = [prompt for prompt in prompts if prompt not in self._texts]
        if unknown:
            nearest = get_close_matches(unknown[0], self._texts, n=2)
            raise UserError(
                f"the demo teacher knows the texts of the icons benchmark alone, not {unknown[0]!r} "
                f"(nearest: {', '.join(nearest) or 'none'}); other classes need an open_clip teacher"
            )
        rows = [self._texts[prompt] for prompt in prompts]
        return torch.stack(rows).to(self._device) if rows else torch.zeros(0, self.embedding_dim, device=self._device)

    def image_encoder(self) -> tuple[nn.Module, int]:
        """A fresh trainable copy of the image tower, and D."""
        encoder = self._fresh_tower()
        # It stands outside the tower's graph; a trained parameter without a gradient would stop DDP.
        del encoder.logit_scale
        return encoder.requires_grad_(True), self.embedding_dim

    def _fresh_tower(self) -> DemoImageTower:
        with seeded(0, "teacher"):
            tower = DemoImageTower()
        load_strictly(tower, read_weights(self._weights_file), what=f"demo teacher ({self._weights_file.name})")
        return tower.float().to(self._device)


def _read_prompts(file: Path) -> dict[str, Tensor]:
    """Text embedding [D] of every prompt in the table, L2-normalised float32."""
    from safetensors import safe_open

    if not file.is_file():
        raise UserError(f"no class prompts {file}")
    with safe_open(file, framework="pt") as opened:
        names = json.loads((opened.metadata() or {})["prompts"])
        embeddings_CD = F.normalize(opened.get_tensor("text_embeddings").float(), dim=-1)
    return dict(zip(names, embeddings_CD, strict=True))
