"""The known copies of the published benchmarks, as numbers written here (the data sets' own pages; LILA's files)."""

from __future__ import annotations

import pytest

from trainables.data.acquire.sources import sources_of
from trainables.data.formats.variants import known_variants

VLCS_PER_CLASS = {
    "Caltech101": [237, 123, 118, 67, 870],
    "LabelMe": [80, 1209, 88, 42, 1237],
    "SUN09": [20, 932, 1036, 30, 1264],
    "VOC2007": [330, 699, 428, 420, 1499],
}
"""bird, car, chair, dog, person."""

VARIANTS = {
    "PACS": [(9_991, [2048, 2344, 1670, 3929], True)],
    "VLCS": [(10_729, [1415, 2656, 3282, 3376], True)],
    "OfficeHome": [(15_588, [2427, 4365, 4439, 4357], True)],
    "TerraIncognita": [(24_788, [4879, 9767, 4020, 6122], True), (24_330, [4741, 9736, 3970, 5883], True)],
    "DomainNet": [(586_575, [48129, 51605, 72266, 172500, 172947, 69128], True), (586_575 + 9_431, [], False)],
}
"""Total, images per domain, and whether a fetch may end in it; today's TerraIncognita has fewer than the papers'."""


@pytest.mark.parametrize("name", VARIANTS)
def test_known_copies(name: str) -> None:
    found = [(copy.total, list(copy.domains.values()), copy.accepted) for copy in known_variants(name)]
    assert found == VARIANTS[name]


def test_images_per_class_of_vlcs() -> None:
    assert known_variants("VLCS")[0].classes == VLCS_PER_CLASS


def test_the_duplicates_of_domain_net_are_removed() -> None:
    steps = [step for route in sources_of("DomainNet").routes for step in route.steps if step.step == "remove_listed"]
    assert [step.count for step in steps] == [9_431]
