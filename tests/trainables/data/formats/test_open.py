"""Folders are read in ImageFolder's order, and bad ones end in one clear line."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import ImageFolder

from search_spaces.benchmarks import BENCHMARKS, HEADLINE
from search_spaces.errors import UserError
from tests.support.folders import CLASSES, DOMAINS, encoded, tiny_benchmark, write_tiny
from trainables.data.formats.folder import FolderSource
from trainables.data.formats.images import ImageSource
from trainables.data.formats.manifest import ManifestRow, manifest_hash
from trainables.data.formats.open import (
    benchmark_from_folder,
    check_readable,
    find_unreadable,
    open_benchmark,
    resolve_benchmark,
)
from trainables.data.formats.sample import write_sample


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny(tmp_path)


def test_the_order_is_image_folders(folder: Path) -> None:
    for name in ("b.JPG", "B.png", "a b.jpeg", "é.png", "10.png", "notes.txt", "x.gif"):
        (folder / "art" / "cat" / name).write_bytes(encoded(1))
    nested = folder / "art" / "dog" / "more" / "deep"
    nested.mkdir(parents=True)
    for place in (nested, nested.parent):
        (place / "z.webp").write_bytes(encoded(2, "WEBP"))
    (folder / "photo" / "dog" / "linked").symlink_to(nested, target_is_directory=True)
    source = open_benchmark(tiny_benchmark(), folder.parent)
    for domain in DOMAINS:
        reference = ImageFolder(str(folder / domain))
        assert [str(folder / path) for path in source.paths(domain)] == [path for path, _ in reference.samples]
        assert source.labels(domain).tolist() == [label for _, label in reference.samples]
    assert source.class_names == CLASSES
    assert len(source.paths("photo")) == 13


def test_plain_and_hidden_files_and_folders_are_left_out(folder: Path) -> None:
    before = open_benchmark(tiny_benchmark(), folder.parent)
    paths = {domain: list(before.paths(domain)) for domain in DOMAINS}
    (folder / "art_train.txt").write_text("a split list")
    (folder / "art" / "README.md").write_text("about")
    (folder / ".git").mkdir()
    (folder / "art" / ".ipynb_checkpoints").mkdir()
    (folder / "art" / "cat" / "._0.png").write_bytes(b"AppleDouble")
    after = open_benchmark(tiny_benchmark(), folder.parent)
    assert {domain: list(after.paths(domain)) for domain in DOMAINS} == paths


def test_pixels_are_pillows(folder: Path) -> None:
    source = open_benchmark(tiny_benchmark(), folder.parent)
    reference = ImageFolder(str(folder / "sketch"))
    for index in range(len(reference)):
        assert np.array_equal(np.asarray(source.read("sketch", index)), np.asarray(reference[index][0]))


def test_a_source_travels_to_another_process(folder: Path) -> None:
    for source in (open_benchmark(tiny_benchmark(), folder.parent), open_benchmark(BENCHMARKS["icons"])):
        assert isinstance(source, ImageSource)
        copy = pickle.loads(pickle.dumps(source))  # noqa: S301
        domain = source.domain_names[0]
        assert copy.manifest == source.manifest
        assert copy.read(domain, 3).tobytes() == source.read(domain, 3).tobytes()


def test_the_manifest_follows_content_and_is_worked_out_by_hand() -> None:
    import hashlib

    rows = [ManifestRow("b/c/2", 7, "ff", "c", "b"), ManifestRow("a/c/1", 3, "00", "c", "a", "train")]
    text = "a/c/1\t3\t00\tc\ta\ttrain\nb/c/2\t7\tff\tc\tb\n"
    assert manifest_hash(rows) == hashlib.sha256(text.encode()).hexdigest()


def test_the_manifest_changes_with_a_byte_and_not_with_the_place(folder: Path, tmp_path: Path) -> None:
    first = open_benchmark(tiny_benchmark(), folder.parent).manifest
    shutil.copytree(folder, tmp_path / "elsewhere" / "tiny")
    assert open_benchmark(tiny_benchmark(), tmp_path / "elsewhere").manifest == first
    (folder / "art" / "cat" / "0.png").write_bytes(encoded(999))
    assert open_benchmark(tiny_benchmark(), folder.parent).manifest != first


def test_a_second_scan_reads_only_what_changed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import trainables.data.formats.manifest as manifest

    cache = tmp_path / "cache"
    first = open_benchmark(tiny_benchmark(), folder.parent, cache=cache).manifest
    (folder / "art" / "cat" / "1.png").write_bytes(encoded(998))
    decoded: list[int] = []
    monkeypatch.setattr(manifest, "problem_of", lambda data: decoded.append(len(data)) or "")
    second = open_benchmark(tiny_benchmark(), folder.parent, cache=cache).manifest
    assert second != first
    assert len(decoded) == 1
    assert second == open_benchmark(tiny_benchmark(), folder.parent).manifest


def test_a_file_that_could_not_be_read_is_looked_at_again(folder: Path, tmp_path: Path) -> None:
    file, cache = folder / "art" / "cat" / "0.png", tmp_path / "cache"
    content = file.read_bytes()
    file.unlink()
    file.symlink_to(tmp_path / "there later")
    assert find_unreadable(open_benchmark(tiny_benchmark(), folder.parent, cache=cache)) == [
        "art/cat/0.png: No such file or directory"
    ]
    (tmp_path / "there later").write_bytes(content)
    source = open_benchmark(tiny_benchmark(), folder.parent, cache=cache)
    assert find_unreadable(source) == []
    assert source.manifest == open_benchmark(tiny_benchmark(), folder.parent).manifest


def test_known_benchmarks_and_letters_in_any_case() -> None:
    assert resolve_benchmark("pacs") is BENCHMARKS["PACS"]


def test_a_folder_becomes_a_benchmark(folder: Path) -> None:
    for name in (f"folder:{folder}", "tiny"):
        benchmark = resolve_benchmark(name, folder.parent)
        assert (benchmark.name, benchmark.domain_names, benchmark.class_names) == ("tiny", DOMAINS, CLASSES)
        assert [domain.letter for domain in benchmark.domains] == ["A", "P", "S"]
        assert open_benchmark(benchmark, None).paths("art") == open_benchmark(benchmark, folder.parent).paths("art")


def test_letters_are_as_long_as_needed(tmp_path: Path) -> None:
    for domain in ("snow", "sun", "storm"):
        (tmp_path / "weather" / domain / "cat").mkdir(parents=True)
    benchmark = benchmark_from_folder("weather", tmp_path)
    assert [(domain.name, domain.letter) for domain in benchmark.domains] == [
        ("snow", "sn"),
        ("storm", "st"),
        ("sun", "su"),
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("PACKS", r"unknown benchmark 'PACKS'; nearest: PACS"),
        ("tinny", r"nearest: tiny"),
        ("folder:nowhere", r"folder:nowhere is no folder \(looked for .*DOMAIN/CLASS/image"),
        ("folder:", r"is no folder"),
    ],
)
def test_unknown_names_show_the_nearest(folder: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_benchmark(name, folder.parent)


def _remove(path: str) -> Callable[[Path], None]:
    return lambda folder: shutil.rmtree(folder / path)


def _rename(path: str, name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / path).rename((folder / path).with_name(name))  # type: ignore[return-value]


def _make(path: str) -> Callable[[Path], None]:
    return lambda folder: (folder / path).mkdir()


def _empty_class(folder: Path) -> None:
    for file in (folder / "photo" / "dog").iterdir():
        file.rename(file.with_suffix(".txt"))


def _other_case_everywhere(folder: Path) -> None:
    for domain in DOMAINS:
        (folder / domain / "cat").rename(folder / domain / "Cat")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_remove("photo"), r"Tiny lacks the domain folder photo; .*art, photo, sketch; looked in .*found art, sketch$"),
        (_rename("photo", "Photo"), r"lacks the domain folder photo; .* found Photo, art, sketch$"),
        (_make("Cartoons"), r"the folder Cartoons, which is no domain; .*art, photo, sketch"),
        (_rename("photo/cat", "Cat"), r"Tiny/photo differs from Tiny's classes: other case: Cat instead of cat$"),
        (_other_case_everywhere, r"Tiny/art differs from Tiny's classes: other case: Cat instead of cat$"),
        (_remove("photo/cat"), r"Tiny/photo differs from Tiny's classes: lacks cat$"),
        (_make("photo/cow"), r"Tiny/photo differs from Tiny's classes: has cow as well$"),
        (_empty_class, r"photo has no image in the class folder dog$"),
    ],
)
def test_a_folder_out_of_layout_is_named(folder: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        open_benchmark(tiny_benchmark(), folder.parent)
    assert "\n" not in str(caught.value)


def test_classes_of_a_custom_folder_must_agree(folder: Path) -> None:
    benchmark = benchmark_from_folder("tiny", folder.parent)
    shutil.rmtree(folder / "sketch" / "dog")
    with pytest.raises(UserError, match=r"tiny/sketch differs from tiny's classes: lacks dog"):
        open_benchmark(benchmark, folder.parent)


def test_a_missing_benchmark_says_what_was_found_and_how_to_get_it(folder: Path) -> None:
    with pytest.raises(
        UserError, match=r"PACS wants the folder .*/PACS; .* has tiny; .*data fetch --benchmark PACS --"
    ):
        open_benchmark(BENCHMARKS["PACS"], folder.parent)
    with pytest.raises(UserError, match=r"the data root .*/nowhere is not a folder"):
        open_benchmark(BENCHMARKS["PACS"], folder.parent / "nowhere")
    with pytest.raises(UserError, match=r"PACS needs --data-root"):
        open_benchmark(BENCHMARKS["PACS"], None)


def test_one_domain_is_too_few(folder: Path) -> None:
    with pytest.raises(UserError, match="Tiny has 1 domain; leaving one out needs two or more"):
        open_benchmark(tiny_benchmark(domains=("art",)), folder.parent)
    shutil.rmtree(folder / "art")
    shutil.rmtree(folder / "photo")
    with pytest.raises(UserError, match="has sketch; leaving a domain out needs two or more"):
        benchmark_from_folder("tiny", folder.parent)


def test_unreadable_images_are_listed_up_to_ten_with_the_count(folder: Path) -> None:
    whole = encoded(5, "JPEG", side=64)
    (folder / "art" / "cat" / "0.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "art" / "cat" / "empty.jpg").write_bytes(b"")
    (folder / "photo" / "dog" / "text.jpg").write_text("not a picture")
    (folder / "sketch" / "dog" / "half.png").write_bytes(encoded(7)[:90])
    source = open_benchmark(tiny_benchmark(), folder.parent)
    problems = find_unreadable(source)
    assert [line.split(":")[0] for line in problems] == [
        "art/cat/0.jpg",
        "art/cat/empty.jpg",
        "photo/dog/text.jpg",
        "sketch/dog/half.png",
    ]
    assert "truncated" in problems[0]
    assert problems[1].endswith("the file is empty")
    assert problems[2].endswith("not an image file")
    for number in range(9):
        (folder / "sketch" / "cat" / f"bad{number}.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"Tiny: 13 images cannot be read: art/cat/0.jpg: .*; and 3 more$"):
        check_readable(open_benchmark(tiny_benchmark(), folder.parent))


def test_a_folder_of_readable_images_passes(folder: Path) -> None:
    check_readable(open_benchmark(tiny_benchmark(), folder.parent))
    check_readable(open_benchmark(BENCHMARKS["icons"]))


def test_reading_a_bad_image_names_it(folder: Path) -> None:
    (folder / "art" / "cat" / "0.png").write_bytes(b"")
    source = open_benchmark(tiny_benchmark(), folder.parent)
    with pytest.raises(UserError, match=r"cannot read image Tiny/art/cat/0.png: the file is empty"):
        source.read("art", 0)
    (folder / "art" / "cat" / "1.png").unlink()
    with pytest.raises(UserError, match=r"cannot read image Tiny/art/cat/1.png: No such file"):
        source.read("art", 1)
    with pytest.raises(UserError, match=r"cannot read image Tiny/art/cat/1.png: No such file"):
        _ = source.manifest


def test_icons_come_from_the_package_in_image_folders_order() -> None:
    source = open_benchmark(BENCHMARKS["icons"])
    assert source.domain_names == ("clipart", "flat", "line", "render3d")
    for domain in source.domain_names:
        paths = list(source.paths(domain))
        assert paths == sorted(paths)
        assert [source.class_names[label] for label in source.labels(domain)] == [path.split("/")[1] for path in paths]
        pools = [set(source.pool(domain, role).tolist()) for role in ("source", "test")]
        assert not pools[0] & pools[1]
        assert len(pools[0] | pools[1]) == len(paths)
        assert source.read(domain, 0).size == (64, 64)


def test_the_sample_has_the_layout_of_all_five(tmp_path: Path) -> None:
    counts = write_sample(tmp_path, images_per_class=1, image_side=16)
    assert set(counts) == set(HEADLINE)
    for name in HEADLINE:
        benchmark = BENCHMARKS[name]
        source = open_benchmark(benchmark, tmp_path)
        assert source.class_names == benchmark.class_names
        assert sum(len(source.labels(domain)) for domain in source.domain_names) == counts[name]


def test_the_sample_is_written_once_and_never_over_a_real_benchmark(tmp_path: Path) -> None:
    write_sample(tmp_path, benchmarks=["PACS"])
    file = tmp_path / "PACS" / "photo" / "dog" / "000.jpg"
    state = file.stat().st_mtime_ns
    manifest = open_benchmark(BENCHMARKS["PACS"], tmp_path).manifest
    write_sample(tmp_path, benchmarks=["PACS"])
    assert file.stat().st_mtime_ns == state
    write_sample(tmp_path, benchmarks=["PACS"], seed=1)
    assert open_benchmark(BENCHMARKS["PACS"], tmp_path).manifest != manifest
    (tmp_path / "PACS" / ".sample.json").unlink()
    with pytest.raises(UserError, match="is there and is no sample"):
        write_sample(tmp_path, benchmarks=["PACS"])
    with pytest.raises(UserError, match="nearest: PACS"):
        write_sample(tmp_path, benchmarks=["PACSS"])


def test_a_folder_source_indexes_without_reading_images(folder: Path) -> None:
    (folder / "art" / "cat" / "0.png").chmod(0o000)
    assert len(FolderSource(folder, tiny_benchmark()).labels("art")) == 12
