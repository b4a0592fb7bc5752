"""The benchmarks as values: domains in byte order, their letters, classes, image counts, steps and intervals.

Source: DomainBed's folders and counts, and the defaults of the VL2V-ADiP authors' scripts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from search_spaces import class_names
from search_spaces.errors import UserError, unknown_name


@dataclass(frozen=True, kw_only=True, slots=True)
class Domain:
    """One domain of a benchmark."""

    name: str
    """Folder name."""
    letter: str
    """What DomainBed's tables print."""
    num_images: int | None = None
    """Images in the variant that papers use; None where nobody states it."""
    num_source_images: int | None = None
    """Of these, the images that may serve as source, the others being for the test domain; None: all serve as both."""

    def pool_size(self, role: Literal["source", "test"]) -> int | None:
        """Images that may serve in a role; None where not known."""
        if self.num_images is None or self.num_source_images is None:
            return self.num_images
        return self.num_source_images if role == "source" else self.num_images - self.num_source_images


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """A set of domains that share classes."""

    name: str
    folder: str
    """Folder below the data root, in DomainBed's layout FOLDER/DOMAIN/CLASS/image."""
    domains: tuple[Domain, ...]
    """In byte order of their folder names; a domain's position here is its index in the split seed."""
    class_names: tuple[str, ...]
    """Class folders in byte order; empty for a benchmark that is read from its folder."""
    num_steps: int = 5001
    evaluate_every: int = 200
    eval_batch_size: int = 128
    image_size: int = 224

    def __post_init__(self) -> None:
        names = [domain.name for domain in self.domains]
        if names != sorted(names, key=str.encode) or len(set(names)) != len(names):
            raise ValueError(f"the domains of {self.name} stand once each in byte order, got {names}")
        if list(self.class_names) != sorted(self.class_names, key=str.encode):
            raise ValueError(f"the classes of {self.name} stand in byte order")

    @property
    def num_classes(self) -> int:
        """How many classes the domains share; 0 until the folder of an unregistered benchmark was read."""
        return len(self.class_names)

    @property
    def num_images(self) -> int | None:
        """Images in all domains; None where a domain's count is not known."""
        counts = [domain.num_images for domain in self.domains]
        return None if None in counts else sum(count or 0 for count in counts)

    @property
    def domain_names(self) -> tuple[str, ...]:
        return tuple(domain.name for domain in self.domains)

    def domain_index(self, name: str) -> int:
        """Position of a domain in byte order; it seeds the domain's split."""
        return self.domain_names.index(name)

    def source_domains(self, test_domains: tuple[str, ...]) -> tuple[str, ...]:
        """The domains that training may see."""
        return tuple(name for name in self.domain_names if name not in test_domains)

    def check_domain(self, name: str) -> str:
        """Return the domain's name, or raise `UserError` with the nearest ones."""
        if name not in self.domain_names:
            raise unknown_name(f"{self.name} domain", name, self.domain_names)
        return name


def _domains(text: str) -> tuple[Domain, ...]:
    """Read `letter=folder:images` or `letter=folder:images/source images` items, separated by commas."""
    domains = []
    for item in text.split(","):
        letter, _, rest = item.strip().partition("=")
        name, _, counts = rest.partition(":")
        images, _, source = counts.partition("/")
        number = int(source) if source else None
        domains.append(Domain(name=name, letter=letter, num_images=int(images), num_source_images=number))
    return tuple(domains)


PACS = Benchmark(
    name="PACS",
    folder="PACS",
    domains=_domains("A=art_painting:2048, C=cartoon:2344, P=photo:1670, S=sketch:3929"),
    class_names=("dog", "elephant", "giraffe", "guitar", "horse", "house", "person"),
)

VLCS = Benchmark(
    name="VLCS",
    folder="VLCS",
    domains=_domains("C=Caltech101:1415, L=LabelMe:2656, S=SUN09:3282, V=VOC2007:3376"),
    class_names=("bird", "car", "chair", "dog", "person"),
)

OFFICE_HOME = Benchmark(
    name="OfficeHome",
    folder="office_home",
    domains=_domains("A=Art:2427, C=Clipart:4365, P=Product:4439, R=Real World:4357"),
    class_names=class_names.OFFICE_HOME,
)

TERRA_INCOGNITA = Benchmark(
    name="TerraIncognita",
    folder="terra_incognita",
    domains=_domains("L100=location_100:4879, L38=location_38:9767, L43=location_43:4020, L46=location_46:6122"),
    class_names=("bird", "bobcat", "cat", "coyote", "dog", "empty", "opossum", "rabbit", "raccoon", "squirrel"),
)
"""Counts of the variant in the papers (24,788 images); today's download has 24,330."""

DOMAIN_NET = Benchmark(
    name="DomainNet",
    folder="domain_net",
    domains=_domains(
        "clip=clipart:48129, info=infograph:51605, paint=painting:72266,"
        " quick=quickdraw:172500, real=real:172947, sketch=sketch:69128"
    ),
    class_names=class_names.DOMAIN_NET,
    num_steps=15001,
    evaluate_every=1000,
    eval_batch_size=64,
)

ICONS = Benchmark(
    name="icons",
    folder="icons",
    domains=_domains("C=clipart:668/343, F=flat:458/222, L=line:455/220, R=render3d:458/222"),
    class_names=(
        "bird",
        "book",
        "bug",
        "building",
        "clock",
        "clothing",
        "drink",
        "face",
        "fruit_or_vegetable",
        "mammal",
        "musical_instrument",
        "plant",
        "vehicle",
    ),
    num_steps=151,
    evaluate_every=15,
    eval_batch_size=256,
    image_size=64,
)
"""The demo benchmark that the package brings: real drawings, classes from Unicode's emoji subgroups."""

BENCHMARKS: dict[str, Benchmark] = {
    value.name: value for value in (PACS, VLCS, OFFICE_HOME, TERRA_INCOGNITA, DOMAIN_NET, ICONS)
}

HEADLINE = ("PACS", "VLCS", "OfficeHome", "TerraIncognita", "DomainNet")
"""The five benchmarks of the published table; what `--benchmark all` means."""


def benchmark(name: str) -> Benchmark:
    """Look a registered benchmark up, whatever the case of its letters; raises `UserError` with the nearest names."""
    for known in BENCHMARKS.values():
        if known.name.lower() == name.lower():
            return known
    raise unknown_name("benchmark", name, BENCHMARKS)


def parse_benchmarks(text: str) -> tuple[str, ...]:
    """Read `PACS,VLCS` or `all` into registered names, each once, in the order given."""
    if text.strip().lower() == "all":
        return HEADLINE
    names = tuple(benchmark(item.strip()).name for item in text.split(",") if item.strip())
    if not names:
        raise UserError(f"no benchmark named; allowed: all, {', '.join(sorted(BENCHMARKS))}")
    return tuple(dict.fromkeys(names))


def steps_and_interval(num_steps: int, evaluate_every: int) -> tuple[int, int]:
    """Update steps that are run and steps between evaluations, for the steps asked for.

    n = (num_steps // evaluate_every) * evaluate_every + 1, so that the last step ends on an evaluation and step 0 has
    one too (DomainBed's train script as the authors changed it).

    >>> steps_and_interval(5001, 300)
    (4801, 300)
    """
    if num_steps < 1 or evaluate_every < 1:
        raise UserError(f"num_steps and evaluate_every are 1 or more, got {num_steps} and {evaluate_every}")
    return num_steps // evaluate_every * evaluate_every + 1, evaluate_every
