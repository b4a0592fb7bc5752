"""The demo teacher: its tower and its table of prompts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from search_spaces.errors import UserError
from trainables.data.icons import CLASSES
from trainables.teacher.demo.network import DemoImageTower
from trainables.teacher.demo_teacher import DemoTeacher
from trainables.teacher.open import open_teacher
from trainables.teacher.protocol import prompts

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def teacher(tmp_path: Path) -> DemoTeacher:
    """A demo teacher with random weights, stored as the packaged ones are."""
    torch.manual_seed(0)
    weights, texts = tmp_path / "tower.safetensors", tmp_path / "prompts.safetensors"
    save_file({name: value.half() for name, value in DemoImageTower().state_dict().items()}, weights)
    save_file(
        {"text_embeddings": torch.randn(2, 384)},
        texts,
        metadata={"prompts": json.dumps(["a photo of a bird", "a photo of a fruit or vegetable"])},
    )
    return DemoTeacher(weights_file=weights, prompts_file=texts)


def test_embeddings_are_normalised_float32_and_may_stand_in_a_loss(teacher: DemoTeacher) -> None:
    images_ND, texts_CD = teacher.embed_images(IMAGES), teacher.embed_texts(prompts(["bird", "fruit_or_vegetable"]))
    assert images_ND.shape == texts_CD.shape == (2, 384)
    assert teacher.embedding_dim == 384
    for embeddings in (images_ND, texts_CD):
        assert embeddings.dtype == torch.float32
        torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(2))
    student = torch.randn(2, 384, requires_grad=True)
    F.cosine_similarity(student, images_ND).mean().backward()
    assert teacher.logit_scale == pytest.approx(float(torch.tensor(3.0).exp()))


def test_an_unknown_prompt_is_one_line(teacher: DemoTeacher) -> None:
    with pytest.raises(UserError, match=r"not 'a photo of a bird house'.*nearest: a photo of a bird.*open_clip"):
        teacher.embed_texts(["a photo of a bird house"])


def test_image_encoder_is_a_fresh_copy_in_which_every_parameter_trains(teacher: DemoTeacher) -> None:
    before = teacher.embed_images(IMAGES)
    encoder, dimension = teacher.image_encoder()
    assert dimension == 384
    torch.testing.assert_close(F.normalize(encoder(IMAGES), dim=-1).detach(), before)
    encoder(IMAGES).sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.zero_()
    assert torch.equal(teacher.embed_images(IMAGES), before)


def test_a_damaged_tower_is_one_line(tmp_path: Path, teacher: DemoTeacher) -> None:
    save_file({"head.weight": torch.zeros(3)}, tmp_path / "broken.safetensors")
    with pytest.raises(UserError, match=r"broken.safetensors.*do not fit"):
        DemoTeacher(weights_file=tmp_path / "broken.safetensors", prompts_file=tmp_path / "prompts.safetensors")


def test_the_packaged_teacher_opens() -> None:
    packaged = open_teacher("demo", image_size=64)
    assert packaged.embed_texts(prompts(CLASSES)).shape == (len(CLASSES), 384)
    assert packaged.embed_images(IMAGES).shape == (2, 384)
    assert 1.0 < packaged.logit_scale < 200.0
