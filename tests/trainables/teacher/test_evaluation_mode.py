"""A teacher answers in evaluation mode: what drops out while it trains never does when it is asked."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from trainables.teacher.demo_teacher import DemoTeacher
from trainables.teacher.open import open_teacher

ARCHITECTURE = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8, "patch_dropout": 0.5,
    },
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}  # fmt: skip


def test_an_open_clip_teacher_keeps_every_patch(tmp_path: Path) -> None:
    file = tmp_path / "drops-patches.json"
    file.write_text(json.dumps(ARCHITECTURE))
    teacher = open_teacher(f"open_clip:{file}:random:0", image_size=32)
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    first = teacher.embed_images(images)
    assert torch.equal(teacher.embed_images(images), first)
    encoder, _ = teacher.image_encoder()
    with torch.no_grad():
        drawn = torch.nn.functional.normalize(encoder.train()(images), dim=-1)
    assert not torch.allclose(drawn, first, atol=1e-3), "this architecture does drop patches while it trains"
    assert torch.equal(teacher.embed_images(images), first), "the student's copy has a mode of its own"


def test_the_demo_teacher_is_in_evaluation_mode() -> None:
    assert not any(module.training for module in DemoTeacher()._tower.modules())
