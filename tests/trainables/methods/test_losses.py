"""The losses against the reference implementation's numbers, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from search_spaces.hyperparameters import Hyperparameters
from tests.support.golden import golden_json, golden_path
from trainables.methods.losses import distillation_loss, vl2v_loss
from trainables.methods.recipes import METHODS, StepTensors

TOLERANCES = {torch.float64: (1e-10, 0.0), torch.float32: (1e-5, 2e-6)}


def _inputs(case: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    arrays = np.load(golden_path("loss.npz"))
    return tuple(torch.tensor(arrays[f"{case}/{name}"], dtype=dtype) for name in ("feat", "img", "txt"))  # type: ignore[return-value]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_equal_the_reference(dtype: torch.dtype) -> None:
    suffix = {torch.float32: "f32", torch.float64: "f64"}[dtype]
    relative, absolute = TOLERANCES[dtype]
    rows = golden_json("loss.json")["vl2v_loss"]
    assert rows
    for row in rows:
        student, image, text = _inputs(row["case"], dtype)
        plain = vl2v_loss(student, image, text, row["lmd"]).item()
        normalised = vl2v_loss(torch.nn.functional.normalize(student, dim=-1), image, text, row["lmd"]).item()
        assert math.isclose(plain, row[f"loss_{suffix}"], rel_tol=relative, abs_tol=absolute), row
        assert math.isclose(normalised, row[f"loss_norm_{suffix}"], rel_tol=relative, abs_tol=absolute), row


def test_gradients_equal_the_reference() -> None:
    arrays = np.load(golden_path("loss.npz"))
    for row in golden_json("loss.json")["vl2v_loss"]:
        prefix = f"{row['case']}/lmd{row['lmd']}"
        tensors = [tensor.requires_grad_() for tensor in _inputs(row["case"], torch.float64)]
        vl2v_loss(*tensors, row["lmd"]).backward()
        for tensor, name in zip(tensors, ("dproj", "dimg", "dtxt"), strict=True):
            expected = torch.tensor(arrays[f"{prefix}/{name}_f64"])
            torch.testing.assert_close(tensor.grad, expected, rtol=1e-8, atol=1e-12)
        for dtype, tolerance in ((torch.float64, (1e-8, 1e-12)), (torch.float32, (1e-5, 2e-6))):
            student, image, text = _inputs(row["case"], dtype)
            student.requires_grad_()
            vl2v_loss(torch.nn.functional.normalize(student, dim=-1), image, text, row["lmd"]).backward()
            suffix = {torch.float32: "f32", torch.float64: "f64"}[dtype]
            expected = torch.tensor(arrays[f"{prefix}/dfeat_norm_{suffix}"])
            torch.testing.assert_close(student.grad, expected, rtol=tolerance[0], atol=tolerance[1])


@pytest.mark.parametrize("method", ["vl2v_adip", "vl2v_sd"])
def test_every_stage_takes_the_text_of_each_images_true_class(method: str) -> None:
    """The golden `txt_feat` holds the text of each image's class, as the reference hands it to its loss."""
    arrays = np.load(golden_path("zero_shot_head.npz"))
    for head in golden_json("zero_shot_head.json")["heads"]:
        feats, image, text, labels, texts = (
            torch.from_numpy(arrays[f"{head['key']}/{name}"])
            for name in ("feats", "img_feat", "txt_feat", "labels", "zeroshot_weights")
        )
        step = StepTensors(
            outputs=feats,
            labels=labels.long(),
            texts=texts,
            teacher_images=image,
            logit_scale=head["logit_scale_exp_f32"],
        )
        for stage in METHODS[method].stages:
            loss = stage.loss(step, Hyperparameters(image_weight=0.3)).item()
            assert loss == pytest.approx(vl2v_loss(feats, image, text, 0.3).item(), rel=1e-5, abs=2e-6)


def test_the_weight_weighs_the_image_term() -> None:
    student, image, text = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert vl2v_loss(student, image, text, 0.9).item() == pytest.approx(-0.9)
    assert vl2v_loss(student, image, text, 0.0).item() == pytest.approx(0.0)


def test_distillation_by_hand() -> None:
    logits, teacher = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    log_softmax = [2.0 - math.log(math.exp(2.0) + 1.0), -math.log(math.exp(2.0) + 1.0)]
    divergence = sum(0.5 * (math.log(0.5) - log_q) for log_q in log_softmax)
    expected = -log_softmax[0] + divergence
    assert distillation_loss(logits, teacher, torch.tensor([0]), 1.0).item() == pytest.approx(expected, rel=1e-6)


def test_temperature_enters_squared() -> None:
    """At high T both distributions flatten; T^2 keeps the gradient's size (Hinton et al. 2015)."""
    logits, teacher, label = torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 3.0]]), torch.tensor([0])
    cross_entropy = torch.nn.functional.cross_entropy(logits, label).item()
    soft = distillation_loss(logits, teacher, label, 100.0).item() - cross_entropy
    assert soft == pytest.approx(2.0, rel=1e-2)  # (z - v)^2 / (2 C) summed: (2^2 + 2^2) / (2 * 2)
