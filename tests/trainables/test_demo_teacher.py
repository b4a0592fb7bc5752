"""The demo teacher and the small student as shipped: their weights load, and the model card tells the truth."""

import json
import re

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn import functional as F

from trainables.data.icons import CLASSES, DOMAINS
from trainables.student.small import STUDENT_WEIGHTS
from trainables.student.small.network import FEATURE_WIDTH, SmallStudent
from trainables.teacher.demo import CLASS_PROMPTS, TEACHER_WEIGHTS, class_prompt
from trainables.teacher.demo.evaluate import load_demo_tower, zero_shot_accuracy
from trainables.teacher.demo.iconify import clean_caption, shows_a_thing
from trainables.teacher.demo.network import EMBEDDING_SIZE, DemoImageTower

CHANCE = 1 / len(CLASSES)


@pytest.fixture(scope="module")
def tower() -> DemoImageTower:
    return load_demo_tower()


def test_teacher_weights_are_half_precision_and_small() -> None:
    weights = load_file(TEACHER_WEIGHTS)
    assert {value.dtype for value in weights.values()} == {torch.float16}
    assert TEACHER_WEIGHTS.stat().st_size < 4e6
    assert weights["logit_scale"].ndim == 0


def test_class_prompts_are_unit_vectors_in_class_order() -> None:
    embeddings_CD = load_file(CLASS_PROMPTS)["text_embeddings"]
    assert embeddings_CD.shape == (len(CLASSES), EMBEDDING_SIZE)
    torch.testing.assert_close(embeddings_CD.norm(dim=1), torch.ones(len(CLASSES)))
    with safe_open(CLASS_PROMPTS, "pt") as file:
        assert json.loads(file.metadata()["prompts"]) == [class_prompt(name) for name in CLASSES]
    assert class_prompt("fruit_or_vegetable") == "a photo of a fruit or vegetable"


def test_an_embedding_does_not_depend_on_the_rest_of_the_batch(tower: DemoImageTower) -> None:
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert F.cosine_similarity(tower(images)[:1], tower(images[:1])).item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("domain", DOMAINS)
def test_zero_shot_accuracy_is_that_of_the_model_card(tower: DemoImageTower, domain: str) -> None:
    card = TEACHER_WEIGHTS.with_name("MODEL_CARD.md").read_text("utf-8")
    row = re.search(rf"^\| `{domain}` \|(.+)\|$", card, re.MULTILINE)
    assert row is not None
    stated = [float(cell) for cell in row[1].split("|")[:4]]
    whole, test = zero_shot_accuracy(tower, domain, "all"), zero_shot_accuracy(tower, domain, "test")
    assert [whole.plain, whole.balanced, test.plain, test.balanced] == pytest.approx(stated, abs=0.01)
    assert min(whole.balanced, test.balanced) > 2 * CHANCE


def test_student_weights_load() -> None:
    weights = load_file(STUDENT_WEIGHTS)
    assert {value.dtype for value in weights.values()} == {torch.float16}
    student = SmallStudent()
    student.load_state_dict({name: value.float() for name, value in weights.items()})
    with torch.inference_mode():
        features = student(torch.zeros(2, 3, 64, 64))
    assert features.shape == (2, FEATURE_WIDTH)
    assert features.isfinite().all()


def test_captions_are_words_of_what_is_shown() -> None:
    assert clean_caption("outline-shopping-cart-24-filled") == "shopping cart"
    assert clean_caption("24") == "24"
    assert shows_a_thing("alarm clock")
    assert not shows_a_thing("chevron left")
    assert not shows_a_thing("24")
