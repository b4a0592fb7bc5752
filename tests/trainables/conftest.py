"""A small PACS look-alike with drawn pictures, a tiny random teacher and student: a fold in seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from search_spaces.benchmarks import BENCHMARKS
from search_spaces.folds import Fold
from search_spaces.hyperparameters import FoldSpec, Hyperparameters, Resources, StageHyperparameters
from trainables.data.formats.open import open_benchmark
from trainables.data.formats.sample import write_sample
from trainables.jobs import FoldJob

TINY = Hyperparameters(
    student="test_byobnet",
    student_weights="random",
    teacher="open_clip:vl2v-tiny:random:0",
    image_size=32,
    batch_size_per_domain=4,
    evaluate_every=2,
    eval_batch_size=64,
    align=StageHyperparameters(num_steps=5, lr=1e-3),
    distill=StageHyperparameters(num_steps=9, lr=1e-3),
)


@pytest.fixture(scope="session")
def sample_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sample")
    write_sample(root, images_per_class=6, benchmarks=("PACS",))
    return root


@pytest.fixture
def make_job(sample_root: Path, tmp_path: Path) -> Callable[..., FoldJob]:
    """Build a job on the look-alike; keyword arguments replace fields of its hyperparameters."""
    benchmark = BENCHMARKS["PACS"]
    manifest = open_benchmark(benchmark, sample_root).manifest

    def make(
        method: str = "vl2v_adip", *, out: str = "out", seed: int = 0, workers: int = 1, **changes: Any
    ) -> FoldJob:
        spec = FoldSpec(
            fold=Fold(benchmark="PACS", test_domains=("sketch",), seed=seed),
            method=method,
            hyperparameters=replace(TINY, **changes),
            data_manifest=manifest,
        )
        return FoldJob(
            spec=spec,
            benchmark=benchmark,
            folder=str(tmp_path / out / "folds" / spec.key),
            align_folder=str(tmp_path / out / "aligns" / spec.align_key),
            data_root=str(sample_root),
            resources=Resources(workers=workers),
        )

    return make


@pytest.fixture
def unusable_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch could use a GPU, let it fail as it does where it cannot."""
    zeros = torch.zeros

    def without(*size: Any, device: Any = None, **options: Any) -> torch.Tensor:
        if torch.device(device or "cpu").type == "cuda":
            raise RuntimeError("No CUDA GPUs are available")
        return zeros(*size, device=device, **options)

    if torch.cuda.is_available():
        monkeypatch.setattr(torch, "zeros", without)
