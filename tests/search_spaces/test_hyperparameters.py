"""What hyperparameters refuse, and what a key depends on: everything that changes a result, and nothing else."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields, replace
from math import inf, nan
from typing import Any

import pytest

from search_spaces.errors import UserError
from search_spaces.folds import Fold
from search_spaces.hyperparameters import (
    FoldSpec,
    Hyperparameters,
    Resources,
    Speed,
    StageHyperparameters,
    Swad,
    check_shows_no_secret,
    check_teacher_mode,
    content_key,
    fold_spec_from_mapping,
)

SPEC = FoldSpec(
    fold=Fold(benchmark="PACS", test_domains=("photo", "sketch"), seed=3),
    method="vl2v_adip",
    hyperparameters=Hyperparameters(
        image_weight=0.3,
        align=StageHyperparameters(lr=2e-4, weight_decay=0.1, num_steps=7),
        distill=StageHyperparameters(lr=3e-5, num_steps=11),
        swad=Swad(num_converge=2, num_tolerate=5, tolerance_ratio=0.25),
        student_weights="a.safetensors",
        teacher="open_clip:ViT-B-16:t.pt",
        teacher_mode="views:4",
    ),
    data_manifest="m",
)

OTHERS: dict[str, Any] = {
    "image_weight": 0.31,
    "batch_size_per_domain": 31,
    "align": StageHyperparameters(lr=2e-4, weight_decay=0.2, num_steps=7),
    "distill": StageHyperparameters(lr=3e-5, num_steps=12),
    "swad": Swad(num_converge=2, num_tolerate=5, tolerance_ratio=0.26),
    "evaluate_every": 9,
    "eval_batch_size": 9,
    "image_size": 96,
    "student": "small",
    "student_weights": "random",
    "teacher": "demo",
    "teacher_mode": "views:5",
    "dropout": 0.1,
    "kd_temperature": 2.0,
    "precision": "bf16",
    "speed": Speed(fused_adam=True),
}
"""Another value for every hyperparameter."""


@pytest.mark.parametrize(
    ("kind", "name", "refused", "allowed"),
    [
        (StageHyperparameters, "lr", (0.0, -1.0, inf, nan), (1e-9, 3.0)),
        (StageHyperparameters, "weight_decay", (-1e-9, inf, nan), (0.0, 0.5)),
        (StageHyperparameters, "num_steps", (0, -2), (1, None)),
        (Swad, "segments", ("never", ""), ("every_evaluation", "authors", "off")),
        (Swad, "num_converge", (0, -1), (1,)),
        (Swad, "num_tolerate", (0, -1), (1,)),
        (Swad, "tolerance_ratio", (-0.01, inf, nan), (0.0, 2.0)),
        (Hyperparameters, "image_weight", (-0.01, 1.01, nan), (0.0, 1.0)),
        (Hyperparameters, "batch_size_per_domain", (0, -1), (1,)),
        (Hyperparameters, "evaluate_every", (0,), (1, None)),
        (Hyperparameters, "eval_batch_size", (0,), (1, None)),
        (Hyperparameters, "image_size", (0,), (1, None)),
        (Hyperparameters, "dropout", (-0.01, 1.0, nan), (0.0, 0.99)),
        (Hyperparameters, "kd_temperature", (0.0, -1.0, inf, nan), (0.01,)),
        (Hyperparameters, "precision", ("fp16",), ("fp32", "bf16")),
        (Hyperparameters, "teacher_mode", ("views", "views:0", "views:x", "views:-1", "frames:2", ""), ("live",)),
        (Hyperparameters, "teacher", ("remote:http://host?token=1",), ("remote:http://host",)),
        (Resources, "workers", (0,), (1,)),
        (Resources, "threads_per_worker", (0,), (1,)),
        (Resources, "batch_pieces", (0,), (1,)),
        (Resources, "teacher_requests", (0,), (1,)),
        (Resources, "gpus_per_worker", (-0.1, inf), (0.0, 0.25)),
        (Resources, "cpus_per_worker", (-0.1, inf), (0.0, 0.5)),
        (Resources, "loader_processes", (-1,), (0,)),
        (Resources, "decode_cache_mb", (-1,), (0,)),
        (Resources, "teacher_timeout_s", (0.0, inf), (0.1,)),
        (Resources, "teacher_patience_s", (0.0, inf), (0.1,)),
        (Resources, "swad_device", ("gpu",), ("same", "cpu")),
    ],
)
def test_nonsense_is_refused_in_one_line_and_its_neighbour_is_not(
    kind: Any, name: str, refused: tuple[Any, ...], allowed: tuple[Any, ...]
) -> None:
    for value in refused:
        with pytest.raises(UserError) as caught:
            kind(**{name: value})
        assert "\n" not in str(caught.value)
    for value in allowed:
        assert getattr(kind(**{name: value}), name) == value


@pytest.mark.parametrize(("mode", "views"), [("live", 0), ("clean", 1), ("views:1", 1), ("views:12", 12)])
def test_stored_views_of_a_teacher_mode(mode: str, views: int) -> None:
    assert check_teacher_mode(mode) == views


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ("remote:https://host/v1?token=1", "query string"),
        ("remote:https://host/v1#1", "fragment"),
        ("remote:https://user:word@host/v1", "password"),
    ],
)
def test_a_remote_teachers_address_has_no_room_for_a_secret(teacher: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        check_shows_no_secret(teacher)
    assert "host" not in str(caught.value)
    check_shows_no_secret("remote:https://host/v1/@teachers")
    check_shows_no_secret("open_clip:ViT-B-16:/data/a?b#c@d")


def test_faster_arithmetic_is_named() -> None:
    assert str(Speed()) == "exact"
    assert str(Speed(compile=True, fused_adam=True)) == "compile, fused_adam"


def test_every_hyperparameter_is_in_the_key_and_aligns_own_are_in_aligns() -> None:
    assert OTHERS.keys() == {field.name for field in fields(Hyperparameters)}
    for name, value in OTHERS.items():
        other = replace(SPEC, hyperparameters=replace(SPEC.hyperparameters, **{name: value}))
        assert other.key != SPEC.key, name
        after_align = name in ("distill", "swad", "dropout", "kd_temperature")
        assert (other.align_key == SPEC.align_key) is after_align, name


def test_what_a_fold_reads_is_in_both_keys_and_the_method_in_one() -> None:
    changes: dict[str, Any] = {
        "fold": Fold(benchmark="PACS", test_domains=("photo", "sketch"), seed=4),
        "data_manifest": "n",
        "teacher_fingerprint": "t",
        "student_fingerprint": "s",
        "trainer_version": "0",
    }
    for name, value in changes.items():
        other = replace(SPEC, **{name: value})
        assert other.key != SPEC.key, name
        assert other.align_key != SPEC.align_key, name
    other = replace(SPEC, method="erm")
    assert other.key != SPEC.key
    assert other.align_key == SPEC.align_key


@pytest.mark.parametrize(
    ("fingerprint", "name", "moved"),
    [("teacher_fingerprint", "teacher", "open_clip:b"), ("student_fingerprint", "student_weights", "b.safetensors")],
)
def test_a_weights_file_counts_by_content_once_that_is_known(fingerprint: str, name: str, moved: str) -> None:
    known = replace(SPEC, **{fingerprint: "f" * 64})
    elsewhere = replace(known, hyperparameters=replace(known.hyperparameters, **{name: moved}))
    assert elsewhere.key == known.key
    assert elsewhere.align_key == known.align_key
    assert replace(elsewhere, **{fingerprint: ""}).key != replace(known, **{fingerprint: ""}).key


def test_keys_stay_what_they_are_on_users_disks() -> None:
    """A key is a folder's name: another one orphans every fold that was ever trained."""
    text = '{"a":[1.5,null,"\\u00e9"],"b":{"c":1,"d":true}}'
    content = {"b": {"d": True, "c": 1}, "a": [1.5, None, "é"]}
    assert content_key(content) == hashlib.sha256(text.encode()).hexdigest()
    with pytest.raises(ValueError, match="JSON"):
        content_key({"a": nan})
    assert (SPEC.key[:16], SPEC.align_key[:16]) == ("e7515febef8e3294", "e1eeae63e1c94bf4")


def test_a_spec_survives_the_border_as_plain_values() -> None:
    assert fold_spec_from_mapping(json.loads(json.dumps(SPEC.to_mapping()))) == SPEC
