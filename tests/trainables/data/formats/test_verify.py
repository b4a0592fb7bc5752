"""`verify` lists everything that is wrong with a folder at once; each variant and damage is in `test_damage.py`."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from search_spaces.benchmarks import BENCHMARKS, PACS, VLCS, Benchmark
from search_spaces.errors import UserError
from tests.support.folders import tiny_benchmark, write_tiny
from tests.support.look_alikes import write_counts
from trainables.data.formats.open import benchmark_from_folder, open_benchmark
from trainables.data.formats.pack import write_pack
from trainables.data.formats.sample import write_sample
from trainables.data.formats.variants import known_variants
from trainables.data.formats.verify import Verification, verify_benchmark, write_manifest

PAPERS = [(name, known_variants(name)[0]) for name in ("PACS", "VLCS", "OfficeHome", "TerraIncognita")]


def test_known_counts_are_those_of_the_benchmarks_and_of_the_domains_sums() -> None:
    for name, variant in [*PAPERS, ("DomainNet", known_variants("DomainNet")[0])]:
        assert variant.domains == {domain.name: domain.num_images for domain in BENCHMARKS[name].domains}
        for domain, counts in variant.classes.items():
            assert sum(counts) == variant.domains[domain]
    terra = known_variants("TerraIncognita")[1]
    assert sum(terra.domains.values()) == terra.total == 24_330


@pytest.fixture
def pacs(tmp_path: Path) -> Path:
    write_sample(tmp_path, images_per_class=6, image_side=16, benchmarks=["PACS"])
    return tmp_path / "PACS"


def test_all_damage_is_listed_at_once(pacs: Path) -> None:
    dogs = pacs / "photo" / "dog"
    (dogs / "000.jpg").write_bytes(b"")
    (dogs / "001.jpg").write_text("see the web page")
    (dogs / "002.jpg").unlink()
    (dogs / "002.jpg").symlink_to("nowhere")
    (dogs / "003.jpg").unlink()
    os.mkfifo(dogs / "003.jpg")
    (pacs / "cartoon_old").mkdir()
    (pacs / "sketch" / "dog").rename(pacs / "sketch" / "DOG")
    found = verify_benchmark(pacs, PACS)
    assert found.errors == (
        "the folder cartoon_old is no domain of PACS",
        "sketch: the class folder dog is spelled DOG",
        "4 images cannot be read: photo/dog/000.jpg (the file is empty), photo/dog/001.jpg (not an image file), "
        "photo/dog/002.jpg (No such file or directory), photo/dog/003.jpg (not a regular file)",
    )
    assert found.variant == "damaged: nearest papers"


def test_a_few_missing_images_name_the_nearest_variant(tmp_path: Path) -> None:
    write_counts(tmp_path / "x", VLCS, known_variants("VLCS")[0])
    for number in range(3):
        (tmp_path / "x" / "SUN09" / "dog" / f"{number:05d}.jpg").unlink()
    found = verify_benchmark(tmp_path / "x", VLCS)
    assert (found.variant, found.accepted, found.errors) == ("unknown", False, ())
    assert found.notes[0] == "nearest known variant: papers; SUN09 3,279 instead of 3,282 (-3)"


@pytest.mark.parametrize(("benchmark", "domain"), [(VLCS, "LabelMe"), (PACS, "photo")])
def test_classes_off_by_one_are_noticed(benchmark: Benchmark, domain: str, tmp_path: Path) -> None:
    write_counts(tmp_path / "x", benchmark, known_variants(benchmark.name)[0])
    folder, names = tmp_path / "x" / domain, benchmark.class_names
    for name in names:
        (folder / name).rename(folder / f"{name}-old")
    for name, other in zip(names, [*names[1:], names[0]], strict=True):
        (folder / f"{name}-old").rename(folder / other)
    found = verify_benchmark(tmp_path / "x", benchmark)
    assert found.variant == "unknown"
    assert f"{domain}: the class counts are those of papers in another order; labels may be mixed up" in found.notes


def test_duplicates_are_counted_by_kind(pacs: Path) -> None:
    photo = pacs / "photo"
    shutil.copy(photo / "dog" / "000.jpg", photo / "dog" / "again.jpg")
    shutil.copy(photo / "dog" / "001.jpg", photo / "horse" / "dog.jpg")
    shutil.copy(photo / "dog" / "002.jpg", pacs / "sketch" / "dog" / "photo.jpg")
    found = verify_benchmark(pacs, PACS, variants=[])
    assert found.accepted
    assert found.notes == (
        "1 pictures stand in several classes: photo/dog/001.jpg = photo/horse/dog.jpg",
        "1 pictures stand in several domains: photo/dog/002.jpg = sketch/dog/photo.jpg",
        "1 pictures stand twice in one class: photo/dog/000.jpg = photo/dog/again.jpg",
    )


def test_a_picture_of_another_class_in_another_domain_is_noticed(pacs: Path) -> None:
    shutil.copy(pacs / "photo" / "dog" / "003.jpg", pacs / "sketch" / "horse" / "dog.jpg")
    found = verify_benchmark(pacs, PACS, variants=[])
    assert found.notes == (
        "1 pictures have another class in another domain; labels may be mixed up: "
        "photo/dog/003.jpg = sketch/horse/dog.jpg",
    )


def test_notes_say_how_far_labels_could_be_checked(tmp_path: Path) -> None:
    checked = "class folders by name and order, and pictures that stand in several domains"
    write_sample(tmp_path, images_per_class=1, image_side=16, benchmarks=["VLCS", "TerraIncognita"])
    terra = BENCHMARKS["TerraIncognita"]
    assert verify_benchmark(tmp_path / terra.folder, terra).notes[-1] == (
        "labels could not be checked by counts: no counts per class are known; checked: the 10 " + checked
    )
    assert (
        verify_benchmark(tmp_path / "VLCS", VLCS).notes[-1] == f"labels checked: the counts per class, the 5 {checked}"
    )


def test_names_that_differ_only_in_case_are_named(pacs: Path) -> None:
    shutil.copytree(pacs, pacs.with_name("mine"))
    shutil.copytree(pacs / "photo", pacs.with_name("mine") / "Photo")
    mine = benchmark_from_folder("mine", pacs.parent)
    found = verify_benchmark(pacs.with_name("mine"), mine)
    assert found.errors == ("the domain folders Photo and photo differ only in case",)
    assert not found.accepted
    with pytest.raises(UserError, match="has the domain folders Photo and photo, which differ only in case; keep one"):
        open_benchmark(mine, pacs.parent)
    shutil.rmtree(pacs.with_name("mine") / "Photo")
    for domain in PACS.domain_names:
        shutil.copytree(pacs / domain / "dog", pacs.with_name("mine") / domain / "Dog")
    mine = benchmark_from_folder("mine", pacs.parent)
    assert verify_benchmark(pacs.with_name("mine"), mine).errors == (
        "the class folders Dog and dog differ only in case",
    )
    with pytest.raises(UserError, match="mine has the classes Dog and dog, which differ only in case"):
        open_benchmark(mine, pacs.parent)


def test_a_folder_that_cannot_be_read_is_one_finding(pacs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse(*names: str) -> None:
        # The tests may run as root, whom no mode keeps out.
        def scan(place: str | os.PathLike[str]) -> Iterator[os.DirEntry[str]]:
            if Path(place) in [pacs / name for name in names]:
                raise PermissionError(13, "Permission denied", os.fspath(place))
            return scandir(place)

        monkeypatch.setattr(os, "scandir", scan)

    refuse("photo/dog", "sketch")
    (pacs / "cartoon_old").mkdir()
    found = verify_benchmark(pacs, PACS)
    assert found.errors == (
        "the folder cartoon_old is no domain of PACS",
        f"cannot read the folder {pacs}/sketch: Permission denied",
        f"cannot read the folder {pacs}/photo/dog: Permission denied",
    )
    refuse(".")
    with pytest.raises(UserError, match=f"cannot read the folder {pacs}: Permission denied"):
        verify_benchmark(pacs, PACS)
    with pytest.raises(UserError, match=f"cannot read the folder {pacs}: Permission denied"):
        open_benchmark(PACS, pacs.parent)


def test_a_name_that_is_not_utf8_is_one_clear_line(pacs: Path, tmp_path: Path) -> None:
    dogs = os.fsencode(pacs / "photo" / "dog")
    os.rename(dogs + b"/000.jpg", dogs + b"/\xff.jpg")
    for _ in range(2):
        found = verify_benchmark(pacs, PACS, cache=tmp_path / "cache")
        assert found.errors == ("1 file name cannot be read as UTF-8: photo/dog/\\xff.jpg; rename them",)
    with pytest.raises(UserError, match=r"PACS has 1 names that are not UTF-8, as photo/dog/\\xff.jpg; rename them"):
        write_pack(open_benchmark(PACS, pacs.parent), tmp_path / "out" / "PACS.pack")
    os.rename(os.fsencode(pacs / "photo"), os.fsencode(pacs) + b"/\xfe")
    with pytest.raises(UserError, match=r"has the folder \\xfe, whose name is not UTF-8; rename it"):
        open_benchmark(PACS, pacs.parent)


def test_the_manifest_is_a_file_with_the_folds_hash(pacs: Path, tmp_path: Path) -> None:
    found = verify_benchmark(pacs, PACS, variants=[])
    write_manifest(found, tmp_path / "out" / "PACS.manifest.tsv")
    content = (tmp_path / "out" / "PACS.manifest.tsv").read_bytes()
    assert hashlib.sha256(content).hexdigest() == found.manifest == open_benchmark(PACS, pacs.parent).manifest
    first = content.decode().splitlines()[0].split("\t")
    image = pacs / first[0]
    assert first[1:] == [
        str(image.stat().st_size),
        hashlib.sha256(image.read_bytes()).hexdigest(),
        "dog",
        "art_painting",
    ]
    with pytest.raises(UserError, match="cannot write the manifest"):
        write_manifest(found, tmp_path / "out" / "PACS.manifest.tsv" / "below")


def test_a_folder_without_known_variants_is_only_checked(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    found = verify_benchmark(tmp_path / "tiny", tiny_benchmark())
    assert isinstance(found, Verification)
    assert (found.variant, found.accepted, found.num_images) == ("unknown", True, 36)
    mapping = found.to_mapping()
    assert mapping["class_counts"]["art"] == {"cat": 6, "dog": 6}  # type: ignore[index]
    assert "rows" not in mapping
    with pytest.raises(UserError, match="there is no folder"):
        verify_benchmark(tmp_path / "nowhere", tiny_benchmark())
