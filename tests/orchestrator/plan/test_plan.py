"""The plan's arithmetic, worked out by hand, and that it costs nothing to make."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from orchestrator.cli.plan_text import plan_lines, plan_table
from orchestrator.plan.costs import teacher_queries_per_fold
from orchestrator.plan.plan import make_plan
from orchestrator.search.pruning_rules import judge_overtaking
from search_spaces.benchmarks import BENCHMARKS, HEADLINE, Benchmark, Domain
from search_spaces.errors import UserError
from search_spaces.hyperparameters import Fold, FoldSpec, Hyperparameters, StageHyperparameters
from search_spaces.spaces import SPACES, apply_point
from search_spaces.sweeps import Sweep
from tests.support.counted_calls import counted_calls


def sweep(**changes: Any) -> Sweep:
    settings: dict[str, Any] = {"benchmarks": HEADLINE, "methods": ("vl2v_adip",), "zero_shot": False}
    return Sweep(**{**settings, **changes})


def test_one_stage_of_one_fold_asks_480_096_times() -> None:
    assert teacher_queries_per_fold(BENCHMARKS["PACS"], Hyperparameters(), "vl2v_sd") == 480_096
    assert teacher_queries_per_fold(BENCHMARKS["PACS"], Hyperparameters(), "vl2v_adip") == 2 * 480_096
    assert teacher_queries_per_fold(BENCHMARKS["PACS"], Hyperparameters(), "erm") == 0


def test_the_issues_plan() -> None:
    plan = make_plan(sweep(space="official", trials=20, seeds=3), BENCHMARKS)
    assert len(plan.groups) == len(plan.searched_groups) == 22
    assert plan.num_folds == 22 * (20 + 2)
    assert plan.num_stages == 2 * plan.num_folds
    assert plan.num_stages_shared == 0
    assert plan.queries_per_configuration == 44_164_992
    assert plan.queries == 22 * 44_164_992
    assert plan.pair_folds == 39
    by_benchmark = {row.benchmark: row.queries_per_configuration for row in plan.forecasts}
    assert (by_benchmark["PACS"], by_benchmark["DomainNet"]) == (3_840_768, 28_801_920)
    assert any("44,164,992 images" in line for line in plan_lines(plan))


def test_scope_benchmark_has_one_group_for_all_test_domains() -> None:
    plan = make_plan(sweep(space="official", trials=20, seeds=3, scope="benchmark"), BENCHMARKS)
    assert [group.name for group in plan.groups] == [f"{name}/vl2v_adip/*" for name in HEADLINE]
    assert plan.num_folds == 22 * 22
    assert plan.groups[0].test_domains == BENCHMARKS["PACS"].domain_names


@pytest.mark.parametrize(
    ("benchmarks", "said"),
    [
        (("PACS",), "below 5.0% over all looks (2.50% at each of 2 with 4 test domains)"),
        (
            ("PACS", "DomainNet"),
            "(2.50% at each of 2 with 4 test domains, 1.25% at each of 4 with 6 test domains)",
        ),
    ],
)
def test_the_level_of_each_look_is_the_one_that_is_used(benchmarks: tuple[str, ...], said: str) -> None:
    asked = sweep(benchmarks=benchmarks, space="official", trials=20, scope="benchmark")
    assert any(said in line for line in plan_lines(make_plan(asked, BENCHMARKS)))
    for name in benchmarks:
        count = len(BENCHMARKS[name].domains)
        complete = {"best": [0.9] * count, "other": [0.5] * count}
        judged = [judge_overtaking([0.1] * done, "best", complete, stop_level=0.05) for done in range(1, count + 1)]
        thresholds = [judgement.threshold for judgement in judged if judgement is not None]
        assert thresholds == [0.05 / (count - 2)] * (count - 2)
        assert f"{thresholds[0]:.2%} at each of {len(thresholds)} with {count}" in said


def test_the_paper_needs_one_trial_and_distill_only_searches_share_align() -> None:
    paper = make_plan(sweep(space="paper", trials=20, seeds=3), BENCHMARKS)
    assert {group.trials for group in paper.groups} == {1}
    assert paper.num_folds == 22 * 3
    demo = make_plan(sweep(space="demo", trials=20, seeds=3), BENCHMARKS)
    assert demo.num_stages_shared == 22 * 19
    assert demo.queries_shared == 19 * 44_164_992 // 2


@pytest.mark.parametrize("space", sorted(SPACES))
def test_sharing_in_the_plan_is_sharing_by_key(space: str) -> None:
    """A trial that differs in every searched coordinate agrees on Align's key exactly when the plan says so."""
    fixed = Hyperparameters()
    dimensions = SPACES[space].dimensions(BENCHMARKS["PACS"], "vl2v_adip", fixed)
    moved = {key: (-5.0 if "log10" in key else 1e-4 if key.endswith("lr") else 4) for key in dimensions}
    moved |= {key: 0.25 for key in moved if key in ("dropout", "image_weight", "swad.tolerance_ratio")}
    fold = Fold(benchmark="PACS", test_domains=("photo",), seed=0)
    specs = [
        FoldSpec(fold=fold, method="vl2v_adip", hyperparameters=values, data_manifest="m")
        for values in (fixed, apply_point(fixed, moved))
    ]
    plan = make_plan(sweep(space=space, trials=2), BENCHMARKS)
    shares = bool(dimensions) and specs[0].align_key == specs[1].align_key
    assert (plan.num_stages_shared > 0) == shares


def test_zero_shot_rows_are_groups_without_stages() -> None:
    plan = make_plan(sweep(zero_shot=True, space="official", trials=5, seeds=2), BENCHMARKS)
    assert len(plan.groups) == 44
    assert len(plan.searched_groups) == 22
    zero_shot = plan.group("PACS/zero_shot/photo")
    assert (zero_shot.trials, zero_shot.num_folds) == (1, 2)
    assert plan.num_stages == 22 * 6 * 2
    with pytest.raises(UserError, match="unknown fold group 'PACS/zero_shot/photos'; nearest: PACS/zero_shot/photo"):
        plan.group("PACS/zero_shot/photos")


def left_out(**changes: Any) -> Sweep:
    settings = {"benchmarks": ("PACS",), "space": "official", "selection": "leave_one_domain_out"}
    return sweep(**{**settings, **changes})


def test_what_each_selection_needs_by_hand() -> None:
    """Four domains, 5 trials, 3 seeds: 6 pairs serve the paper's point, 4 x 3 each of the 4 others."""
    plan = make_plan(left_out(trials=5, seeds=3), BENCHMARKS)
    by_name = {cost.selection: cost for cost in plan.selections}
    assert by_name["source_validation"].folds == by_name["oracle"].folds == 4 * (5 + 2)
    cost = by_name["leave_one_domain_out"]
    assert (cost.pair_folds, cost.pair_folds_shared) == (6 + 4 * 12, 6)
    assert plan.num_folds == cost.folds == 28 + 54
    assert plan.num_stages == 2 * 82
    assert cost.share_of_steps == pytest.approx(54 / 28)
    # 32 to 45 images (2 ** 5.5) of 2 source domains in each of 2 x 5,001 steps.
    assert cost.images == 54 * 45 * 2 * 10_002
    assert plan.queries == 28 * 32 * 3 * 10_002 + 54 * 32 * 2 * 10_002
    assert cost.texts == 54 * 7
    (line,) = [line for line in plan_lines(plan, price_per_1000=2.0) if line.startswith("model selection")]
    assert "leave_one_domain_out 82: 54 pair folds more (6 others shared between two test domains)" in line
    assert f"(price {(cost.images + cost.texts) / 500:,.2f})" in line
    assert [group["pair_folds"] for group in plan.to_mapping()["groups"]] == [5 * 3] * 4
    assert set(plan.folds_by_group.values()) == {5 + 2 + 5 * 3}
    assert plan.to_mapping()["selections"][1]["pair_folds"] == 54


def test_pair_folds_are_priced_whether_they_are_chosen_by_or_not() -> None:
    chosen = make_plan(left_out(trials=5), BENCHMARKS)
    plain = make_plan(left_out(trials=5, selection="source_validation"), BENCHMARKS)
    assert chosen.selections == plain.selections
    assert (plain.num_folds, chosen.num_folds) == (4 * 5, 4 * 5 + 54)
    assert chosen.need is not None
    assert plain.need is not None
    assert chosen.need.queries - plain.need.queries == chosen.selection.images + chosen.selection.texts


def test_the_authors_search_every_seed_anew() -> None:
    plan = make_plan(sweep(benchmarks=("PACS",), space="official", trials=20, seeds=3, sampler="authors"), BENCHMARKS)
    searched = plan.searched_groups
    assert plan.num_folds - sum(group.num_folds for group in plan.groups if group not in searched) == 4 * 20 * 3
    assert len({group.name for group in searched}) == len(searched) == 4 * 3
    assert {(group.own_seed, group.seeds) for group in searched} == {(0, 1), (1, 1), (2, 1)}
    assert "each of 3 seeds with a search of its own" in plan_lines(plan)[0]
    pairs = make_plan(left_out(trials=20, seeds=3, sampler="authors"), BENCHMARKS).selection
    assert (pairs.pair_folds, pairs.pair_folds_shared) == (3 * 20 * 6, 3 * 20 * 6)
    lone = make_plan(sweep(benchmarks=("PACS",), space="official", trials=1, seeds=3, sampler="authors"), BENCHMARKS)
    assert {(group.own_seed, group.seeds) for group in lone.searched_groups} == {(None, 3)}, "nothing is searched"


@pytest.mark.parametrize("changes", [{"scope": "benchmark"}, {"sampler": "authors", "seeds": 1}])
def test_where_all_test_domains_try_the_same_points_every_pair_serves_two(changes: dict[str, Any]) -> None:
    cost = make_plan(left_out(trials=5, **changes), BENCHMARKS).selection
    assert (cost.pair_folds, cost.pair_folds_shared) == (5 * 6, 5 * 6)


def test_searches_of_distill_alone_share_align_among_pair_folds() -> None:
    cost = make_plan(left_out(trials=5, space="demo"), BENCHMARKS).selection
    assert cost.stages_shared == 54 - 6


def test_stored_views_make_pair_folds_free_of_queries() -> None:
    stored = Hyperparameters(teacher_mode="views:8")
    cost = make_plan(left_out(trials=5, hyperparameters=stored), BENCHMARKS).selection
    assert (cost.images, cost.texts) == (0, 0)


def test_a_lone_configuration_needs_no_pair_folds() -> None:
    plan = make_plan(left_out(space="paper"), BENCHMARKS)
    assert plan.selection.pair_folds == 0
    assert any("nothing is selected, so no pair fold is needed" in line for line in plan_lines(plan))


def test_two_domains_cannot_be_left_out_of_two() -> None:
    two = Benchmark(
        name="two", folder="two", domains=tuple(Domain(name=name, letter=name) for name in "ab"), class_names=("x", "y")
    )
    with pytest.raises(UserError, match="two has 2 domains and needs 3 or more; use --selection source_validation"):
        make_plan(left_out(benchmarks=("two",), trials=2), {"two": two})
    assert make_plan(left_out(benchmarks=("two",), trials=2, selection="source_validation"), {"two": two}).num_folds


def test_stored_views_are_asked_for_once() -> None:
    stored = Hyperparameters(teacher_mode="views:8")
    plan = make_plan(sweep(benchmarks=("PACS",), hyperparameters=stored, seeds=3), BENCHMARKS)
    assert plan.queries_per_configuration == plan.queries == 9991 * 8
    icons = make_plan(sweep(benchmarks=("icons",), hyperparameters=stored), BENCHMARKS)
    assert icons.queries == (343 + 222 + 220 + 222) * 8, "the images that may serve as source"
    assert any("1,007 x K images" in line for line in plan_lines(icons))


def test_a_benchmarks_own_steps_count() -> None:
    short = Hyperparameters(evaluate_every=2, distill=StageHyperparameters(num_steps=5), batch_size_per_domain=4)
    own = Benchmark(
        name="mine",
        folder="mine",
        domains=tuple(Domain(name=name, letter=name) for name in ("a", "b", "c")),
        class_names=("x", "y"),
        num_steps=10,
    )
    plan = make_plan(sweep(benchmarks=("mine",), hyperparameters=short), {"mine": own})
    assert plan.forecasts[0].steps_per_stage == (11, 5)
    assert plan.queries_per_configuration == 3 * (4 * 2) * (11 + 5)


def test_the_plan_as_json_and_as_a_table() -> None:
    plan = make_plan(sweep(seeds=2), BENCHMARKS)
    content = json.loads(json.dumps(plan.to_mapping()))
    assert content["fold_groups"] == 22
    assert content["teacher_queries_per_configuration_and_seed"] == 44_164_992
    assert content["groups"][0]["name"] == "PACS/vl2v_adip/art_painting"
    assert plan_table(plan).row_count == 5


def test_planning_costs_no_more_with_more_trials_and_seeds() -> None:
    def planned(trials: int, seeds: int) -> None:
        plan = make_plan(sweep(space="official", trials=trials, seeds=seeds), BENCHMARKS)
        plan_table(plan)
        plan_lines(plan)

    calls = counted_calls(lambda: planned(20, 3))
    assert calls < 100_000
    assert counted_calls(lambda: planned(20_000, 300)) == calls


def test_planning_loads_no_engine() -> None:
    code = (
        "import sys; from orchestrator.cli.plan_text import plan_lines, plan_table;"
        "from orchestrator.plan.plan import make_plan; from search_spaces.benchmarks import BENCHMARKS, HEADLINE;"
        "from search_spaces.sweeps import Sweep;"
        "plan = make_plan(Sweep(benchmarks=HEADLINE, methods=('vl2v_adip',), space='official', trials=20, seeds=3),"
        " BENCHMARKS); plan_table(plan); plan_lines(plan);"
        "print([name for name in ('torch', 'ray', 'mlflow', 'optuna') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
