"""`verify` names each known variant of each benchmark, whole and in each of eleven kinds of damage."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from search_spaces.benchmarks import BENCHMARKS, HEADLINE, Benchmark
from tests.support.folders import encoded
from tests.support.look_alikes import variants_to_write, write_counts
from trainables.data.formats.variants import Variant
from trainables.data.formats.verify import Verification, verify_benchmark


@dataclass(frozen=True, kw_only=True, slots=True)
class LookAlike:
    """A folder with the counts of one of a benchmark's known variants."""

    benchmark: Benchmark
    variant: Variant
    folder: Path

    def verify(self) -> Verification:
        """A look that reads only the files that changed since the last one."""
        cache = self.folder.with_name("cache")
        return verify_benchmark(
            self.folder, self.benchmark, cache=cache, variants=variants_to_write(self.benchmark.name)
        )


class Damage:
    """Changes to a folder that are taken back."""

    def __init__(self, look_alike: LookAlike) -> None:
        self.folder = look_alike.folder
        self.benchmark = look_alike.benchmark
        self.class_name = look_alike.benchmark.class_names[0]
        self.domain = look_alike.benchmark.domain_names[0]
        self._aside = look_alike.folder.with_name("aside")
        self._undo: list[Callable[[], object]] = []

    def rename(self, path: str, name: str) -> None:
        """Give another name."""
        before = self.folder / path
        after = before.with_name(name)
        before.rename(after)
        self._undo.append(lambda: after.rename(before))

    def remove(self, path: str) -> None:
        """Take a file or folder away."""
        before, after = self.folder / path, self._aside / path
        after.parent.mkdir(parents=True, exist_ok=True)
        before.rename(after)
        self._undo.append(lambda: after.rename(before))

    def make(self, path: str) -> None:
        """Make an empty folder."""
        (self.folder / path).mkdir()
        self._undo.append((self.folder / path).rmdir)

    def replace(self, content: bytes) -> None:
        """Write something else into the first file."""
        path = f"{self.domain}/{self.class_name}/00000.jpg"
        self.remove(path)
        (self.folder / path).write_bytes(content)
        self._undo.append((self.folder / path).unlink)

    def undo(self) -> None:
        """Make everything as it was."""
        for step in reversed(self._undo):
            step()


def _one_domain_left(damage: Damage) -> str:
    domains = damage.benchmark.domain_names
    for name in domains[:-1]:
        damage.remove(name)
    return f"{len(domains) - 1} of {len(domains)} domain folders are missing: {', '.join(domains[:-1])}"


def _domain_in_other_case(damage: Damage) -> str:
    damage.rename(damage.domain, damage.domain.swapcase())
    return f"the domain folder {damage.domain} is spelled {damage.domain.swapcase()}"


def _stray_folder(damage: Damage) -> str:
    damage.make("cartoon_old")
    return f"the folder cartoon_old is no domain of {damage.benchmark.name}"


def _class_missing(damage: Damage) -> str:
    damage.remove(f"{damage.domain}/{damage.class_name}")
    return f"{damage.domain} lacks the class folder {damage.class_name}"


def _class_in_other_case(damage: Damage) -> str:
    damage.rename(f"{damage.domain}/{damage.class_name}", damage.class_name.swapcase())
    return f"{damage.domain}: the class folder {damage.class_name} is spelled {damage.class_name.swapcase()}"


def _empty_class(damage: Damage) -> str:
    damage.remove(f"{damage.domain}/{damage.class_name}")
    damage.make(f"{damage.domain}/{damage.class_name}")
    return f"{damage.domain}/{damage.class_name} has no image"


def _bad_file(content: bytes, reason: str) -> Callable[[Damage], str]:
    def do(damage: Damage) -> str:
        damage.replace(content)
        return f"1 image cannot be read: {damage.domain}/{damage.class_name}/00000.jpg ({reason}"

    return do


def _numbers(damage: Damage) -> str:
    for number, name in enumerate(damage.benchmark.class_names):
        damage.rename(f"{damage.domain}/{name}", str(number))
    return f"{damage.domain} has class folders named by numbers (0, 1, "


def _extra_class(damage: Damage) -> str:
    damage.make(f"{damage.domain}/unicorn")
    return f"{damage.domain} has the folder unicorn, which is no class"


DAMAGE: dict[str, Callable[[Damage], str]] = {
    "all domains but one missing": _one_domain_left,
    "a domain in other case": _domain_in_other_case,
    "a stray folder": _stray_folder,
    "a class missing in one domain": _class_missing,
    "a class in other case in one domain": _class_in_other_case,
    "an empty class": _empty_class,
    "an empty file": _bad_file(b"", "the file is empty)"),
    "a text named .jpg": _bad_file(b"see the web page", "not an image file)"),
    "a truncated image": _bad_file(encoded(1, "JPEG", side=64)[:700], "image file is truncated"),
    "classes named by numbers": _numbers,
    "an extra class": _extra_class,
}
"""Each does its damage and returns how the error begins."""

WRITTEN = [(name, variant) for name in HEADLINE for variant in variants_to_write(name)]


@pytest.fixture(scope="module", params=WRITTEN, ids=[f"{name}, {variant.name}" for name, variant in WRITTEN])
def look_alike(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LookAlike]:
    name, variant = request.param
    root = tmp_path_factory.mktemp("look_alike")
    made = LookAlike(benchmark=BENCHMARKS[name], variant=variant, folder=root / "x")
    write_counts(made.folder, made.benchmark, variant)
    yield made
    shutil.rmtree(root)


def test_each_known_variant_is_named_whole_and_damaged(look_alike: LookAlike) -> None:
    variant = look_alike.variant
    whole = look_alike.verify()
    assert (whole.variant, whole.accepted, whole.errors) == (variant.name, variant.accepted, ())
    assert whole.num_images == variant.total
    for name, do in DAMAGE.items():
        damage = Damage(look_alike)
        expected = do(damage)
        found = look_alike.verify()
        damage.undo()
        assert any(error.startswith(expected) for error in found.errors), (name, found.errors)
        assert found.variant in (f"damaged: {variant.name}", f"damaged: nearest {variant.name}"), name
        assert (found.accepted, found.manifest) == (False, ""), name
    assert look_alike.verify().manifest == whole.manifest, "the damage was taken back"


def test_a_few_images_missing_in_two_domains_do_not_make_another_variant(look_alike: LookAlike) -> None:
    damage = Damage(look_alike)
    for domain in look_alike.benchmark.domain_names[:2]:
        damage.remove(f"{domain}/{look_alike.benchmark.class_names[1]}/00000.jpg")
    found = look_alike.verify()
    damage.undo()
    assert found.notes[0].startswith(f"nearest known variant: {look_alike.variant.name}; ")
    assert not found.accepted
