"""Batches are pure functions of the step: of workers, loader processes and resuming nothing is left in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from search_spaces.benchmarks import BENCHMARKS
from search_spaces.errors import UserError
from search_spaces.folds import Fold
from tests.support.folders import tiny_benchmark, write_tiny
from tests.support.golden import golden_json
from tests.support.sized_source import SizedSource
from trainables.data.formats.images import ImageSource
from trainables.data.formats.open import open_benchmark
from trainables.data.loading.batches import Batch, BatchStream, evaluation_batches, image_id_offsets
from trainables.data.loading.splits import split_fold
from trainables.data.loading.view_seeds import live_view_seed, step_choices, stored_view_seed
from trainables.data.loading.views import EvalView, TrainView

INDICES = {"sketch": np.array([0, 3, 4, 5, 11]), "art": np.array([9, 2, 1])}


@pytest.fixture
def source(tmp_path: Path) -> ImageSource:
    write_tiny(tmp_path)
    return open_benchmark(tiny_benchmark(), tmp_path)


def _stream(source: ImageSource, **changes: object) -> BatchStream:
    settings: dict[str, object] = {
        "batch_size_per_domain": 5,
        "image_size": 16,
        "seed": 3,
        "stage": "align",
        "num_steps": 6,
    }
    return BatchStream(source, tiny_benchmark(), INDICES, **{**settings, **changes})  # type: ignore[arg-type]


def _equal(first: Batch, second: Batch) -> bool:
    return all(
        torch.equal(getattr(first, name), getattr(second, name))
        for name in ("images", "labels", "image_ids", "views", "domains")
    )


def test_choices_are_pinned_and_depend_on_every_argument() -> None:
    assert step_choices(0, "align", 0, 0, 100, 5).tolist() == [56, 39, 49, 34, 16]
    reference = step_choices(0, "align", 0, 0, 1000, 8)
    others = [(1, "align", 0, 0), (0, "distill", 0, 0), (0, "align", 1, 0), (0, "align", 0, 1)]
    for seed, stage, domain, step in others:
        assert not np.array_equal(step_choices(seed, stage, domain, step, 1000, 8), reference)


def test_choices_are_even_and_with_replacement() -> None:
    chosen = np.concatenate([step_choices(1, "align", 2, step, 10, 32) for step in range(500)])
    counts = np.bincount(chosen, minlength=10)
    assert counts.sum() == 16_000
    assert abs(counts - 1600).max() < 160


def test_a_batch_is_balanced_labelled_and_comes_from_the_indices(source: ImageSource) -> None:
    batch = _stream(source).batch(2)
    assert batch.images.shape == (10, 3, 16, 16)
    assert batch.global_size == 10
    assert batch.domains.tolist() == [0] * 5 + [2] * 5
    offsets = image_id_offsets(source)
    assert offsets == {"art": 0, "photo": 12, "sketch": 24}
    for image_id, label, domain in zip(batch.image_ids, batch.labels, batch.domains, strict=True):
        name = source.domain_names[domain]
        index = int(image_id) - offsets[name]
        assert index in INDICES[name]
        assert source.labels(name)[index] == label


def test_live_views_are_the_train_view_of_the_position(source: ImageSource) -> None:
    batch = _stream(source).batch(4)
    index = int(batch.image_ids[7]) - 24
    seed = live_view_seed(3, "align", 4, 2, 2)
    assert batch.views[7] == seed
    assert torch.equal(batch.images[7], TrainView(16)(source.read("sketch", index), seed))
    assert len(set(batch.views.tolist())) == 10


def test_stored_views_follow_from_path_and_number_alone(source: ImageSource) -> None:
    views = set()
    for seed, stage in ((3, "align"), (4, "distill")):
        for batch in _stream(source, teacher_mode="views:2", seed=seed, stage=stage):
            for image, image_id, view in zip(batch.images, batch.image_ids, batch.views, strict=True):
                name = "art" if image_id < 12 else "sketch"
                index = int(image_id) % 12
                expected = TrainView(16)(
                    source.read(name, index), stored_view_seed(source.paths(name)[index], int(view))
                )
                assert torch.equal(image, expected)
                views.add(int(view))
    assert views == {0, 1}


def test_clean_shows_the_student_what_live_does_and_renders_nothing_else(
    source: ImageSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = _stream(source).batch(1)
    monkeypatch.setattr(EvalView, "pixels", lambda view, image: pytest.fail("the teacher's view lies in the store"))
    assert _equal(_stream(source, teacher_mode="clean").batch(1), live)


def test_resuming_sees_the_same_batches(source: ImageSource) -> None:
    whole = list(_stream(source))
    rest = _stream(source, first_step=4)
    assert len(whole) == 6
    assert len(rest) == 2
    assert all(_equal(first, second) for first, second in zip(whole[4:], rest, strict=True))
    assert all(_equal(first, second) for first, second in zip(whole[4:], rest, strict=True)), "a second iteration"


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_the_ranks_together_make_the_single_workers_batch(source: ImageSource, world_size: int) -> None:
    whole = _stream(source).batch(3)
    parts = [_stream(source, rank=rank, world_size=world_size).batch(3) for rank in range(world_size)]
    assert {part.global_size for part in parts} == {10}
    for place, start in ((0, 0), (1, 5)):
        for rank, part in enumerate(parts):
            own = range(rank, 5, world_size)
            mine = slice(place * len(own), (place + 1) * len(own))
            assert torch.equal(part.images[mine], whole.images[start : start + 5][list(own)])
            assert torch.equal(part.image_ids[mine], whole.image_ids[start : start + 5][list(own)])


def test_loader_processes_change_nothing(source: ImageSource) -> None:
    stream = _stream(source, loader_processes=2)
    here = list(_stream(source, decode_cache_mb=0))
    for _ in range(2):
        there = list(stream)
        assert len(there) == 6
        assert all(_equal(first, second) for first, second in zip(here, there, strict=True))


def test_more_workers_than_images_per_domain_is_refused(source: ImageSource) -> None:
    with pytest.raises(UserError, match="batch_size_per_domain 5 cannot be shared by 6 workers"):
        _stream(source, world_size=6)


def test_global_generators_are_left_alone(source: ImageSource) -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    stream = _stream(source)
    [stream.batch(step) for step in range(3)]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("world_size", "loader_processes"), [(1, 0), (3, 0), (1, 2)])
def test_evaluation_sees_every_image_once(source: ImageSource, world_size: int, loader_processes: int) -> None:
    seen: dict[int, tuple[int, int]] = {}
    for rank in range(world_size):
        batches = list(
            evaluation_batches(
                source,
                INDICES,
                image_size=16,
                batch_size=3,
                rank=rank,
                world_size=world_size,
                loader_processes=loader_processes,
            )
        )
        for batch in batches:
            assert len(batch.labels) <= 3
            for image, label, domain, image_id in zip(
                batch.images, batch.labels, batch.domains, batch.image_ids, strict=True
            ):
                assert int(image_id) not in seen
                seen[int(image_id)] = (int(domain), int(label))
                name, start = (("art", 0), ("sketch", 24))[int(domain)]
                assert torch.equal(image, EvalView(16)(source.read(name, int(image_id) - start)))
    expected = {int(i): (0, int(i >= 6)) for i in INDICES["art"]} | {
        24 + int(i): (1, int(i >= 6)) for i in INDICES["sketch"]
    }
    assert seen == expected


def test_evaluation_of_nothing_yields_nothing(source: ImageSource) -> None:
    assert list(evaluation_batches(source, {"art": np.array([], dtype=np.int64)}, image_size=16, batch_size=4)) == []


def test_batches_move_between_devices(source: ImageSource) -> None:
    batch = _stream(source).batch(0)
    moved = batch.to("cpu")
    assert _equal(batch, moved)
    assert moved.global_size == 10


def test_golden_parts_batches_and_epochs() -> None:
    cases = golden_json("steps_records.json")["steps_per_epoch"]
    assert {case["dataset"] for case in cases} == {"PACS", "VLCS", "OfficeHome", "TerraIncognita", "DomainNet"}
    for case in cases:
        benchmark = BENCHMARKS[case["dataset"]]
        names = benchmark.domain_names
        sized = SizedSource(benchmark, case["env_sizes"])
        fold = Fold(benchmark=benchmark.name, test_domains=(names[case["test_env"]],), seed=0)
        splits = split_fold(sized, benchmark, fold)
        assert [names.index(name) for name in splits.source_train] == case["train_envs"]
        inner, outer = splits.source_train | splits.test_in, splits.source_validation | splits.test_out
        assert [len(inner[name]) for name in names] == case["in_sizes"]
        assert [len(outer[name]) for name in names] == case["out_sizes"]
        stream = BatchStream(
            sized,
            benchmark,
            splits.source_train,
            batch_size_per_domain=case["batch_size"],
            image_size=1,
            seed=0,
            stage="align",
            num_steps=1,
        )
        shown = stream.named(0).domains.bincount(minlength=len(names)).tolist()
        assert shown == case["batch_sizes"]
        epochs = [len(part) / shown[names.index(name)] for name, part in splits.source_train.items()]
        assert (epochs, min(epochs)) == (case["steps_per_epochs"], case["steps_per_epoch"])
