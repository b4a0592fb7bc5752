"""The registry of sources reads, covers the benchmarks, and says what is wrong with another one in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from search_spaces.benchmarks import HEADLINE
from search_spaces.errors import UserError
from trainables.data.acquire.sources import read_sources, sources_of


def test_the_registry_reads_and_covers_the_headline_benchmarks() -> None:
    sources = read_sources()
    assert set(sources) == set(HEADLINE)
    for entry in sources.values():
        assert entry.licence
        assert entry.citation
        assert entry.manual
        assert all(file.mirrors for route in entry.routes for file in route.files)
        names = {file.name for route in entry.routes for file in route.files}
        assert {step.source.partition("/")[0] for route in entry.routes for step in route.steps} <= names
    with pytest.raises(UserError, match="nearest: PACS"):
        sources_of("PACSS")


def test_a_wrong_key_in_a_registry_is_named(tmp_path: Path) -> None:
    (tmp_path / "sources.yaml").write_text("PACS: {licence: x, cite: y}")
    with pytest.raises(UserError, match=r"unknown key 'PACS.cite'; nearest: PACS.citation"):
        read_sources(tmp_path / "sources.yaml")


_ENTRY = """
PACS:
  licence: none
  citation: none
  manual: none
  unpacked_bytes: 1
  routes:
    - name: hub
      files:
        - name: x.parquet
          mirrors: [{transport: hugging_face, address: owner/data/x.parquet, revision: "0123"}]
      steps: [{step: parquet, source: STEP}]
"""


def test_a_hub_mirror_may_be_pinned(tmp_path: Path) -> None:
    (tmp_path / "sources.yaml").write_text(_ENTRY.replace("STEP", "x.parquet"))
    (mirror,) = read_sources(tmp_path / "sources.yaml")["PACS"].routes[0].files[0].mirrors
    assert mirror.revision == "0123"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"- PACS\n- VLCS\n", "wants a mapping from benchmark to sources, got list"),
        (b"", "wants a mapping from benchmark to sources, got nothing"),
        (b"PACS: {licence: x}", "cannot be used: PACS lacks citation, manual, unpacked_bytes"),
        (b"PACS: [1]", r"sources\.yaml cannot be used: PACS wants a mapping"),
        (b"PACS: {", "cannot read the registry"),
        (b"PACS: \xff\xfe", "cannot read the registry"),
        (
            _ENTRY.replace("STEP", "y.parquet").encode(),
            "the route 'hub' has a step for y.parquet, which is none of its",
        ),
    ],
    ids=["list", "empty", "incomplete", "no mapping", "no YAML", "no text", "step without a file"],
)
def test_a_registry_that_is_none_is_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "sources.yaml").write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        read_sources(tmp_path / "sources.yaml")
    assert "\n" not in str(caught.value)
