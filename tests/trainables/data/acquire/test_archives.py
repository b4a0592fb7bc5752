"""Archives that nobody vouches for are unpacked safely, whole or not at all."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from search_spaces.errors import UserError
from tests.fuzz import archives
from tests.support.archives import tarred
from tests.support.bad_archives import BAD_ARCHIVES, zip_of
from trainables.data.acquire.archives import ArchiveError, is_archive, unpack_archive
from trainables.data.formats.parquet import bounded_batches


def _zip_link() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        link = zipfile.ZipInfo("a/link")
        link.create_system = 3
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    return stream.getvalue()


def _tar_member(kind: bytes, name: str = "a/thing") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.type = kind
        member.linkname = "../../etc/passwd"
        archive.addfile(member)
    return stream.getvalue()


def _lying_zip() -> bytes:
    """A zip whose directory declares ten bytes for a megabyte of zeros."""
    data = bytearray(zip_of({"a/zeros": bytes(2**20)}))
    for signature, offset in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        place = data.index(signature) + offset
        data[place : place + 4] = (10).to_bytes(4, "little")
    return bytes(data)


def _zip_name_not_utf8() -> bytes:
    """A zip whose flag says that its names are UTF-8."""
    return zip_of({"a/éé.jpg": b"1"}).replace("éé".encode(), b"\xff\xfe\xff\xfe")


def _tar_that_declares_too_little() -> bytes:
    """A folder that says it takes less than nothing, so that what is declared stays below the limit."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        folder = tarfile.TarInfo("a")
        folder.type, folder.size = tarfile.DIRTYPE, -10_000_000
        archive.addfile(folder)
        for number in range(3):
            member = tarfile.TarInfo(f"a/{number}")
            member.size = 500_000
            archive.addfile(member, io.BytesIO(bytes(member.size)))
    return stream.getvalue()


def _tar_with_a_long_header(size: int) -> bytes:
    """A tar.gz whose first member has an extended header of that many bytes."""
    header = tarfile.TarInfo("PaxHeader")
    header.type, header.size = tarfile.XHDTYPE, size
    return gzip.compress(header.tobuf() + bytes(size), compresslevel=1)


CASES = {
    "zip with ..": ("x.zip", zip_of({"a/../../evil": b"1"}), "leads outside"),
    "zip with an absolute name": ("x.zip", zip_of({"/tmp/evil": b"1"}), "leads outside"),
    "zip with a backslash": ("x.zip", zip_of({"..\\evil": b"1"}), "leads outside"),
    "zip with a drive": ("x.zip", zip_of({"C:/evil": b"1"}), "leads outside"),
    "zip with a link": ("x.zip", _zip_link(), "link or device"),
    "zip bomb, declared": ("x.zip", zip_of({"a": bytes(2_000_000)}), "declares more than 1,000,000 bytes"),
    "zip that declares too little": ("x.zip", _lying_zip(), "truncated or damaged"),
    "zip with a name that is not UTF-8": ("x.zip", _zip_name_not_utf8(), "a file name that is not UTF-8"),
    "zip, truncated": ("x.zip", zip_of({"a": os.urandom(5000)})[:3000], "truncated or damaged"),
    "zip, damaged": ("x.zip", zip_of({"a": b"z" * 5000}, zipfile.ZIP_STORED).replace(b"zzzz", b"zyzz", 1), "damaged"),
    "no zip": ("x.zip", b"<html>", "truncated or damaged"),
    "tar with ..": ("x.tar.gz", tarred({"../evil": b"1"}), "leads outside"),
    "tar with an absolute name": ("x.tar.gz", tarred({"/tmp/evil": b"1"}), "leads outside"),
    "tar with a symbolic link": ("x.tar.gz", _tar_member(tarfile.SYMTYPE), "link or device"),
    "tar with a hard link": ("x.tar.gz", _tar_member(tarfile.LNKTYPE), "link or device"),
    "tar with a device": ("x.tar.gz", _tar_member(tarfile.CHRTYPE), "link or device"),
    "tar with a pipe": ("x.tar.gz", _tar_member(tarfile.FIFOTYPE), "link or device"),
    "tar bomb": ("x.tar.gz", tarred({"a": bytes(2_000_000)}), "declares more than 1,000,000 bytes"),
    "tar bomb, real": ("x.tar.gz", _tar_that_declares_too_little(), "unpacks to more than 1,000,000 bytes"),
    "tar with a long header": ("x.tar.gz", _tar_with_a_long_header(2**21), "a header of more than 1,048,576 bytes"),
    "tar, truncated": ("x.tar.gz", tarred({"a": os.urandom(90_000)})[:40_000], "truncated or damaged"),
    "no tar": ("x.tar", b"<html>" * 1000, "truncated or damaged"),
    **BAD_ARCHIVES,
    "the same file twice": ("x.tar.gz", tarred({"a/b": b"1", "a/./b": b"2"}), "the same file twice"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_archive_is_refused_and_leaves_nothing(tmp_path: Path, case: str) -> None:
    name, content, message = CASES[case]
    archive = tmp_path / "in" / name
    archive.parent.mkdir()
    archive.write_bytes(content)
    with pytest.raises(ArchiveError, match=message) as caught:
        unpack_archive(archive, tmp_path / "deep" / "out", max_bytes=1_000_000)
    assert "\n" not in str(caught.value)
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert left == [archive]
    assert not (tmp_path / "deep" / "out").exists()


def test_a_header_takes_no_memory_before_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tar.gz").write_bytes(_tar_with_a_long_header(200 * 2**20))
    tracemalloc.start()
    with pytest.raises(ArchiveError, match="a header of more than"):
        unpack_archive(tmp_path / "x.tar.gz", tmp_path / "out", max_bytes=1000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * 2**20


def test_a_parquet_file_gives_no_more_than_allowed(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    # One picture a hundred times: the file holds it once.
    parquet.write_table(pa.table({"image": [os.urandom(20_000)] * 100}), file)
    assert file.stat().st_size < 50_000
    opened = parquet.ParquetFile(file)
    assert sum(batch.num_rows for batch in bounded_batches(opened, file.name, max_bytes=3_000_000)) == 100
    with pytest.raises(ArchiveError, match=r"x.parquet unpacks to more than 1,000,000 bytes"):
        list(bounded_batches(opened, file.name, max_bytes=1_000_000))
    parquet.write_table(pa.table({"image": [bytes(1_000_000)] * 2}), file, use_dictionary=False)
    with pytest.raises(ArchiveError, match=r"x.parquet declares more than 1,000,000 bytes"):
        list(bounded_batches(parquet.ParquetFile(file), file.name, max_bytes=1_000_000))


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz", "x.tar", "x.tar.bz2", "x.tar.xz", "long names.tar.gz"])
def test_a_good_archive_is_unpacked(tmp_path: Path, name: str) -> None:
    long = "/".join(["é" * 60] * 4) if name.startswith("long") else "é"
    entries = {"a/b c/1.jpg": b"one" * 200_000, f"a/{long}.jpg": b"two", "a/empty": b""}
    tar = gzip.decompress(tarred(entries))
    content = {".zip": zip_of(entries), ".gz": gzip.compress(tar), ".bz2": bz2.compress(tar), ".xz": lzma.compress(tar)}
    (tmp_path / name).write_bytes(content.get(Path(name).suffix, tar))
    unpack_archive(tmp_path / name, tmp_path / "out", max_bytes=1_000_000)
    found = {
        str(file.relative_to(tmp_path / "out")): file.read_bytes()
        for file in (tmp_path / "out").rglob("*")
        if file.is_file()
    }
    assert found == entries


def test_an_abandoned_attempt_is_replaced(tmp_path: Path) -> None:
    (tmp_path / ".out.part").mkdir()
    (tmp_path / ".out.part" / "old").write_text("half")
    (tmp_path / "x.zip").write_bytes(zip_of({"a": b"1"}))
    unpack_archive(tmp_path / "x.zip", tmp_path / "out", max_bytes=1000)
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["a"]
    assert not (tmp_path / ".out.part").exists()


def test_a_place_that_cannot_be_written_is_not_the_archives_fault(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(zip_of({"a": b"1"}))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot unpack x.zip") as caught:
        unpack_archive(tmp_path / "x.zip", tmp_path / "file" / "out", max_bytes=1000)
    assert not isinstance(caught.value, ArchiveError)


def test_names_of_archives() -> None:
    assert is_archive("PACS.ZIP")
    assert is_archive("a.tar.gz")
    assert not is_archive("list.txt")
    assert not is_archive("pacs.parquet")


def test_random_archives_and_their_content_are_the_mirrors_fault() -> None:
    assert archives.tried(60, seed=0).problems == []
