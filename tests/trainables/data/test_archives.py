"""Archives that nobody vouches for are unpacked safely, whole or not at all."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from search_spaces.errors import UserError
from tests.trainables.data.archives import tarred
from trainables.data.archives import ArchiveError, is_archive, unpack


def _zip(entries: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return stream.getvalue()


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
    data = bytearray(_zip({"a/zeros": bytes(2**20)}))
    for signature, offset in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        place = data.index(signature) + offset
        data[place : place + 4] = (10).to_bytes(4, "little")
    return bytes(data)


CASES = {
    "zip with ..": ("x.zip", _zip({"a/../../evil": b"1"}), "leads outside"),
    "zip with an absolute name": ("x.zip", _zip({"/tmp/evil": b"1"}), "leads outside"),
    "zip with a backslash": ("x.zip", _zip({"..\\evil": b"1"}), "leads outside"),
    "zip with a drive": ("x.zip", _zip({"C:/evil": b"1"}), "leads outside"),
    "zip with a link": ("x.zip", _zip_link(), "link or device"),
    "zip bomb, declared": ("x.zip", _zip({"a": bytes(2_000_000)}), "declares more than 1,000,000 bytes"),
    "zip bomb, real": ("x.zip", _lying_zip(), "truncated or damaged|unpacks to more"),
    "zip, truncated": ("x.zip", _zip({"a": os.urandom(5000)})[:3000], "truncated or damaged"),
    "zip, damaged": ("x.zip", _zip({"a": b"z" * 5000}, zipfile.ZIP_STORED).replace(b"zzzz", b"zyzz", 1), "damaged"),
    "no zip": ("x.zip", b"<html>", "truncated or damaged"),
    "tar with ..": ("x.tar.gz", tarred({"../evil": b"1"}), "leads outside"),
    "tar with an absolute name": ("x.tar.gz", tarred({"/tmp/evil": b"1"}), "leads outside"),
    "tar with a symbolic link": ("x.tar.gz", _tar_member(tarfile.SYMTYPE), "link or device"),
    "tar with a hard link": ("x.tar.gz", _tar_member(tarfile.LNKTYPE), "link or device"),
    "tar with a device": ("x.tar.gz", _tar_member(tarfile.CHRTYPE), "link or device"),
    "tar with a pipe": ("x.tar.gz", _tar_member(tarfile.FIFOTYPE), "link or device"),
    "tar bomb": ("x.tar.gz", tarred({"a": bytes(2_000_000)}), "declares more than 1,000,000 bytes"),
    "tar, truncated": ("x.tar.gz", tarred({"a": os.urandom(90_000)})[:40_000], "truncated or damaged"),
    "no tar": ("x.tar", b"<html>" * 1000, "truncated or damaged"),
    "the same file twice": ("x.tar.gz", tarred({"a/b": b"1", "a/./b": b"2"}), "the same file twice"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_archive_is_refused_and_leaves_nothing(tmp_path: Path, case: str) -> None:
    name, content, message = CASES[case]
    archive = tmp_path / "in" / name
    archive.parent.mkdir()
    archive.write_bytes(content)
    with pytest.raises(ArchiveError, match=message) as caught:
        unpack(archive, tmp_path / "deep" / "out", max_bytes=1_000_000)
    assert "\n" not in str(caught.value)
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert left == [archive]
    assert not (tmp_path / "deep" / "out").exists()


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz"])
def test_a_good_archive_is_unpacked(tmp_path: Path, name: str) -> None:
    entries = {"a/b c/1.jpg": b"one", "a/é.jpg": b"two", "a/empty": b""}
    (tmp_path / name).write_bytes(_zip(entries) if name == "x.zip" else tarred(entries))
    unpack(tmp_path / name, tmp_path / "out", max_bytes=1000)
    found = {
        str(file.relative_to(tmp_path / "out")): file.read_bytes()
        for file in (tmp_path / "out").rglob("*")
        if file.is_file()
    }
    assert found == entries


def test_an_abandoned_attempt_is_replaced(tmp_path: Path) -> None:
    (tmp_path / ".out.part").mkdir()
    (tmp_path / ".out.part" / "old").write_text("half")
    (tmp_path / "x.zip").write_bytes(_zip({"a": b"1"}))
    unpack(tmp_path / "x.zip", tmp_path / "out", max_bytes=1000)
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["a"]
    assert not (tmp_path / ".out.part").exists()


def test_a_place_that_cannot_be_written_is_not_the_archives_fault(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(_zip({"a": b"1"}))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot unpack x.zip") as caught:
        unpack(tmp_path / "x.zip", tmp_path / "file" / "out", max_bytes=1000)
    assert not isinstance(caught.value, ArchiveError)


def test_names_of_archives() -> None:
    assert is_archive("PACS.ZIP")
    assert is_archive("a.tar.gz")
    assert not is_archive("list.txt")
    assert not is_archive("pacs.parquet")
