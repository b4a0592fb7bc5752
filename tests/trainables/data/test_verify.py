"""`verify` names each known variant, and each of ten kinds of damage."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from search_spaces.benchmarks import BENCHMARKS, PACS, VLCS, Benchmark
from search_spaces.errors import UserError
from tests.trainables.data.folders import encoded, tiny_benchmark, write_tiny
from trainables.data.open import open_benchmark
from trainables.data.sample import write_sample
from trainables.data.variants import Variant, known_variants
from trainables.data.verify import Verification, verify, write_manifest


def write_counts(folder: Path, benchmark: Benchmark, variant: Variant, scale: int = 1) -> None:
    """A look-alike of tiny, all different images with a variant's counts, divided by `scale`."""
    number = 0
    domains = variant.domains or dict.fromkeys(benchmark.domain_names, variant.total // len(benchmark.domains))
    rest = variant.total - sum(domains.values())
    for domain, total in domains.items():
        total = (total + (rest if domain == benchmark.domain_names[-1] else 0)) // scale
        classes = benchmark.class_names
        even = [total // len(classes) + (place < total % len(classes)) for place in range(len(classes))]
        for class_name, count in zip(classes, variant.classes.get(domain, even), strict=True):
            place = folder / domain / class_name
            place.mkdir(parents=True)
            for index in range(count):
                number += 1
                (place / f"{index:05d}.jpg").write_bytes(b"P6 1 2 255\n" + number.to_bytes(6, "big"))


PAPERS = [(name, known_variants(name)[0]) for name in ("PACS", "VLCS", "OfficeHome", "TerraIncognita")]


@pytest.mark.parametrize(("name", "variant"), PAPERS, ids=[name for name, _ in PAPERS])
def test_the_papers_variant_is_recognised(tmp_path: Path, name: str, variant: Variant) -> None:
    benchmark = BENCHMARKS[name]
    write_counts(tmp_path / "x", benchmark, variant)
    found = verify(tmp_path / "x", benchmark)
    assert (found.variant, found.accepted, found.errors, found.notes) == (variant.name, True, (), ())
    assert found.num_images == sum(domain.num_images or 0 for domain in benchmark.domains)


def test_todays_terra_incognita_is_recognised(tmp_path: Path) -> None:
    terra = BENCHMARKS["TerraIncognita"]
    write_counts(tmp_path / "x", terra, known_variants("TerraIncognita")[1])
    found = verify(tmp_path / "x", terra)
    assert found.num_images == 24_330
    assert found.accepted
    assert found.variant == "annotations of 2021-01-13 (24,330 images, today's download)"


def _scaled(variant: Variant) -> Variant:
    """DomainNet's variants at a hundredth of their size."""
    domains = {name: count // 100 for name, count in variant.domains.items()}
    total = sum(domains.values()) if domains else variant.total // 100
    return Variant(name=variant.name, accepted=variant.accepted, total=total, domains=domains)


@pytest.mark.parametrize("number", [0, 1])
def test_domain_nets_variants_are_told_apart(tmp_path: Path, number: int) -> None:
    benchmark = BENCHMARKS["DomainNet"]
    variants = [_scaled(variant) for variant in known_variants("DomainNet")]
    write_counts(tmp_path / "x", benchmark, variants[number])
    found = verify(tmp_path / "x", benchmark, variants=variants)
    assert (found.variant, found.accepted) == (variants[number].name, number == 0)


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


def _three_domains_gone(folder: Path) -> None:
    for name in ("art_painting", "cartoon", "sketch"):
        shutil.rmtree(folder / name)


def _empty_class(folder: Path) -> None:
    for file in (folder / "photo" / "dog").iterdir():
        file.unlink()


def _numbers(folder: Path) -> None:
    for number, name in enumerate(PACS.class_names):
        (folder / "sketch" / name).rename(folder / "sketch" / str(number))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "three of four domains missing": (
        _three_domains_gone,
        "3 of 4 domain folders are missing: art_painting, cartoon, sketch",
    ),
    "a domain in other case": (
        lambda folder: (folder / "photo").rename(folder / "Photo"),
        "the domain folder photo is spelled Photo",
    ),
    "a stray folder": (lambda folder: (folder / "cartoon_old").mkdir(), "the folder cartoon_old is no domain of PACS"),
    "a class missing in one domain": (
        lambda folder: shutil.rmtree(folder / "photo" / "dog"),
        "photo lacks the class folder dog",
    ),
    "a class in other case in one domain": (
        lambda folder: (folder / "photo" / "dog").rename(folder / "photo" / "Dog"),
        "photo: the class folder dog is spelled Dog",
    ),
    "an empty class": (_empty_class, "photo/dog has no image"),
    "an empty file": (
        lambda folder: (folder / "photo" / "dog" / "000.jpg").write_bytes(b""),
        "1 image cannot be read: photo/dog/000.jpg (the file is empty)",
    ),
    "a text named .jpg": (
        lambda folder: (folder / "photo" / "dog" / "001.jpg").write_text("see the web page"),
        "1 image cannot be read: photo/dog/001.jpg (not an image file)",
    ),
    "a truncated image": (
        lambda folder: (folder / "photo" / "dog" / "002.jpg").write_bytes(encoded(1, "JPEG", side=64)[:700]),
        "1 image cannot be read: photo/dog/002.jpg (image file is truncated",
    ),
    "classes named by numbers": (_numbers, "sketch has class folders named by numbers (0, 1, 2, 3, 4, 5, 6)"),
    "an extra class": (
        lambda folder: (folder / "photo" / "cow").mkdir(),
        "photo has the folder cow, which is no class",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named(pacs: Path, damage: str) -> None:
    do, expected = DAMAGE[damage]
    assert verify(pacs, PACS, variants=[]).accepted
    do(pacs)
    found = verify(pacs, PACS, variants=[])
    assert any(error.startswith(expected) for error in found.errors), found.errors
    assert (found.variant, found.accepted, found.manifest) == ("damaged", False, "")


def test_all_damage_is_listed_at_once(pacs: Path) -> None:
    for name in ("an empty file", "a text named .jpg", "a class in other case in one domain", "a stray folder"):
        if name != "a class in other case in one domain":
            DAMAGE[name][0](pacs)
    (pacs / "sketch" / "dog").rename(pacs / "sketch" / "DOG")
    found = verify(pacs, PACS)
    assert len(found.errors) == 3
    assert "2 images cannot be read" in found.errors[2]
    assert found.variant == "damaged: nearest papers"


def test_a_few_missing_images_name_the_nearest_variant(tmp_path: Path) -> None:
    write_counts(tmp_path / "x", VLCS, known_variants("VLCS")[0])
    for number in range(3):
        (tmp_path / "x" / "SUN09" / "dog" / f"{number:05d}.jpg").unlink()
    found = verify(tmp_path / "x", VLCS)
    assert (found.variant, found.accepted, found.errors) == ("unknown", False, ())
    assert found.notes == ("nearest known variant: papers; SUN09 3,279 instead of 3,282 (-3)",)


def test_classes_off_by_one_are_noticed(tmp_path: Path) -> None:
    write_counts(tmp_path / "x", VLCS, known_variants("VLCS")[0])
    folder = tmp_path / "x" / "LabelMe"
    for name in VLCS.class_names:
        (folder / name).rename(folder / f"{name}-old")
    for name, other in zip(VLCS.class_names, [*VLCS.class_names[1:], VLCS.class_names[0]], strict=True):
        (folder / f"{name}-old").rename(folder / other)
    found = verify(tmp_path / "x", VLCS)
    assert found.variant == "unknown"
    assert "LabelMe: the class counts are those of papers in another order; labels may be mixed up" in found.notes


def test_duplicates_are_counted_by_kind(pacs: Path) -> None:
    photo = pacs / "photo"
    shutil.copy(photo / "dog" / "000.jpg", photo / "dog" / "again.jpg")
    shutil.copy(photo / "dog" / "001.jpg", photo / "horse" / "dog.jpg")
    shutil.copy(photo / "dog" / "002.jpg", pacs / "sketch" / "dog" / "photo.jpg")
    found = verify(pacs, PACS, variants=[])
    assert found.accepted
    assert found.notes == (
        "1 pictures stand in several classes: photo/dog/001.jpg = photo/horse/dog.jpg",
        "1 pictures stand in several domains: photo/dog/002.jpg = sketch/dog/photo.jpg",
        "1 pictures stand twice in one class: photo/dog/000.jpg = photo/dog/again.jpg",
    )


def test_the_manifest_is_a_file_with_the_folds_hash(pacs: Path, tmp_path: Path) -> None:
    found = verify(pacs, PACS, variants=[])
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
    found = verify(tmp_path / "tiny", tiny_benchmark())
    assert isinstance(found, Verification)
    assert (found.variant, found.accepted, found.num_images) == ("unknown", True, 36)
    mapping = found.to_mapping()
    assert mapping["class_counts"]["art"] == {"cat": 6, "dog": 6}  # type: ignore[index]
    assert "rows" not in mapping
    with pytest.raises(UserError, match="there is no folder"):
        verify(tmp_path / "nowhere", tiny_benchmark())
