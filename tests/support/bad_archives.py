"""Archives that are wrong in themselves, whatever disk they are unpacked on."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile


def zip_of(entries: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip with these files."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tar_of(members: list[tuple[tarfile.TarInfo, bytes]], *, compressed: bool = True) -> bytes:
    """A tar (.gz) with these members, whatever they say."""
    stream = io.BytesIO()
    for member, content in members:
        stream.write(member.tobuf(tarfile.PAX_FORMAT))
        stream.write(content + bytes(-len(content) % 512))
    stream.write(bytes(1024))
    return gzip.compress(stream.getvalue(), compresslevel=1) if compressed else stream.getvalue()


def member(name: str, size: int = 0, **headers: str) -> tarfile.TarInfo:
    """One member's header, with extended ones."""
    made = tarfile.TarInfo(name)
    made.size, made.pax_headers = size, headers
    return made


def tar_with_a_damaged_header() -> bytes:
    """Of its three files the second one's header is none; for `tarfile` that is the end."""
    data = bytearray(tar_of([(member(f"a/{name}", 1), b"1") for name in "123"], compressed=False))
    data[1024:1034] = b"x" * 10
    return gzip.compress(bytes(data))


def tar_name_not_utf8() -> bytes:
    """A name in Latin-1."""
    made = tarfile.TarInfo("a/\udcff.jpg")
    data = made.tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape")
    return gzip.compress(data + bytes(1024))


SPARSE = {"GNU.sparse.size": "5", "GNU.sparse.map": "0,5"}
BROKEN_MAP = {"GNU.sparse.size": "5", "GNU.sparse.map": "0,five"}
BAD_ARCHIVES: dict[str, tuple[str, bytes, str]] = {
    "zip with a name of 300 characters": ("x.zip", zip_of({f"a/{'n' * 300}.jpg": b"1"}), "a name that cannot be writt"),
    "zip with folders of 300 characters": ("x.zip", zip_of({f"{'n' * 300}/1.jpg": b"1"}), "a name that cannot be writ"),
    "zip with 2,000 folders": ("x.zip", zip_of({"a/" * 2000 + "1": b"1"}), "folders more than 64 deep"),
    "zip, a file as a folder": ("x.zip", zip_of({"a": b"1", "a/b": b"2"}), "the same file twice: 'a'"),
    "zip, a folder as a file": ("x.zip", zip_of({"a/b": b"2", "a": b"1"}), "the same file twice: 'a'"),
    "tar with a name of 300 characters": ("x.tar.gz", tar_of([(member("n" * 300), b"")]), "a name that cannot be writ"),
    "tar with a broken PAX map": (
        "x.tar.gz",
        tar_of([(member("a", 5, **BROKEN_MAP), b"12345")]),
        "truncated or damaged",
    ),
    "tar with a sparse file": ("x.tar.gz", tar_of([(member("a", 5, **SPARSE), b"12345")]), "a link or device"),
    "tar with a damaged header": ("x.tar.gz", tar_with_a_damaged_header(), "a header in its middle is none"),
    "tar with a name that is not UTF-8": ("x.tar.gz", tar_name_not_utf8(), "a file name that is not UTF-8"),
    "tar with 1,200 folders": ("x.tar.gz", tar_of([(member("a/" * 1200 + "1"), b"")]), "folders more than 64 deep"),
    "tar of no gzip": ("x.tar.gz", b"\x1f\x8b\x08" + b"x" * 5000, "truncated or damaged"),
    "tar of no bzip2": ("x.tar.bz2", b"BZh9" + b"x" * 5000, "truncated or damaged"),
    "tar of no xz": ("x.tar.xz", b"\xfd7zXZ\x00" + b"x" * 5000, "truncated or damaged"),
}
"""File name, bytes and what is said of them, by what is wrong."""
