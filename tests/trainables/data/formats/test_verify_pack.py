"""What training would open is what is verified: a pack's bytes, and the folder beside it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from pyarrow import fs

from search_spaces.benchmarks import BENCHMARKS
from search_spaces.errors import UserError
from tests.support.file_server import FileServer
from tests.support.folders import encoded, tiny_benchmark, write_tiny
from trainables.data.formats.folder import FolderSource
from trainables.data.formats.open import find_unreadable, open_benchmark
from trainables.data.formats.pack import PackSettings, write_pack
from trainables.data.formats.pack_reader import PackSource
from trainables.data.formats.verify import verify_benchmark, verify_opened

TINY = tiny_benchmark()
READS_THE_PACK = "training reads the pack: pack the folder again with --overwrite, or move one of the two away"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with the tiny benchmark and its pack beside it."""
    folder = write_tiny(tmp_path)
    write_pack(open_benchmark(TINY, tmp_path), folder.with_suffix(".pack"))
    return tmp_path


def _folder(root: Path) -> FolderSource:
    return FolderSource(root / "tiny", TINY)


def _overwrite(file: Path, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 0xFF
    file.write_bytes(data)


def _byte_of(place: Path, domain: str, index: int) -> int:
    """Where in the only shard an image's bytes begin."""
    data = PackSource(place, TINY).encoded(domain, index)
    return (place / "shard-00000.arrow").read_bytes().index(data)


def test_a_pack_is_verified_by_its_bytes_and_has_the_folders_manifest(root: Path) -> None:
    folder = verify_benchmark(root / "tiny", TINY)
    found = verify_opened(TINY, root)
    assert (found.form, found.place) == ("pack", str(root / "tiny.pack"))
    assert (found.accepted, found.errors, found.notes) == (True, (), ())
    assert (found.manifest, found.class_counts) == (folder.manifest, folder.class_counts)
    shutil.rmtree(root / "tiny")
    assert verify_opened(TINY, root) == found, "the pack alone is enough"
    shutil.rmtree(root / "tiny.pack")
    with pytest.raises(UserError, match=r"Tiny wants the folder .*/tiny"):
        verify_opened(TINY, root)


def test_a_folder_that_is_no_longer_what_was_packed_is_named(root: Path) -> None:
    (root / "tiny" / "art" / "cat" / "0.png").unlink()
    (root / "tiny" / "art" / "cat" / "1.png").write_bytes(encoded(997))
    (root / "tiny" / "art" / "cat" / "new.png").write_bytes(encoded(998))
    (root / "tiny" / "art" / "cat" / "new2.png").write_bytes(encoded(999))
    found = verify_opened(TINY, root)
    assert (found.num_images, found.manifest) == (36, open_benchmark(TINY, root).manifest)
    assert found.notes == (
        f"the folder {root}/tiny differs from the pack beside it: 37 images instead of 36; 1 only in the pack: "
        "art/cat/0.png; 2 only in the folder: art/cat/new.png, art/cat/new2.png; 1 of other content: art/cat/1.png; "
        + READS_THE_PACK,
    )
    (root / "tiny" / "art" / "dog").rename(root / "tiny" / "art" / "Dog")
    assert verify_opened(TINY, root).notes == (
        f"the folder {root}/tiny beside the pack is damaged (art: the class folder dog is spelled Dog); "
        + READS_THE_PACK,
    )


def test_an_overwritten_byte_of_a_stored_image_is_found(root: Path) -> None:
    _overwrite(root / "tiny.pack" / "shard-00000.arrow", _byte_of(root / "tiny.pack", "photo", 3) + 50)
    found = verify_opened(TINY, root)
    assert found.errors == (
        "shard-00000.arrow is not what was packed (another SHA-256)",
        "1 image cannot be read: photo/cat/3.png (its bytes are not those that were packed)",
    )
    assert (found.variant, found.accepted, found.manifest, found.num_images) == ("damaged", False, "", 36)
    assert find_unreadable(open_benchmark(TINY, root)) == [
        f"shard-00000.arrow of {root}/tiny.pack is not what was packed"
    ]


def test_an_overwritten_pixel_is_found(root: Path) -> None:
    place = write_pack(_folder(root), root / "pixels" / "tiny.pack", settings=PackSettings(encoding="pixels"))
    assert verify_opened(TINY, root / "pixels").manifest == open_benchmark(TINY, root).manifest
    _overwrite(place / "shard-00000.arrow", _byte_of(place, "photo", 3) + 50)
    found = verify_opened(TINY, root / "pixels")
    assert found.errors == ("shard-00000.arrow is not what was packed (another SHA-256)",)


def test_an_overwritten_index_is_found_and_not_believed(root: Path) -> None:
    index = root / "tiny.pack" / "index.arrow"
    _overwrite(index, index.read_bytes().index(b"photo/cat/3.png"))
    found = verify_opened(TINY, root)
    assert found.errors == ("index.arrow is not what was packed (another SHA-256)",)
    assert (found.accepted, found.num_images) == (False, 0)


@pytest.mark.parametrize("name", ["shard-00000.arrow", "index.arrow"])
def test_a_missing_or_short_file_is_found_when_a_pack_is_opened(root: Path, name: str) -> None:
    file = root / "tiny.pack" / name
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    message = f"the pack {root}/tiny.pack is damaged: {name} has {len(whole) - 1:,} bytes instead of {len(whole):,}"
    with pytest.raises(UserError, match=message):
        open_benchmark(TINY, root)
    file.unlink()
    with pytest.raises(UserError, match=f"is damaged: {name} is missing"):
        open_benchmark(TINY, root)
    assert verify_opened(TINY, root).errors == (f"the pack {root}/tiny.pack is damaged: {name} is missing",)
    write_pack(_folder(root), root / "tiny.pack")
    assert verify_opened(TINY, root).accepted, "packing again writes what is missing"


def test_packing_again_with_overwrite_writes_what_is_damaged(root: Path) -> None:
    shard = root / "tiny.pack" / "shard-00000.arrow"
    before = shard.stat().st_ino
    write_pack(_folder(root), root / "tiny.pack", overwrite=True)
    assert shard.stat().st_ino == before, "a whole one stays"
    _overwrite(shard, 500)
    write_pack(_folder(root), root / "tiny.pack", overwrite=True)
    assert verify_opened(TINY, root).accepted


def test_a_pack_in_object_storage_is_looked_at_too(root: Path) -> None:
    place = root / "tiny.pack"
    with FileServer().running() as server:
        for file in place.iterdir():
            server.add(f"/bucket/tiny.pack/{file.name}", file)
        storage = fs.S3FileSystem(anonymous=True, region="us-east-1", endpoint_override=server.address, scheme="http")
        packed = PackSource("bucket/tiny.pack", TINY, filesystem=storage)
        assert server.sent["/bucket/tiny.pack/shard-00000.arrow"] == 0, "its size is asked for, not its content"
        assert packed.changed_files() == []
        server.files.pop("/bucket/tiny.pack/shard-00000.arrow")
        with pytest.raises(UserError, match=r"is damaged: shard-00000.arrow is missing"):
            PackSource("bucket/tiny.pack", TINY, filesystem=storage)
    assert verify_opened(TINY, f"file://{root}").manifest == open_benchmark(TINY, root).manifest


def test_a_pack_of_an_older_program_says_what_to_do(root: Path) -> None:
    description = root / "tiny.pack" / "pack.json"
    description.write_text(description.read_text().replace('"format": 2', '"format": 1'))
    with pytest.raises(UserError, match=r"is a pack of format 1, this program reads 2; pack the benchmark again"):
        open_benchmark(TINY, root)
    write_pack(_folder(root), root / "tiny.pack", overwrite=True)
    assert verify_opened(TINY, root).accepted
    for content in ("[]", "{"):
        description.write_text(content)
        with pytest.raises(UserError, match="is not a pack"):
            open_benchmark(TINY, root)


def test_the_packaged_icons_are_verified(tmp_path: Path) -> None:
    icons = BENCHMARKS["icons"]
    found = verify_opened(icons)
    assert (found.form, found.accepted, found.errors) == ("package", True, ())
    assert found.manifest == open_benchmark(icons).manifest
    write_pack(open_benchmark(icons), tmp_path / "icons.pack")
    assert verify_opened(icons, tmp_path).manifest == found.manifest
