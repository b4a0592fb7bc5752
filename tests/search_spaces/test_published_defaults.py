"""The published benchmarks, protocol and ranges, as numbers written here: whoever changes a default sees it fail.

Sources: the authors' public code, DomainBed's folders and counts, and the papers' tables.
"""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from search_spaces.benchmarks import BENCHMARKS, HEADLINE, steps_and_interval
from search_spaces.hyperparameters import Hyperparameters
from search_spaces.spaces import apply_point, search_space
from search_spaces.sweeps import headline, sweep_from_mapping

FOLDERS = {
    "PACS": "PACS",
    "VLCS": "VLCS",
    "OfficeHome": "office_home",
    "TerraIncognita": "terra_incognita",
    "DomainNet": "domain_net",
}

DOMAINS = {
    "PACS": {"A art_painting": 2048, "C cartoon": 2344, "P photo": 1670, "S sketch": 3929},
    "VLCS": {"C Caltech101": 1415, "L LabelMe": 2656, "S SUN09": 3282, "V VOC2007": 3376},
    "OfficeHome": {"A Art": 2427, "C Clipart": 4365, "P Product": 4439, "R Real World": 4357},
    "TerraIncognita": {
        "L100 location_100": 4879, "L38 location_38": 9767, "L43 location_43": 4020, "L46 location_46": 6122,
    },
    "DomainNet": {
        "clip clipart": 48129, "info infograph": 51605, "paint painting": 72266, "quick quickdraw": 172500,
        "real real": 172947, "sketch sketch": 69128,
    },
}  # fmt: skip
"""DomainBed's letter and folder of each domain, in byte order of the folders, and its images."""

TOTALS = {"PACS": 9991, "VLCS": 10729, "OfficeHome": 15588, "TerraIncognita": 24788, "DomainNet": 586575}
NUM_CLASSES = {"PACS": 7, "VLCS": 5, "OfficeHome": 65, "TerraIncognita": 10, "DomainNet": 345}

CLASSES = {
    "PACS": "dog elephant giraffe guitar horse house person",
    "VLCS": "bird car chair dog person",
    "TerraIncognita": "bird bobcat cat coyote dog empty opossum rabbit raccoon squirrel",
}

STEPS_INTERVAL_EVALUATION_BATCH = {
    "PACS": (5001, 200, 128),
    "VLCS": (5001, 200, 128),
    "OfficeHome": (5001, 200, 128),
    "TerraIncognita": (5001, 200, 128),
    "DomainNet": (15001, 1000, 64),
}

PROTOCOL: dict[str, Any] = {
    "image_weight": 0.5,
    "batch_size_per_domain": 32,
    "align": {"lr": 5e-5, "weight_decay": 0.0, "num_steps": None},
    "distill": {"lr": 5e-5, "weight_decay": 0.0, "num_steps": None},
    "swad": {"segments": "every_evaluation", "num_converge": 3, "num_tolerate": 6, "tolerance_ratio": 0.3},
    "evaluate_every": None,
    "eval_batch_size": None,
    "image_size": None,
    "student": "vit_base_patch16_224",
    "student_weights": "pretrained",
    "teacher": "open_clip:ViT-B-16-quickgelu:openai",
    "teacher_mode": "live",
    "dropout": 0.0,
    "kd_temperature": 1.0,
    "precision": "fp32",
    "speed": {"compile": False, "channels_last": False, "fused_adam": False},
}
"""None is the benchmark's own number. An option that is added later keeps the published numbers by default."""


def test_the_five_are_the_headline() -> None:
    assert HEADLINE == ("PACS", "VLCS", "OfficeHome", "TerraIncognita", "DomainNet")


@pytest.mark.parametrize("name", DOMAINS)
def test_folders_domains_images_and_classes(name: str) -> None:
    value = BENCHMARKS[name]
    assert (value.name, value.folder) == (name, FOLDERS[name])
    found = {f"{domain.letter} {domain.name}": domain.num_images for domain in value.domains}
    assert list(found.items()) == list(DOMAINS[name].items())
    assert all(domain.num_source_images is None for domain in value.domains), "every image serves in both roles"
    assert value.num_images == sum(DOMAINS[name].values()) == TOTALS[name]
    assert value.num_classes == len(set(value.class_names)) == NUM_CLASSES[name]
    assert " ".join(value.class_names) == CLASSES.get(name, " ".join(value.class_names))


@pytest.mark.parametrize("name", STEPS_INTERVAL_EVALUATION_BATCH)
def test_steps_intervals_batches_and_image_size(name: str) -> None:
    value = BENCHMARKS[name]
    found = (value.num_steps, value.evaluate_every, value.eval_batch_size)
    assert found == STEPS_INTERVAL_EVALUATION_BATCH[name]
    assert value.image_size == 224
    assert steps_and_interval(value.num_steps, value.evaluate_every) == found[:2], "all steps that are asked for run"


@pytest.mark.parametrize(
    ("asked", "every", "run"),
    [(5001, 200, 5001), (5000, 200, 5001), (4999, 200, 4801), (15001, 1000, 15001), (15001, 200, 15001), (199, 200, 1)],
)
def test_the_last_step_ends_on_an_evaluation(asked: int, every: int, run: int) -> None:
    assert steps_and_interval(asked, every) == (run, every)


def test_every_hyperparameter_has_its_published_default() -> None:
    assert asdict(Hyperparameters()) == PROTOCOL


@pytest.mark.parametrize("name", DOMAINS)
def test_no_sweep_over_a_published_benchmark_changes_a_default(name: str) -> None:
    plain = sweep_from_mapping({"sweep": {"benchmarks": [name], "methods": ["vl2v_adip"]}})
    for sweep in (headline(), plain):
        assert asdict(sweep.hyperparameters_for(name)) == PROTOCOL


def test_the_published_table() -> None:
    sweep = headline()
    assert sweep.benchmarks == ("PACS", "VLCS", "OfficeHome", "TerraIncognita", "DomainNet")
    assert sweep.methods == ("vl2v_sd", "vl2v_adip")
    assert sweep.all_methods == ("zero_shot", "vl2v_sd", "vl2v_adip")
    assert (sweep.space, sweep.trials, sweep.seeds) == ("paper", 1, 3)
    assert (sweep.scope, sweep.selection, sweep.pruner) == ("domain", "source_validation", "none")


@pytest.mark.parametrize("name", ["PACS", "VLCS", "OfficeHome", "TerraIncognita"])
def test_official_ranges_are_the_authors(name: str) -> None:
    found = search_space("official").distributions(BENCHMARKS[name], "vl2v_adip", Hyperparameters())
    lr = CategoricalDistribution((5e-6, 1e-5, 5e-5, 1e-4, 5e-4, 1e-3))
    decay = FloatDistribution(-6.0, -2.0)
    assert found == {
        "align.lr": lr,
        "align.log10_weight_decay": decay,
        "distill.lr": lr,
        "distill.log10_weight_decay": decay,
        "image_weight": CategoricalDistribution((0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)),
        "log2_batch_size_per_domain": FloatDistribution(3.0, 5.5),
    }


def test_domain_net_draws_smaller_batches_and_resnets_dropout() -> None:
    resnet = replace(Hyperparameters(), student="resnet50")
    space = search_space("official")
    found = space.distributions(BENCHMARKS["DomainNet"], "erm", resnet)
    assert found["log2_batch_size_per_domain"] == FloatDistribution(3.0, 5.0)
    assert found["dropout"] == CategoricalDistribution((0.0, 0.1, 0.5))
    assert "image_weight" not in found
    assert "dropout" not in space.distributions(BENCHMARKS["DomainNet"], "vl2v_sd", resnet)


def test_what_is_drawn_is_a_batch_and_a_weight_decay() -> None:
    point = {"log2_batch_size_per_domain": 5.49, "distill.log10_weight_decay": -3.0}
    found = apply_point(Hyperparameters(), point)
    assert found.batch_size_per_domain == math.floor(2**5.49) == 44
    assert found.distill.weight_decay == 1e-3
    assert found.align.weight_decay == 0.0
    ends = [
        apply_point(Hyperparameters(), {"log2_batch_size_per_domain": exponent}).batch_size_per_domain
        for exponent in (3.0, 5.0, 5.5)
    ]
    assert ends == [8, 32, 45]
    assert apply_point(Hyperparameters(), {"align.log10_weight_decay": -2.0}).align.weight_decay == 1e-2
