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
    """Cheapest first: a run ends at the first test that fails."""


ROOT = "tests/trainables"
FOLD = f"{ROOT}/test_fold.py"
VERSION = f"{ROOT}/test_trainer_version.py"
STAGE = f"{ROOT}/fitting/test_stage.py"
CHECKPOINT_RULE = f"{ROOT}/fitting/test_checkpoint_rule.py"
PIECES = f"{ROOT}/fitting/test_pieces.py"
UPDATES = f"{ROOT}/fitting/test_updates.py"
ADAM = f"{ROOT}/fitting/test_speed.py::test_two_steps_of_adam_by_hand"
VIEWS = f"{ROOT}/data/loading/test_views.py"
STORED = f"{ROOT}/teacher/stored/test_stored_embeddings.py"
KEYS = "tests/search_spaces/test_hyperparameters.py"
METHODS = "tests/search_spaces/test_methods.py"
BENCHMARKS = "tests/search_spaces/test_benchmarks.py"
SPACES = "tests/search_spaces/test_spaces.py"
SAMPLERS = "tests/search_spaces/test_samplers.py"

AREAS: dict[str, Area] = {
    "fold": Area("trainables/fold.py", (VERSION, FOLD)),
    "align": Area("trainables/align.py", (VERSION, FOLD)),
    "fold setup": Area("trainables/fold_setup.py", (VERSION, FOLD, STORED)),
    "seeds": Area("trainables/seeds.py", (f"{ROOT}/test_seeds.py",)),
    "stage": Area("trainables/fitting/stage.py", (STAGE, CHECKPOINT_RULE)),
    "swad": Area("trainables/fitting/swad.py", (f"{ROOT}/fitting/test_swad.py", f"{ROOT}/fitting/test_swad_memory.py")),
    "update": Area("trainables/fitting/update.py", (PIECES, UPDATES)),
    "evaluation": Area("trainables/fitting/evaluation.py", (f"{ROOT}/fitting/test_evaluation.py", CHECKPOINT_RULE)),
    "checkpoint": Area("trainables/fitting/checkpoint.py", (f"{ROOT}/fitting/test_checkpoint.py",)),
    "workers": Area("trainables/fitting/workers.py", (f"{ROOT}/fitting/test_workers.py",)),
    "stage inputs": Area("trainables/fitting/inputs.py", (UPDATES, VERSION)),
    "speed": Area("trainables/fitting/speed.py", (ADAM, UPDATES, PIECES, f"{ROOT}/fitting/test_speed.py")),
    "losses": Area("trainables/methods/losses.py", (f"{ROOT}/methods/test_losses.py",)),
    "recipes": Area("trainables/methods/recipes.py", (f"{ROOT}/methods/test_recipes.py",)),
    "splits": Area("trainables/data/loading/splits.py", (f"{ROOT}/data/loading/test_splits.py",)),
    "batches": Area("trainables/data/loading/batches.py", (f"{ROOT}/data/loading/test_batches.py",)),
    "views": Area("trainables/data/loading/views.py", (VIEWS,)),
    "colour jitter": Area(
        "trainables/data/loading/colour_jitter.py", (VIEWS, f"{ROOT}/data/loading/test_colour_jitter.py")
    ),
    "view seeds": Area("trainables/data/loading/view_seeds.py", (f"{ROOT}/data/loading/test_view_seeds.py",)),
    "feature batches": Area(
        "trainables/data/loading/feature_batches.py", (f"{ROOT}/data/loading/test_feature_batches.py",)
    ),
    "clip": Area("trainables/teacher/clip.py", (f"{ROOT}/teacher/test_clip.py",)),
    "embedding": Area("trainables/teacher/stored/embedding.py", (f"{ROOT}/teacher/stored/test_embedding.py",)),
    "student": Area("trainables/student/model.py", (f"{ROOT}/student/test_model.py", PIECES)),
    "backbones": Area("trainables/student/backbones.py", (f"{ROOT}/student/test_backbones.py",)),
    "hyperparameters": Area("search_spaces/hyperparameters.py", (KEYS,)),
    "benchmarks": Area("search_spaces/benchmarks.py", (BENCHMARKS,)),
    "schedule": Area("search_spaces/schedule.py", ("tests/search_spaces/test_schedule.py",)),
    "methods": Area("search_spaces/methods.py", (METHODS,)),
    "spaces": Area("search_spaces/spaces.py", (SPACES,)),
    "samplers": Area("search_spaces/samplers.py", (SAMPLERS,)),
    "folds": Area("search_spaces/folds.py", ("tests/search_spaces/test_folds.py",)),
}
"""By a name that stays when a file moves."""

COPIED = ("search_spaces", "trainables", "orchestrator", "tests", "pyproject.toml")
"""What a copy of the repository needs for the tests above."""
