"""Splits are DomainBed's, index for index."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from search_spaces.benchmarks import BENCHMARKS
from search_spaces.errors import UserError
from search_spaces.folds import Fold
from tests.support.folders import tiny_benchmark, write_tiny
from tests.support.golden import golden_json, golden_path
from trainables.data.formats.open import open_benchmark
from trainables.data.loading.splits import check_splits, seed_hash, split_fold, split_indices


def test_seed_hashes_are_the_golden_ones() -> None:
    cases = golden_json("seed_split.json")["seed_hash"]
    assert len(cases) > 20
    for case in cases:
        assert seed_hash(*case["args"]) == case["hash"], case


def test_a_numpy_integer_hashes_like_a_plain_one() -> None:
    assert seed_hash(np.int64(3), np.int32(1)) == seed_hash(3, 1)


def test_validation_counts_are_the_golden_ones() -> None:
    for num_images, fraction, num_validation in golden_json("seed_split.json")["n_out"]:
        validation, training = split_indices(num_images, 0, 0, fraction)
        assert (len(validation), len(validation) + len(training)) == (num_validation, num_images)


def test_split_indices_are_the_golden_ones() -> None:
    golden = np.load(golden_path("split_indices.npz"))
    assert len(golden.files) > 40
    for name in golden.files:
        found = re.fullmatch(r"n(\d+)_t(\d+)_e(\d+)", name)
        assert found is not None
        num_images, seed, domain_index = map(int, found.groups())
        validation, training = split_indices(num_images, seed, domain_index)
        assert np.array_equal(np.concatenate([validation, training]), golden[name]), name
        assert len(validation) == int(0.2 * num_images)


def test_a_fold_leaves_the_test_domain_out(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    benchmark = tiny_benchmark()
    source = open_benchmark(benchmark, tmp_path)
    splits = split_fold(source, benchmark, Fold(benchmark="Tiny", test_domains=("photo",), seed=1))
    assert list(splits.source_train) == list(splits.source_validation) == ["art", "sketch"]
    assert list(splits.test_in) == list(splits.test_out) == ["photo"]
    validation, training = split_indices(12, 1, 2)
    assert np.array_equal(splits.source_validation["sketch"], validation)
    assert np.array_equal(splits.source_train["sketch"], training)
    validation, training = split_indices(12, 1, 1)
    assert np.array_equal(splits.test_in["photo"], training), "the reported part is the 80%"
    assert np.array_equal(splits.test_out["photo"], validation)


def test_icons_train_on_one_half_of_the_concepts_and_test_on_the_other() -> None:
    benchmark = BENCHMARKS["icons"]
    source = open_benchmark(benchmark)
    splits = split_fold(source, benchmark, Fold(benchmark="icons", test_domains=("line",), seed=0))
    seen = {
        source.paths(domain)[index].split("/", 1)[1]
        for part in (splits.source_train, splits.source_validation)
        for domain, indices in part.items()
        for index in indices
    }
    tested = [*splits.test_in["line"], *splits.test_out["line"]]
    unseen = {source.paths("line")[index].split("/", 1)[1] for index in tested}
    assert len(unseen) > 200
    assert len(seen) > 500
    assert not seen & unseen


def test_a_domain_too_small_for_a_validation_part_is_named(tmp_path: Path) -> None:
    write_tiny(tmp_path, images_per_class=2)
    benchmark = tiny_benchmark()
    with pytest.raises(UserError, match=r"Tiny/art has 4 images in the source role"):
        split_fold(
            open_benchmark(benchmark, tmp_path), benchmark, Fold(benchmark="Tiny", test_domains=("photo",), seed=0)
        )


def test_a_fold_without_source_domains_is_refused(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    benchmark = tiny_benchmark()
    fold = Fold(benchmark="Tiny", test_domains=("art", "photo", "sketch"), seed=0)
    with pytest.raises(UserError, match="no source domain left"):
        split_fold(open_benchmark(benchmark, tmp_path), benchmark, fold)


@pytest.mark.parametrize(
    ("role", "count", "said"),
    [
        ("source", 4, "tiny/DOMAIN has 4 images in the source role; a 20% validation part needs 5"),
        ("test", 1, "tiny/DOMAIN has 1 image in the test role; a 20% validation part needs 5"),
        ("source", 5, ""),
        ("test", 5, ""),
    ],
)
def test_a_domain_that_is_too_small_in_either_role_is_found(role: str, count: int, said: str) -> None:
    benchmark = replace(tiny_benchmark(), name="tiny")
    last = benchmark.domain_names[-1]

    class Source:
        def pool(self, domain: str, asked: str) -> range:
            return range(count if (domain, asked) == (last, role) else 6)

    found = ""
    try:
        check_splits(Source(), benchmark)  # type: ignore[arg-type]
    except UserError as error:
        found = str(error)
    assert found == said.replace("DOMAIN", last)
