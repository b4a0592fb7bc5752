"""A pack that says what cannot be is one line, and takes no memory for what it says."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from search_spaces.errors import UserError
from tests.fuzz import packs
from tests.support.folders import tiny_benchmark, write_tiny
from tests.support.malformed_packs import (
    as_batch,
    describe,
    description_of,
    index_of,
    vouch,
    with_column,
    write_index,
)
from trainables.data.formats.folder import FolderSource
from trainables.data.formats.open import benchmark_from_folder, find_unreadable, open_benchmark
from trainables.data.formats.pack import PackSettings, write_pack
from trainables.data.formats.verify import verify_opened

TINY = tiny_benchmark()
ROWS = 36


@pytest.fixture(scope="module", params=["stored", "pixels"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a good pack without its folder."""
    root = tmp_path_factory.mktemp(request.param)
    folder = write_tiny(root)
    write_pack(FolderSource(folder, TINY), root / "tiny.pack", settings=PackSettings(encoding=request.param))
    shutil.rmtree(folder)
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    """A copy to be changed."""
    shutil.copytree(whole, tmp_path / "root")
    return tmp_path / "root"


def _memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _refused(root: Path) -> str:
    before = _memory_mb()
    with pytest.raises(UserError) as caught:
        open_benchmark(TINY, root)
    assert _memory_mb() - before < 200
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 400
    (found,) = verify_opened(TINY, root).errors
    assert found in said or said in found
    return said


HUGE = 2**40
COLUMNS: dict[str, tuple[str, Callable[[list[Any]], Any], str]] = {
    "negative offset": (
        "offset",
        lambda old: [*old[:5], -8, *old[6:]],
        "offset -8 for image 5; it is inside its shard",
    ),
    "offset beyond": ("offset", lambda old: [*old[:5], HUGE, *old[6:]], "image 5; it is inside its shard"),
    "greatest offset": ("offset", lambda old: [2**63 - 1, *old[1:]], "image 0; it is inside its shard"),
    "negative length": ("length", lambda old: [*old[:7], -1, *old[8:]], "length -1 for image 7"),
    "no length": ("length", lambda old: [*old[:7], 0, *old[8:]], "length 0 for image 7"),
    "length of 10^9": ("length", lambda old: [*old[:-1], 10**9], "length 1000000000 for image 35"),
    "length one short": ("length", lambda old: [*old[:7], old[7] - 1, *old[8:]], "for image 7; it is"),
    "label out of range": ("label", lambda old: [*old[:3], 2, *old[4:]], "label 2 for image 3; it is 0 to 1"),
    "negative label": ("label", lambda old: [*old[:3], -1, *old[4:]], "label -1 for image 3; it is 0 to 1"),
    "shard out of range": ("shard", lambda old: [1, *old[1:]], "shard 1 for image 0; it is 0 to 0"),
    "negative shard": ("shard", lambda old: [-1, *old[1:]], "shard -1 for image 0; it is 0 to 0"),
    "pool out of range": ("pool", lambda old: [3, *old[1:]], "pool 3 for image 0; it is 0 to 2"),
    "unsaid pools": ("pool", lambda old: [2, *old[1:]], "has_pools False"),
    "no width": ("width", lambda old: [0, *old[1:]], "width 0 for image 0"),
    "greatest height": ("height", lambda old: [2**63 - 1, *old[1:]], "height 9223372036854775807 for image 0"),
    "negative size": ("size", lambda old: [-1, *old[1:]], "size -1 for image 0"),
    "an empty place": ("label", lambda old: [None, *old[1:]], "the column label of index.arrow has empty places"),
    "paths of elsewhere": ("path", lambda old: old[::-1], "has paths of other domains among those of art"),
    "no checksums": ("sha256", lambda old: ["x", *old[1:]], "sha256 of index.arrow holds what is no SHA-256"),
    "text for numbers": ("offset", lambda old: pa.array(map(str, old)), "offset of index.arrow is string instead"),
    "short numbers": ("label", lambda old: pa.array(old, pa.int32()), "label of index.arrow is int32 instead of int64"),
    "short texts": ("path", lambda old: pa.array(old, pa.string()), "path of index.arrow is string instead"),
}


@pytest.mark.parametrize("case", COLUMNS)
def test_a_wrong_value_in_the_index_is_one_line(root: Path, case: str) -> None:
    name, change, message = COLUMNS[case]
    table = index_of(root / "tiny.pack")
    write_index(root / "tiny.pack", with_column(table, name, change(table[name].to_pylist())))
    assert message in _refused(root)


@pytest.mark.parametrize("name", ["path", "label", "offset", "pool", "sha256"])
def test_a_missing_or_double_column_is_one_line(root: Path, name: str) -> None:
    table = index_of(root / "tiny.pack")
    write_index(root / "tiny.pack", as_batch(table.drop_columns(name)))
    assert f"index.arrow has no column {name}" in _refused(root)
    write_index(root / "tiny.pack", as_batch(table.append_column(name, table[name])))
    assert f"index.arrow has 2 columns {name}" in _refused(root)


def test_another_number_of_rows_or_parts_is_one_line(root: Path) -> None:
    batch = as_batch(index_of(root / "tiny.pack"))
    write_index(root / "tiny.pack", batch.slice(0, 30))
    assert "pack.json says 36 images, index.arrow has 30" in _refused(root)
    write_index(root / "tiny.pack", batch.slice(0, 0))
    assert "pack.json says 36 images, index.arrow has 0" in _refused(root)
    write_index(root / "tiny.pack", batch.slice(0, 30), batch.slice(30))
    assert "index.arrow has 2 parts instead of one" in _refused(root)


def test_texts_that_lead_out_of_the_index_are_one_line(root: Path) -> None:
    place = root / "tiny.pack"
    ends = as_batch(index_of(place)).column("path").buffers()[1].to_pybytes()
    whole = (place / "index.arrow").read_bytes()
    for number, end in ((ROWS, 2**40), (ROWS, -1), (5, 2**40)):
        wrong = bytearray(ends)
        wrong[8 * number : 8 * number + 8] = end.to_bytes(8, "little", signed=True)
        (place / "index.arrow").unlink()
        (place / "index.arrow").write_bytes(whole.replace(ends, wrong))
        vouch(place, "index.arrow")
        assert "index.arrow: In column 0" in _refused(root)


def test_a_packed_index_is_one_line(root: Path) -> None:
    # Its million zeros take some bytes in the file.
    names = [*index_of(root / "tiny.pack")["path"].to_pylist()[:-1], f"sketch/{'0' * 2_000_000}"]
    batch = with_column(index_of(root / "tiny.pack"), "path", names)
    write_index(root / "tiny.pack", batch, options=pa.ipc.IpcWriteOptions(compression="zstd"))
    assert "index.arrow says that it holds more than its own size" in _refused(root)


DESCRIPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "counts of 10^9": ({"domains": {"art": 10**9, "photo": 12, "sketch": 12}}, "says 1,000,000,024 images"),
    "counts of 10^30": ({"domains": {"art": 10**30, "photo": 12, "sketch": 12}}, "the number of images"),
    "negative count": ({"domains": {"art": -12, "photo": 36, "sketch": 12}}, "the number of images"),
    "no count": ({"domains": {"art": "12", "photo": 12, "sketch": 12}}, "the number of images"),
    "half a count": ({"domains": {"art": 12.0, "photo": 12, "sketch": 12}}, "the number of images"),
    "domains as a list": ({"domains": ["art", "photo", "sketch"]}, "the number of images"),
    "no domains": ({"domains": None}, "pack.json has no 'domains'"),
    "no classes": ({"class_names": []}, "it is a list of names"),
    "classes of numbers": ({"class_names": [1, 2]}, "it is a list of names"),
    "classes in another order": ({"class_names": ["dog", "cat"]}, "it is a list of names"),
    "domains in another order": ({"domains": {"photo": 12, "art": 12, "sketch": 12}}, "the number of images"),
    "half a letter": ({"domains": {"\ud800": 12, "photo": 12, "sketch": 12}}, "the number of images"),
    "one class twice": ({"class_names": ["cat", "cat"]}, "it is a list of names"),
    "no encoding": ({"encoding": ["stored"]}, "it is stored or pixels"),
    "no manifest": ({"manifest": 7}, "it is a SHA-256"),
    "10^9 shards": ({"num_shards": 10**9}, "names 2 files for 1,000,000,000 shards"),
    "no shards": ({"num_shards": 0}, "it is a number of 1 or more"),
    "pools of words": ({"has_pools": "no"}, "it is true or false"),
    "pools": ({"has_pools": True}, "has_pools True"),
    "no files": ({"files": {}}, "names 0 files for 1 shards"),
    "files as a list": ({"files": [1, 2]}, "size and SHA-256 by file"),
    "files without facts": ({"files": {"index.arrow": 7, "shard-00000.arrow": 7}}, "size and SHA-256 by file"),
}


@pytest.mark.parametrize("case", DESCRIPTIONS)
def test_a_wrong_description_is_one_line(root: Path, case: str) -> None:
    changes, message = DESCRIPTIONS[case]
    describe(root / "tiny.pack", **changes)
    assert message in _refused(root)
    if "domains" in changes and message != "says 1,000,000,024 images":
        # So it is where the benchmark is made from the pack.
        with pytest.raises(UserError, match=r"is damaged: pack\.json"):
            benchmark_from_folder(str(root / "tiny"))


def test_a_description_cannot_name_other_files(root: Path) -> None:
    files = description_of(root / "tiny.pack")["files"]
    describe(root / "tiny.pack", files={"../../secret": files["index.arrow"], "index.arrow": files["index.arrow"]})
    assert "names the file '../../secret', which no pack has" in _refused(root)


def test_a_description_that_is_too_deep_is_one_line(root: Path) -> None:
    (root / "tiny.pack" / "pack.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="is not a pack: maximum recursion depth"):
        open_benchmark(TINY, root)


@pytest.mark.parametrize("damage", ["counts", "a count", "an index", "index bytes"])
def test_a_malformed_pack_is_written_again(root: Path, tmp_path: Path, damage: str) -> None:
    folder, place = FolderSource(write_tiny(tmp_path / "folder"), TINY), root / "tiny.pack"
    settings = PackSettings(encoding=description_of(place)["encoding"])
    if damage in ("counts", "a count"):
        describe(place, domains={"art": 10**9 if damage == "counts" else -1, "photo": 12, "sketch": 12})
    elif damage == "an index":
        write_index(place, as_batch(index_of(place)).slice(3))
    else:
        (place / "index.arrow").write_bytes(b"x" * (place / "index.arrow").stat().st_size)
    write_pack(folder, place, settings=settings)
    assert verify_opened(TINY, root).accepted
    assert find_unreadable(open_benchmark(TINY, root)) == []


def test_random_damage_is_one_line() -> None:
    assert packs.tried(60, seed=0).problems == []
