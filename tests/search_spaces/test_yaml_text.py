"""YAML as it is written: what is read, and what is refused in one line."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from search_spaces.errors import UserError
from search_spaces.sweeps import load_config, sweep_from_mapping
from search_spaces.yaml_text import MOST_BYTES, PlainText, parse_yaml, resolved
from tests.fuzz import configurations

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 9)
)

BAD: dict[str, tuple[bytes, str]] = {
    "two sections": (b"sweep: {name: a}\nsweep: {name: b}", "has the key 'sweep' twice in line 1 and in line 2"),
    "two keys": (b"sweep:\n  name: a\n  seeds: 1\n  name: b", "has the key 'name' twice in line 2 and in line 4"),
    "two quoted keys": (b"{'a': 1, \"a\": 2}", "has the key 'a' twice"),
    "Latin-1": ('sweep:\n  name: "café"'.encode("latin-1"), "byte 0xe9 in line 2 is not UTF-8"),
    "UTF-16": ("sweep: {}".encode("utf-16"), "it is UTF-16 text; save it as UTF-8"),
    "binary": (b"\x00\x01\x02sweep", "is not YAML"),
    "itself in a list": (b"a: &a [1, *a]", "has a value that contains itself in line 1"),
    "itself in a mapping": (b"h: &h\n  d: *h\n", "has a value that contains itself"),
    "alias bomb": (BOMB.encode(), "unfolds into more than 100,000 values"),
    "merge bomb": (b"a: &a {x: 1}\nb: {<<: 3}", "merges what is no mapping in line 2"),
    "tag": (b"a: !!python/name:os.system x", "tags are not read"),
    "number tag": (b'a: !!int "3"', "has the tag tag:yaml.org,2002:int in line 1"),
    "list as key": (b"? [a]\n: b", "has a key that is no text"),
    "two documents": (b"a: 1\n---\nb: 2", "expected a single document"),
    "no such alias": (b"a: *b", "found undefined alias"),
    "deep": (b"[" * 5000, "nested too deeply"),
    "long": (b"a: [" + b"x" * 643_000, "is not YAML"),
    "huge": (b"#" * (MOST_BYTES + 1), "1,048,576 are allowed"),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_is_no_configuration_is_one_short_line(bad: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(BAD[bad][0])
    began = time.process_time()
    with pytest.raises(UserError) as caught:
        load_config(str(tmp_path / "c.yaml"))
    assert BAD[bad][1] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert time.process_time() - began < 10.0


def test_plain_text_is_told_from_quoted_text() -> None:
    read = parse_yaml("a: off\nb: 'off'\nc: ~\nd:\ne: \"\"\nf: |\n  x\n2024_01: [010, 1:30]\n", "it")
    assert read == {"a": "off", "b": "off", "c": None, "d": None, "e": "", "f": "x\n", "2024_01": ["010", "1:30"]}
    assert [type(read[name]) for name in "abef"] == [PlainText, str, str, str]
    assert all(type(key) is str for key in read)


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("-3", -3), ("010", "010"), ("1:30", "1:30"), ("off", "off"), ("true", True), ("1e3", 1000.0),
     ("0.5", 0.5), ("'3'", "3"), ("null", None), ("2024-01-31", "2024-01-31"), ("[1, {a: 2}]", [1, {"a": 2}])],
)  # fmt: skip
def test_without_a_declared_type_it_is_read_as_yaml_1_2(text: str, value: Any) -> None:
    found = resolved(parse_yaml(text, "it"))
    assert found == value
    assert type(found) is type(value)


def test_anchors_that_end_and_merged_mappings_are_read() -> None:
    text = "base: &b {lr: 1e-3, weight_decay: 0}\nalign: *b\ndistill: {<<: *b, lr: 1e-2}\nboth: {<<: [{x: 1}, {x: 2}]}"
    read = parse_yaml(text, "it")
    assert read["align"] == {"lr": "1e-3", "weight_decay": "0"}
    assert read["distill"] == {"lr": "1e-2", "weight_decay": "0"}
    assert read["both"] == {"x": "1"}


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes("\ufeffsweep: {benchmarks: [PACS], methods: [erm], name: 010}".encode())
    assert sweep_from_mapping(load_config(str(tmp_path / "c.yaml"))).name == "010"


def test_a_configuration_of_any_bytes_is_read_or_named() -> None:
    """`make fuzz` tries more."""
    assert configurations.tried(150, seed=0).problems == []
