"""Sweeps, recipes and configuration files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from search_spaces.claims import headline_claims, published, published_row
from search_spaces.errors import UserError
from search_spaces.hyperparameters import Hyperparameters
from search_spaces.methods import parse_methods
from search_spaces.sweeps import (
    Sweep,
    demo,
    headline,
    load_config,
    override_config,
    resources_from_mapping,
    smoke,
    sweep_from_mapping,
)


@pytest.mark.parametrize("recipe", [headline, smoke, demo])
def test_a_recipe_survives_the_round_trip(recipe: object) -> None:
    assert callable(recipe)
    sweep = recipe()
    again = sweep_from_mapping(sweep.to_mapping())
    assert again == sweep
    assert again.key == sweep.key


def test_the_key_follows_everything_but_the_name() -> None:
    config = load_config("smoke")
    key = sweep_from_mapping(config).key
    assert sweep_from_mapping(override_config(config, ["sweep.name=other"])).key == key
    for override in (
        "sweep.seeds=2",
        "distill.lr=1e-3",
        "sweep.scope=benchmark",
        "benchmark_hyperparameters.PACS.dropout=.1",
    ):
        assert sweep_from_mapping(override_config(config, [override])).key != key, override


def test_the_selection_leaves_the_key_alone_so_that_one_folder_serves_every_selection() -> None:
    config = load_config("demo")
    changed = sweep_from_mapping(override_config(config, ["sweep.selection=leave_one_domain_out"]))
    assert changed.selection == "leave_one_domain_out"
    assert changed.key == sweep_from_mapping(config).key
    with pytest.raises(UserError, match="a sweep never chooses by test-domain numbers"):
        sweep_from_mapping(override_config(config, ["sweep.selection=oracle"]))


def test_what_a_sweep_recorded_is_a_configuration(tmp_path: Path) -> None:
    sweep = sweep_from_mapping(override_config(load_config("demo"), ["distill.lr=0.01", "sweep.seeds=3"]))
    recorded = {"key": sweep.key, "trainer_version": "1", "manifests": {}, "groups": [], **sweep.to_mapping()}
    (tmp_path / "sweep.json").write_text(json.dumps(recorded))
    assert sweep_from_mapping(load_config(str(tmp_path / "sweep.json"))) == sweep
    del recorded["groups"]
    (tmp_path / "sweep.json").write_text(json.dumps(recorded))
    with pytest.raises(UserError, match="unknown section of the configuration 'key'"):
        sweep_from_mapping(load_config(str(tmp_path / "sweep.json")))


def test_a_sweep_keeps_its_key_when_fields_are_added_at_their_defaults() -> None:
    key = sweep_from_mapping(load_config("smoke")).key
    for name, default, other in (("pruner", "none", "asha"), ("stop_level", 0.05, 0.1), ("audit_share", 0.1, 0.2)):
        stated = [override_config(load_config("smoke"), [f"sweep.{name}={value}"]) for value in (default, other)]
        assert [sweep_from_mapping(config).key == key for config in stated] == [True, False]


def test_icons_bring_their_student_and_teacher_unless_told_otherwise() -> None:
    bare = {"sweep": {"benchmarks": ["icons", "PACS"], "methods": ["erm"]}}
    sweep = sweep_from_mapping(bare)
    assert sweep.hyperparameters_for("icons").student == "small"
    assert sweep.hyperparameters_for("icons").teacher == "demo"
    assert sweep.hyperparameters_for("PACS") == Hyperparameters()
    stated = sweep_from_mapping({**bare, "hyperparameters": {"student": "vit_base_patch16_224"}})
    assert stated.hyperparameters_for("icons").student == "vit_base_patch16_224"
    assert stated.hyperparameters_for("icons").teacher == "demo"
    assert sweep_from_mapping(stated.to_mapping()) == stated


def test_a_benchmarks_own_hyperparameters_are_nested() -> None:
    config = override_config(
        {"sweep": {"benchmarks": ["PACS", "VLCS"], "methods": ["erm"]}},
        ["distill.lr=1e-3", "benchmark_hyperparameters.VLCS.distill.weight_decay=0.1"],
    )
    own = sweep_from_mapping(config).hyperparameters_for("VLCS").distill
    assert (own.lr, own.weight_decay) == (1e-3, 0.1)
    assert sweep_from_mapping(config).hyperparameters_for("PACS").distill.weight_decay == 0.0


def test_overrides_reach_their_section() -> None:
    config = override_config(load_config("demo"), ["align.lr=1e-4", "resources.workers=2", "sweep.trials=5"])
    sweep = sweep_from_mapping(config)
    assert sweep.hyperparameters_for("icons").align.lr == 1e-4
    assert sweep.trials == 5
    assert resources_from_mapping(config).workers == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("algin.lr=1", "unknown key 'algin'; nearest: align"),
        ("align.lrr=1", r"unknown key 'align\.lrr'; nearest: align\.lr"),
        ("align.lr=fast", r"align\.lr wants float"),
        ("sweep.trails=3", r"unknown key 'sweep\.trails'; nearest: sweep\.trials"),
        ("sweep.trials=0", "trials is 1 or more, got 0"),
        ("sweep.scope=domains", r"unknown value for sweep\.scope 'domains'; nearest: domain"),
        ("sweep.methods=[vl2v_adp]", "unknown method 'vl2v_adp'; nearest: vl2v_adip"),
        ("sweep.methods=[erm, erm]", "methods are named once each"),
        ("sweep.sampler=tpee", r"unknown value for sweep\.sampler 'tpee'; nearest: tpe"),
        ("sweep.pruner=asah", r"unknown value for sweep\.pruner 'asah'; nearest: asha"),
        ("sweep.stop_level=0.7", r"stop_level lies in \[0, 0\.5\), got 0.7"),
        ("sweep.audit_share=2", r"audit_share lies in \[0, 1\], got 2.0"),
        ("sweep.benchmarks=[]", "a sweep needs benchmarks"),
        ("benchmark_hyperparameters.PACS.studnt=x", r"benchmark_hyperparameters\.PACS\.studnt'; nearest"),
        ("benchmark_hyperparameters.PASC.student=x", "'PASC'; nearest: PACS"),
        ("align.lr", "KEY=VALUE"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        sweep_from_mapping(override_config(load_config("smoke"), [override]))
    assert "\n" not in str(caught.value)


def test_an_unknown_resource_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"resources\.worker'; nearest: resources\.workers"):
        resources_from_mapping({"resources": {"worker": 2}})


def test_a_configuration_file_goes_before_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "smoke.yaml"
    path.write_text("sweep: {benchmarks: [PACS], methods: [erm]}\n")
    assert sweep_from_mapping(load_config(str(path))).benchmarks == ("PACS",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sweep: [", "is not YAML"),
        ("- sweep", "wants a mapping with the sections"),
        ("swep: {}", "unknown section of the configuration 'swep'; nearest: sweep"),
        ("sweep: 3", "sweep wants a mapping"),
        ("hyperparameters: {}", "a sweep needs benchmarks; give --benchmark"),
    ],
)
def test_a_bad_configuration_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        sweep_from_mapping(load_config(str(path)))
    assert "\n" not in str(caught.value)


def test_an_unknown_recipe_names_the_packaged_ones() -> None:
    with pytest.raises(UserError, match=r"unknown configuration 'smoek\.yaml'; nearest: smoke\.yaml"):
        load_config("smoek.yaml")


def test_methods_are_read_from_text() -> None:
    assert parse_methods("erm, vl2v_adip,erm") == ("erm", "vl2v_adip")
    with pytest.raises(UserError, match="nearest: zero_shot"):
        parse_methods("zeroshot")


def test_the_zero_shot_row_comes_first_once() -> None:
    common = {"benchmarks": ("PACS",)}
    assert Sweep(**common, methods=("erm",)).all_methods == ("zero_shot", "erm")
    assert Sweep(**common, methods=("erm", "zero_shot")).all_methods == ("erm", "zero_shot")
    assert Sweep(**common, methods=("erm",), zero_shot=False).all_methods == ("erm",)


def test_published_numbers_of_the_black_box_table() -> None:
    assert published("vl2v_adip")["PACS"] == 94.94
    row = published_row("vl2v_adip")
    assert row is not None
    assert (row.id, row.ood) == (89.02, 75.48)
    assert published("erm")["TerraIncognita"] == 50.05
    assert published("vl2v_adip", "resnet50")["DomainNet"] == 47.7
    assert published("erm", "resnet50") == {}
    assert published("vl2v_sd", "small") == headline_claims().values


def test_search_spaces_loads_without_engines() -> None:
    code = (
        "import sys, search_spaces.sweeps, search_spaces.claims, search_spaces.spaces;"
        "from search_spaces.claims import headline_claims; headline_claims();"
        "print([name for name in ('torch', 'ray', 'mlflow', 'optuna', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
