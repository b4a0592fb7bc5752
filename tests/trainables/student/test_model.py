"""The student: groups that freeze as a whole, BatchNorm in eval mode, deterministic initialisation, storage."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import nn

from search_spaces.errors import UserError
from search_spaces.hyperparameters import Hyperparameters
from trainables.storage.fold_folder import FoldFolder
from trainables.storage.json_files import write_json
from trainables.student.model import Student, build_student
from trainables.student.storage import load_student, save_student, student_bytes
from trainables.teacher.open import open_teacher

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def build(head: Literal["projection", "none", "classifier"], student: str = "resnet18", *, seed: int = 0) -> Student:
    teacher = open_teacher("open_clip:vl2v-tiny:random:0", image_size=32) if head == "none" else None
    return build_student(
        Hyperparameters(student=student, student_weights="random", dropout=0.0),
        head,
        embedding_dim=32,
        num_classes=7,
        image_size=32,
        teacher=teacher,
        seed=seed,
    )


@pytest.mark.parametrize(("head", "outputs"), [("projection", 32), ("classifier", 7), ("none", 32)])
def test_outputs_and_groups(head: Any, outputs: int) -> None:
    student = build(head)
    assert student(IMAGES).shape == (4, outputs)
    assert set(student.groups) == {"backbone", head} - {"none"}
    grouped = sum(len(list(module.parameters())) for module in student.groups.values())
    assert grouped == len(list(student.parameters()))
    if head != "none":
        assert isinstance(student.head, nn.Linear)
        assert student.head.bias is not None
        assert student.head.in_features == 512


def test_embeddings_are_not_normalised() -> None:
    norms = build("projection")(IMAGES).norm(dim=1)
    assert not torch.allclose(norms, torch.ones(4), atol=0.05)


def test_frozen_groups_get_no_gradient_and_do_not_move() -> None:
    student = build("projection").train()
    student.set_trainable(["projection"])
    before = {name: value.clone() for name, value in student.state_dict().items()}
    optimiser = torch.optim.Adam([p for p in student.parameters() if p.requires_grad], lr=0.1)
    student(IMAGES).square().mean().backward()
    optimiser.step()
    assert all(parameter.grad is None for parameter in student.backbone.parameters())
    moved = {name for name, value in student.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"head.weight", "head.bias"}
    student.set_trainable(["backbone"])
    assert all(parameter.grad is None for parameter in student.parameters())
    student(IMAGES).square().mean().backward()
    assert student.head.weight.grad is None
    assert all(parameter.grad is not None for parameter in student.backbone.parameters())


@pytest.mark.parametrize("trainable", [["projection"], ["backbone"], ["backbone", "projection"]])
def test_frozen_groups_and_every_batchnorm_stay_in_eval_mode(trainable: list[str]) -> None:
    student = build("projection")
    student.set_trainable(trainable)
    student.train()
    assert student.training
    assert student.backbone.training is ("backbone" in trainable)
    assert student.head.training is ("projection" in trainable)
    norms = [module for module in student.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 20
    statistics = [norm.running_mean.clone() for norm in norms if norm.running_mean is not None]
    student(IMAGES)
    assert all(not norm.training for norm in norms)
    assert all(torch.equal(norm.running_mean, old) for norm, old in zip(norms, statistics, strict=True))
    student.eval()
    assert not any(module.training for module in student.modules())


def test_set_trainable_keeps_the_mode_and_knows_its_groups() -> None:
    student = build("projection").train()
    student.set_trainable(["projection"])
    assert not student.backbone.training
    student.set_trainable(["backbone"])
    assert student.backbone.training
    assert student.trainable == {"backbone"}
    with pytest.raises(ValueError, match="classifier"):
        student.set_trainable(["classifier"])


def test_features_drop_out_only_while_the_backbone_trains() -> None:
    student = Student(backbone=nn.Flatten(), head=nn.Linear(3072, 2), head_name="projection", dropout=0.5).train()
    ones = torch.ones(1, 3, 32, 32)
    dropped = student.features(ones)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    student.set_trainable(["projection"])
    assert torch.equal(student.features(ones), torch.ones(1, 3072))
    student.set_trainable(["backbone"])
    assert torch.equal(student.eval().features(ones), torch.ones(1, 3072))


def test_initialisation_follows_from_the_seed_alone() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = build("projection")
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert student_bytes(build("projection")) == student_bytes(first)
    other = build("projection", seed=1)
    assert not torch.equal(other.head.weight, first.head.weight)
    # The head does not depend on how many numbers the backbone drew.
    small = build("classifier", student="resnet26d"), build("classifier", student="resnet50")
    assert torch.equal(small[0].head.weight, small[1].head.weight)


def test_self_distillation_starts_from_the_teachers_image_encoder_and_leaves_the_teacher_alone() -> None:
    teacher = open_teacher("open_clip:vl2v-tiny:random:0", image_size=32)
    before = teacher.embed_images(IMAGES)
    student = build("none").train()
    torch.testing.assert_close(torch.nn.functional.normalize(student(IMAGES), dim=-1).detach(), before)
    optimiser = torch.optim.Adam(student.parameters(), lr=0.1)
    student(IMAGES).square().sum().backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
    optimiser.step()
    assert torch.equal(teacher.embed_images(IMAGES), before)
    assert isinstance(student.head, nn.Identity)


def test_saved_weights_come_back_bit_for_bit(tmp_path: Path) -> None:
    student, path = build("projection"), tmp_path / "deep" / "student.safetensors"
    save_student(student, path)
    again = build("projection", seed=9)
    load_student(again, path)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in student.state_dict().items())
    assert path.read_bytes() == student_bytes(again)
    assert [file.name for file in path.parent.iterdir()] == ["student.safetensors"]
    with pytest.raises(UserError, match=r"student.safetensors.*do not fit.*head.weight"):
        load_student(build("classifier"), path)


def test_weights_that_are_not_those_of_the_result_are_refused(tmp_path: Path) -> None:
    student, folder = build("projection"), FoldFolder(tmp_path)
    save_student(student, folder.student)
    write_json(folder.result, {"student_sha256": hashlib.sha256(folder.student.read_bytes()).hexdigest()})
    load_student(build("projection", seed=9), folder.student)
    content = bytearray(folder.student.read_bytes())
    content[-100] ^= 1
    folder.student.write_bytes(content)
    with pytest.raises(UserError, match=r"is damaged \(its SHA-256 is not the one in result.json\)"):
        load_student(student, folder.student)
