"""What a plan knows of each method."""

from __future__ import annotations

import pytest

from search_spaces.errors import UserError
from search_spaces.methods import METHODS, MethodFacts, method_facts, parse_methods

FACTS = {
    "vl2v_adip": "align distill, images texts, weight",
    "vl2v_sd": "distill, images texts, weight, teacher",
    "erm": "distill, asks nothing",
    "kd": "distill, images texts, temperature",
    "zero_shot": "images texts",
}


@pytest.mark.parametrize("name", sorted(METHODS))
def test_facts(name: str) -> None:
    facts = method_facts(name)
    asked = (facts.uses_teacher_images * ["images"]) + (facts.uses_teacher_texts * ["texts"])
    said = [
        " ".join(facts.stages),
        " ".join(asked) or "asks nothing",
        "weight" * facts.uses_image_weight,
        "temperature" * facts.uses_temperature,
        "teacher" * facts.student_is_teacher,
    ]
    assert facts.name == name
    assert facts.title
    assert ", ".join(part for part in said if part) == FACTS[name]
    assert facts.aligns is name.startswith("vl2v_adip")
    assert facts.asks is (name != "erm")
    assert facts.trains is (name != "zero_shot")


def test_methods_are_named_in_the_order_given_once_each() -> None:
    assert parse_methods(" kd,, erm , kd") == ("kd", "erm")
    with pytest.raises(UserError, match="no method named; allowed: erm, kd, vl2v_adip, vl2v_sd, zero_shot"):
        parse_methods(" ,")
    with pytest.raises(UserError, match="unknown method 'kdd'; nearest: kd"):
        method_facts("kdd")


@pytest.mark.parametrize(("images", "texts"), [(True, False), (False, True), (False, False)])
def test_a_method_that_asks_for_images_or_texts_asks(images: bool, texts: bool) -> None:
    facts = MethodFacts(name="n", title="t", stages=(), uses_teacher_images=images, uses_teacher_texts=texts)
    assert facts.asks is (images or texts)
