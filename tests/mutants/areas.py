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


FOLD = "tests/trainables/test_fold.py"
STORED = "tests/trainables/teacher/stored/test_stored_embeddings.py"
VERSION = "tests/trainables/test_trainer_version.py"
SWAD = "tests/trainables/fitting/test_swad.py"
SWAD_MEMORY = "tests/trainables/fitting/test_swad_memory.py"
UPDATES = "tests/trainables/fitting/test_updates.py"
PIECES = "tests/trainables/fitting/test_pieces.py"
SPEED = "tests/trainables/fitting/test_speed.py"
CHECKPOINT_RULE = "tests/trainables/fitting/test_checkpoint_rule.py"
LOSSES = "tests/trainables/methods/test_losses.py"
SPLITS = "tests/trainables/data/loading/test_splits.py"
BATCHES = "tests/trainables/data/loading/test_batches.py"
VIEWS = "tests/trainables/data/loading/test_views.py"
COLOURS = "tests/trainables/data/loading/test_colour_jitter.py"
CLIP = "tests/trainables/teacher/test_clip.py"
STUDENT = "tests/trainables/student/test_model.py"
BACKBONES = "tests/trainables/student/test_backbones.py"
BENCHMARKS = "tests/search_spaces/test_benchmarks.py"
SWEEPS = "tests/search_spaces/test_sweeps.py"
SPACES = "tests/search_spaces/test_spaces.py"
SAMPLERS = "tests/search_spaces/test_samplers.py"

AREAS: dict[str, Area] = {
    "fold": Area("trainables/fold.py", (VERSION, FOLD)),
    "align": Area("trainables/align.py", (VERSION, FOLD)),
    "fold setup": Area("trainables/fold_setup.py", (VERSION, FOLD, STORED)),
    "seeds": Area("trainables/seeds.py", (PIECES, VERSION)),
    "stage": Area("trainables/fitting/stage.py", (CHECKPOINT_RULE, UPDATES, FOLD)),
    "swad": Area("trainables/fitting/swad.py", (SWAD, SWAD_MEMORY)),
    "update": Area("trainables/fitting/update.py", (PIECES, UPDATES)),
    "evaluation": Area("trainables/fitting/evaluation.py", (CHECKPOINT_RULE, VERSION)),
    "checkpoint": Area("trainables/fitting/checkpoint.py", (FOLD,)),
    "workers": Area("trainables/fitting/workers.py", (PIECES, VERSION)),
    "stage inputs": Area("trainables/fitting/inputs.py", (UPDATES, FOLD)),
    "speed": Area("trainables/fitting/speed.py", (UPDATES, PIECES, SPEED)),
    "losses": Area("trainables/methods/losses.py", (LOSSES,)),
    "recipes": Area("trainables/methods/recipes.py", (UPDATES, PIECES, FOLD)),
    "splits": Area("trainables/data/loading/splits.py", (SPLITS,)),
    "batches": Area("trainables/data/loading/batches.py", (BATCHES,)),
    "views": Area("trainables/data/loading/views.py", (VIEWS,)),
    "colour jitter": Area("trainables/data/loading/colour_jitter.py", (COLOURS, VIEWS)),
    "view seeds": Area("trainables/data/loading/view_seeds.py", (BATCHES,)),
    "feature batches": Area("trainables/data/loading/feature_batches.py", (STORED,)),
    "clip": Area("trainables/teacher/clip.py", (CLIP,)),
    "embedding": Area("trainables/teacher/stored/embedding.py", ("tests/scenarios/test_teacher_stores.py",)),
    "student": Area("trainables/student/model.py", (STUDENT, PIECES)),
    "backbones": Area("trainables/student/backbones.py", (BACKBONES,)),
    "hyperparameters": Area("search_spaces/hyperparameters.py", (SPACES, SWEEPS)),
    "benchmarks": Area("search_spaces/benchmarks.py", (BENCHMARKS,)),
    "schedule": Area("search_spaces/schedule.py", (BENCHMARKS, VERSION)),
    "methods": Area("search_spaces/methods.py", (SPACES, SWEEPS)),
    "spaces": Area("search_spaces/spaces.py", (SPACES, SAMPLERS)),
    "samplers": Area("search_spaces/samplers.py", (SAMPLERS,)),
    "folds": Area("search_spaces/folds.py", (BENCHMARKS,)),
}
"""By a name that stays when a file moves."""

COPIED = ("search_spaces", "trainables", "orchestrator", "tests", "pyproject.toml")
"""What a copy of the repository needs for the tests above."""
