"""The zero-shot head against numbers of the reference implementation, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.support.golden import golden_json, golden_path
from trainables.teacher.protocol import average_templates, class_texts, prompts, zero_shot_logits


def test_golden_heads() -> None:
    arrays = np.load(golden_path("zero_shot_head.npz"))
    heads = golden_json("zero_shot_head.json")["heads"]
    assert heads
    for head in heads:
        key, scale = head["key"], head["logit_scale_exp_f32"]
        assert float(torch.tensor(head["logit_scale_param"]).exp()) == pytest.approx(scale, rel=1e-6)
        texts_CD = average_templates(torch.from_numpy(arrays[f"{key}/text_raw"]))
        assert texts_CD.shape == (head["num_classes"], head["dim"])
        np.testing.assert_allclose(scale * texts_CD, arrays[f"{key}/zeroshot_weights"], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose((scale * texts_CD).norm(dim=1), head["weight_row_norms"], rtol=1e-6)
        logits_NC = zero_shot_logits(torch.from_numpy(arrays[f"{key}/feats"]), texts_CD, scale)
        np.testing.assert_allclose(logits_NC, arrays[f"{key}/logits"], rtol=1e-4, atol=1e-4)
        assert logits_NC.argmax(dim=1).tolist() == head["argmax"]


def test_the_texts_of_the_golden_updates() -> None:
    arrays, scale = np.load(golden_path("updates_data.npz")), golden_json("updates.json")["logit_scale_exp"]
    texts_CD = average_templates(torch.from_numpy(arrays["teacher_txt_raw"]))
    np.testing.assert_allclose(scale * texts_CD, arrays["zeroshot_weights"], rtol=1e-4, atol=1e-4)


def test_golden_prompts() -> None:
    for head in golden_json("zero_shot_head.json")["heads"]:
        assert [[prompt] for prompt in prompts(head["class_names"])] == head["prompts"]
    updates = golden_json("updates.json")
    assert [[prompt] for prompt in prompts(updates["class_names"])] == updates["prompts_per_class"]


def test_several_templates_are_normalised_before_and_after_averaging() -> None:
    raw_CTD = torch.tensor([[[3.0, 0.0], [0.0, 100.0]], [[0.0, 0.5], [0.0, 7.0]]])
    expected_CD = torch.tensor([[0.5**0.5, 0.5**0.5], [0.0, 1.0]])
    torch.testing.assert_close(average_templates(raw_CTD), expected_CD)


def test_logits_do_not_depend_on_the_length_of_the_features() -> None:
    features_ND, texts_CD = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    torch.testing.assert_close(zero_shot_logits(features_ND, texts_CD, 10.0), torch.tensor([[6.0, 8.0]]))


class _Letters:
    """Embeds a prompt by (number of letters, 1); counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def embed_texts(self, prompts: list[str]) -> torch.Tensor:
        self.asked += prompts
        return torch.nn.functional.normalize(torch.tensor([[float(len(prompt)), 1.0] for prompt in prompts]), dim=-1)


def test_class_texts_asks_every_template_once() -> None:
    teacher = _Letters()
    texts_CD = class_texts(teacher, ["a_b", "c"], ("{}", "a {}!"))  # type: ignore[arg-type]
    assert teacher.asked == ["a b", "c", "a a b!", "a c!"]
    torch.testing.assert_close(texts_CD.norm(dim=1), torch.ones(2))
