"""The demo benchmark `icons` as it is shipped: its counts, its halves, its order and its licences."""

import io
from collections import Counter, defaultdict
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from trainables.data.icons import CLASSES, DOMAINS, ICONS_PARQUET, PARQUET_COLUMNS, PICTURE_SIZE, concept_half
from trainables.data.icons.classes import clipart_class, emoji_class

EMOJI_COUNTS = {
    "bird": 17,
    "book": 9,
    "bug": 14,
    "building": 32,
    "clock": 29,
    "clothing": 39,
    "drink": 20,
    "face": 107,
    "fruit_or_vegetable": 36,
    "mammal": 65,
    "musical_instrument": 11,
    "plant": 25,
    "vehicle": 54,
}
"""Concepts per class, the same in the three emoji domains."""

PIXEL_IDENTICAL_LINE_DRAWINGS = {"bird": 1, "face": 1, "vehicle": 1}
"""Emoji that `line` draws exactly as another one, so that one of the two was dropped."""

CLIPART_COUNTS = {
    "bird": 43,
    "book": 17,
    "bug": 48,
    "building": 52,
    "clock": 20,
    "clothing": 50,
    "drink": 47,
    "face": 40,
    "fruit_or_vegetable": 84,
    "mammal": 113,
    "musical_instrument": 41,
    "plant": 60,
    "vehicle": 53,
}


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    pictures: list[dict[str, Any]] = pq.read_table(ICONS_PARQUET).to_pylist()
    return pictures


def test_columns() -> None:
    assert tuple(pq.read_schema(ICONS_PARQUET).names) == PARQUET_COLUMNS


def test_counts_of_the_emoji_domains(rows: list[dict[str, Any]]) -> None:
    for domain in ("flat", "render3d"):
        assert Counter(row["class"] for row in rows if row["domain"] == domain) == EMOJI_COUNTS
    line = Counter(row["class"] for row in rows if row["domain"] == "line")
    assert line + Counter(PIXEL_IDENTICAL_LINE_DRAWINGS) == EMOJI_COUNTS
    assert sum(EMOJI_COUNTS.values()) == 458


def test_counts_of_clipart(rows: list[dict[str, Any]]) -> None:
    assert Counter(row["class"] for row in rows if row["domain"] == "clipart") == CLIPART_COUNTS
    assert len(rows) == 2 * 458 + 455 + 668


def test_domains_and_classes_are_the_names_in_byte_order(rows: list[dict[str, Any]]) -> None:
    assert tuple(sorted({row["domain"] for row in rows}, key=str.encode)) == DOMAINS
    assert tuple(sorted({row["class"] for row in rows}, key=str.encode)) == CLASSES


def test_both_halves_in_every_class_of_every_domain(rows: list[dict[str, Any]]) -> None:
    halves = {(row["domain"], row["class"], row["split_half"]) for row in rows}
    assert halves == {(domain, name, half) for domain in DOMAINS for name in CLASSES for half in ("train", "test")}


def test_no_concept_is_in_both_halves(rows: list[dict[str, Any]]) -> None:
    halves = defaultdict(set)
    for row in rows:
        halves[row["concept"]].add(row["split_half"])
        assert row["split_half"] == concept_half(row["concept"])
    assert all(len(half) == 1 for half in halves.values())


def test_rows_are_sorted_as_image_folder_sorts_files(rows: list[dict[str, Any]]) -> None:
    paths = [row["path"] for row in rows]
    assert paths == sorted(set(paths), key=str.encode)
    assert paths == sorted(paths, key=lambda path: path.split("/"))
    assert all(row["path"].startswith(f"{row['domain']}/{row['class']}/") for row in rows)
    assert all(path.endswith(".png") and path.count("/") == 2 for path in paths)


def test_every_picture_names_its_source_and_licence(rows: list[dict[str, Any]]) -> None:
    terms = {(row["domain"], row["source"], row["licence"]) for row in rows}
    assert terms == {
        ("clipart", "Debian openclipart-svg 1:0.18+dfsg-19", "public domain"),
        ("flat", "npm @iconify-json/twemoji 1.2.5", "CC-BY-4.0"),
        ("line", "npm openmoji 17.0.0", "CC-BY-SA-4.0"),
        ("render3d", "npm @lobehub/fluent-emoji-3d 1.1.0", "MIT"),
    }
    table = ICONS_PARQUET.with_name("LICENCES.md").read_text("utf-8")
    assert all(source.rsplit(" ", 1)[1] in table and licence in table for _, source, licence in terms)


def test_every_picture_is_a_small_colour_png_of_its_own(rows: list[dict[str, Any]]) -> None:
    pixels = set()
    for row in rows:
        picture = Image.open(io.BytesIO(row["image"]))
        assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (PICTURE_SIZE, PICTURE_SIZE))
        pixels.add((row["domain"], picture.tobytes()))
    assert len(pixels) == len(rows)


def test_half_is_the_parity_of_a_hash() -> None:
    # `printf 1f426 | sha256sum` ends in 8b, that of 1f415 in ea, that of 1f697 in 2e.
    assert [concept_half(concept) for concept in ("1f426", "1f415", "1f697")] == ["test", "train", "train"]


def test_class_rules() -> None:
    assert emoji_class("animal-bird", "eagle") == "bird"
    assert emoji_class("animal-bird", "feather") is None
    assert emoji_class("face-costume", "robot") is None
    assert clipart_class("animals/birds/penguin/tux_clemente_01.svg") == "bird"
    assert clipart_class("buildings/factory.svg") == "building"
    assert clipart_class("buildings/furniture/soft_blue_couch_jonadab_01.svg") is None
    assert clipart_class("transportation/boating/knot_bowline.svg") is None
