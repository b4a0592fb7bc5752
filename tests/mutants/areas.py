"""The numerical core, file by file, and the quick tests that guard each: the one place that names paths.

A file that moves changes its line here and nothing else. The drawn errors stay the same ones: their draw goes by the
area's name and not by its path.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Area:
    """One file of the core."""

    file: str
    tests: tuple[str, ...]
    """What pytest is given; cheapest first, because a run ends at the first test that fails."""


FOLD = "tests/trainables/test_fold.py"
NOT_RESUMED = "--deselect=tests/trainables/test_fold.py::test_going_on_after_an_interruption_changes_no_bit"
"""Ten interruptions take long; `WHOLE` has its own."""
WHOLE = "tests/trainables/test_asymmetric_fold.py"
VERSION = "tests/trainables/test_trainer_version.py"
STAGE = "tests/trainables/fitting/test_stage.py"
CHECKPOINT_RULE = "tests/trainables/fitting/test_checkpoint_rule.py"
PIECES = "tests/trainables/fitting/test_pieces.py"
UPDATES = "tests/trainables/fitting/test_updates.py"
EVALUATION = "tests/trainables/fitting/test_evaluation.py"
SWAD = "tests/trainables/fitting/test_swad.py"
SPEED = (
    "tests/trainables/fitting/test_speed.py::test_two_steps_of_adam_by_hand",
    "tests/trainables/fitting/test_speed.py::test_images_and_convolutions_are_arranged_and_nothing_else",
    "tests/trainables/fitting/test_speed.py::test_a_module_is_compiled_after_everything_before_is_forgotten",
    "tests/trainables/fitting/test_speed.py::test_the_check_compiles_for_the_device_it_is_asked_for",
    "tests/trainables/fitting/test_speed.py::test_without_a_compiler_the_check_ends_in_one_line",
    PIECES,
)
VIEWS = "tests/trainables/data/loading/test_views.py"
STORED = "tests/trainables/teacher/stored/test_stored_embeddings.py"
PUBLISHED = "tests/search_spaces/test_published_defaults.py"
KEYS = "tests/search_spaces/test_hyperparameters.py"
SETTINGS = "tests/search_spaces/test_settings.py"
METHODS = "tests/search_spaces/test_methods.py"
BENCHMARKS = "tests/search_spaces/test_benchmarks.py"
SPACES = "tests/search_spaces/test_spaces.py"
SAMPLERS = "tests/search_spaces/test_samplers.py"

AREAS: dict[str, Area] = {
    "fold": Area("trainables/fold.py", (WHOLE, FOLD, NOT_RESUMED)),
    "align": Area("trainables/align.py", (WHOLE, FOLD, NOT_RESUMED)),
    "fold setup": Area("trainables/fold_setup.py", ("tests/trainables/test_fold_setup.py", WHOLE, STORED)),
    "seeds": Area("trainables/seeds.py", ("tests/trainables/test_seeds.py",)),
    "stage": Area("trainables/fitting/stage.py", (STAGE, CHECKPOINT_RULE)),
    "swad": Area("trainables/fitting/swad.py", (SWAD, "tests/trainables/fitting/test_swad_memory.py")),
    "update": Area("trainables/fitting/update.py", (PIECES, UPDATES)),
    "evaluation": Area("trainables/fitting/evaluation.py", (EVALUATION, CHECKPOINT_RULE)),
    "checkpoint": Area("trainables/fitting/checkpoint.py", ("tests/trainables/fitting/test_checkpoint.py",)),
    "workers": Area("trainables/fitting/workers.py", ("tests/trainables/fitting/test_workers.py",)),
    "stage inputs": Area("trainables/fitting/inputs.py", (STAGE, PIECES)),
    "speed": Area("trainables/fitting/speed.py", SPEED),
    "losses": Area("trainables/methods/losses.py", ("tests/trainables/methods/test_losses.py",)),
    "recipes": Area("trainables/methods/recipes.py", ("tests/trainables/methods/test_recipes.py",)),
    "splits": Area("trainables/data/loading/splits.py", ("tests/trainables/data/loading/test_splits.py",)),
    "batches": Area("trainables/data/loading/batches.py", ("tests/trainables/data/loading/test_batches.py",)),
    "views": Area("trainables/data/loading/views.py", (VIEWS,)),
    "colour jitter": Area(
        "trainables/data/loading/colour_jitter.py", (VIEWS, "tests/trainables/data/loading/test_colour_jitter.py")
    ),
    "view seeds": Area("trainables/data/loading/view_seeds.py", ("tests/trainables/data/loading/test_view_seeds.py",)),
    "feature batches": Area(
        "trainables/data/loading/feature_batches.py", ("tests/trainables/data/loading/test_feature_batches.py",)
    ),
    "clip": Area("trainables/teacher/clip.py", ("tests/trainables/teacher/test_clip.py",)),
    "embedding": Area("trainables/teacher/stored/embedding.py", ("tests/trainables/teacher/stored/test_embedding.py",)),
    "student": Area("trainables/student/model.py", ("tests/trainables/student/test_model.py", PIECES)),
    "backbones": Area("trainables/student/backbones.py", ("tests/trainables/student/test_backbones.py",)),
    "hyperparameters": Area("search_spaces/hyperparameters.py", (KEYS, PUBLISHED, SETTINGS)),
    "benchmarks": Area("search_spaces/benchmarks.py", (BENCHMARKS, PUBLISHED)),
    "schedule": Area("search_spaces/schedule.py", ("tests/search_spaces/test_schedule.py",)),
    "methods": Area("search_spaces/methods.py", (METHODS,)),
    "spaces": Area("search_spaces/spaces.py", (SPACES, PUBLISHED)),
    "samplers": Area("search_spaces/samplers.py", (SAMPLERS,)),
    "folds": Area("search_spaces/folds.py", ("tests/search_spaces/test_folds.py",)),
}
"""By a name that stays when a file moves."""

COPIED = ("search_spaces", "trainables", "orchestrator", "tests", "pyproject.toml")
"""What a copy of the repository needs for the tests above."""
