"""Each transport brings a file whole, goes on where it was killed, and says in one line what is wrong."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import pytest

from search_spaces.errors import UserError
from tests.support.file_server import FileServer
from tests.support.repository import REPOSITORY
from trainables.data.acquire import transports
from trainables.data.acquire.http_transport import MirrorError
from trainables.data.acquire.sources import DataMirror, RemoteFile
from trainables.data.acquire.transports import download

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

TRANSPORTS = ["http", "google_drive", "hugging_face", "bucket"]
SIZE = 50_000


def mirrored(server: FileServer, transport: str, content: bytes, name: str = "x.bin") -> tuple[DataMirror, str]:
    """A mirror on the server that gives `content`, and the path it asks for."""
    if transport == "hugging_face":
        path = f"/datasets/owner/data/resolve/main/{name}"
        mirror = DataMirror(transport="hugging_face", address=f"owner/data/{name}", endpoint=server.url)
    elif transport == "bucket":
        path = f"/bucket/{name}"
        mirror = DataMirror(transport="bucket", address=f"s3://bucket/{name}", endpoint=server.address)
    else:
        path = f"/{transport}/{name}"
        mirror = DataMirror(transport=transport, address=f"{server.url}{path}")  # type: ignore[arg-type]
    server.add(path, content)
    return mirror, path


def described(content: bytes, *, known: bool = True) -> RemoteFile:
    """The registry's entry for a file, with its size and checksum or without."""
    sha256 = hashlib.sha256(content).hexdigest()
    return RemoteFile(name="x.bin", size=len(content) if known else None, sha256=sha256 if known else None)


def bring(file: RemoteFile, mirror: DataMirror, folder: Path, *, attempts: int = 2) -> bytes:
    download(file, mirror, folder / "x.bin", attempts=attempts, first_wait_s=0.01)
    return (folder / "x.bin").read_bytes()


_KILLED = """
import sys
from pathlib import Path
from trainables.data.acquire.sources import DataMirror, RemoteFile
from trainables.data.acquire.transports import download
transport, address, endpoint, place, size, sha256 = sys.argv[1:7]
mirror = DataMirror(transport=transport, address=address, endpoint=endpoint)
download(RemoteFile(name="x.bin", size=int(size), sha256=sha256 or None), mirror, Path(place))
"""


@pytest.mark.parametrize("known", [True, False], ids=["checksum known", "checksum unknown"])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_killed_in_the_middle_only_what_is_missing_is_sent(
    tmp_path: Path, server: FileServer, transport: str, known: bool
) -> None:
    content = os.urandom(24_000_000)
    mirror, path = mirrored(server, transport, content)
    sha256 = hashlib.sha256(content).hexdigest() if known else ""
    place = tmp_path / "x.bin"
    command = [sys.executable, "-c", _KILLED, transport, mirror.address, mirror.endpoint, str(place)]
    command += [str(len(content)), sha256]
    root = REPOSITORY
    server.bytes_per_s = 12_000_000
    process = subprocess.Popen(command, cwd=root)
    while server.sent[path] < 16_000_000 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = sum(file.stat().st_size for file in tmp_path.iterdir() if file.suffix != ".json")
    # A bucket is read in blocks of 8 MiB; the others write what they get at once.
    assert 2**23 <= kept < len(content)
    time.sleep(0.2)
    before = server.sent[path]
    subprocess.run(command, cwd=root, check=True)
    again = server.sent[path] - before - (len(content) - kept)
    # gdown asks for Drive's page first, and hangs up when that is the file itself.
    assert 0 <= again <= (1_000_000 if transport == "google_drive" else 0)
    assert place.read_bytes() == content
    assert list(tmp_path.iterdir()) == [place]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_killed_while_it_is_checked_nothing_is_sent_again(
    tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    class Killed(BaseException):
        pass

    def kill(*arguments: object) -> None:
        raise Killed

    content = os.urandom(SIZE)
    mirror, path = mirrored(server, transport, content)
    with monkeypatch.context() as patch:
        patch.setattr(transports, "check_arrived", kill)
        with pytest.raises(Killed):
            bring(described(content, known=False), mirror, tmp_path)
    before = server.sent[path]
    assert bring(described(content, known=False), mirror, tmp_path) == content
    assert server.sent[path] == before


@pytest.mark.parametrize("transport", ["http", "hugging_face"])
def test_a_server_that_always_drops_but_goes_on_ends_in_success(
    tmp_path: Path, server: FileServer, transport: str
) -> None:
    content = os.urandom(SIZE)
    mirror, path = mirrored(server, transport, content)
    server.faults[path] = ["drop after 4000", "..."]
    assert bring(described(content), mirror, tmp_path) == content
    assert server.asked[path] == 13
    assert server.sent[path] == SIZE


def test_a_server_that_drops_at_the_same_place_is_given_up(tmp_path: Path, server: FileServer) -> None:
    content = os.urandom(SIZE)
    mirror, path = mirrored(server, "http", content)
    server.faults[path] = ["drop after 4000", "drop after 0", "..."]
    with pytest.raises(MirrorError, match=r"\(2 attempts\)"):
        bring(described(content), mirror, tmp_path)
    assert server.asked[path] == 3


@pytest.mark.parametrize("transport", ["http", "hugging_face", "bucket"])
def test_a_changed_file_is_not_glued_to_a_part(tmp_path: Path, server: FileServer, transport: str) -> None:
    old, new = os.urandom(12_000_000), os.urandom(12_000_001)
    mirror, path = mirrored(server, transport, old)
    server.faults[path] = ["drop after 9000000", "404"]
    with pytest.raises(MirrorError, match="404"):
        bring(described(old, known=False), mirror, tmp_path)
    mirrored(server, transport, new)
    server.faults.clear()
    assert bring(described(new, known=False), mirror, tmp_path) == new


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_what_one_mirror_began_another_does_not_end(tmp_path: Path, server: FileServer, transport: str) -> None:
    old, new = os.urandom(12_000_000), os.urandom(12_000_000)
    first, path = mirrored(server, transport, old)
    second, _ = mirrored(server, transport, new, "y.bin")
    server.faults[path] = ["drop after 9000000", "404"]
    with pytest.raises(MirrorError):
        bring(described(old, known=False), first, tmp_path)
    assert bring(described(new, known=False), second, tmp_path) == new


def test_a_hub_is_asked_for_the_pinned_revision_and_tells_its_progress(tmp_path: Path, server: FileServer) -> None:
    content = os.urandom(SIZE)
    server.add("/datasets/owner/data/resolve/0123abc/x.bin", content)
    mirror = DataMirror(transport="hugging_face", address="owner/data/x.bin", endpoint=server.url, revision="0123abc")
    seen: list[tuple[str, int, int | None]] = []
    told = lambda *facts: seen.append(facts)  # noqa: E731
    digest = download(described(content), mirror, tmp_path / "x.bin", progress=told)
    assert digest == hashlib.sha256(content).hexdigest()
    assert seen[-1] == ("x.bin", SIZE, SIZE)
    assert str(mirror) == "hugging_face owner/data/x.bin at 0123abc"
    with pytest.raises(UserError, match="a revision belongs to a hugging_face mirror"):
        DataMirror(transport="http", address="http://localhost/x.bin", revision="0123abc")
    with pytest.raises(UserError, match="OWNER/NAME/path"):
        DataMirror(transport="hugging_face", address="owner/data")


def test_where_only_an_md5_is_published_a_damaged_copy_is_told_by_it(tmp_path: Path, server: FileServer) -> None:
    content = os.urandom(SIZE)
    mirror, _ = mirrored(server, "http", content)
    file = RemoteFile(name="x.bin", md5=hashlib.md5(content).hexdigest())
    assert bring(file, mirror, tmp_path) == content
    (tmp_path / "x.bin").unlink()
    other, _ = mirrored(server, "http", content[:-1] + bytes([content[-1] ^ 1]), "other.bin")
    with pytest.raises(MirrorError, match="wrong checksum: MD5 "):
        bring(file, other, tmp_path)
    assert not (tmp_path / "x.bin").exists()
    assert file.has_checksum


def test_googles_client_is_told_to_try_for_a_second_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default it tries for a quarter of an hour, inside each of our attempts."""
    told: list[object] = []

    class Client:
        def __init__(self, *, retry_time_limit: timedelta, **options: object) -> None:
            told.append(retry_time_limit)

        def get_file_info(self, path: str) -> NoReturn:
            raise OSError("curl error [7]: nobody there")

    monkeypatch.setattr("pyarrow.fs.GcsFileSystem", Client)
    mirror = DataMirror(transport="bucket", address="gs://bucket/x.bin", endpoint="127.0.0.1:9")
    with pytest.raises(MirrorError, match=r"Could not connect to server \(2 attempts\)"):
        bring(described(b"x"), mirror, tmp_path, attempts=5)
    assert told == [timedelta(seconds=1)] * 2


@pytest.mark.parametrize(
    ("transport", "note"),
    [
        *((transport, note) for transport in ("http", "google_drive") for note in ("[1]", "{", '{"address": 7}', "")),
        ("http", '{"address": "ADDRESS", "total": "many"}'),
        ("http", '{"address": "ADDRESS", "validator": 7}'),
    ],
)
def test_a_damaged_note_of_a_part_is_none(tmp_path: Path, server: FileServer, transport: str, note: str) -> None:
    content = os.urandom(SIZE)
    mirror, _ = mirrored(server, transport, content)
    name = "x.bin.part" if transport == "http" else "x.bin.drive"
    (tmp_path / name).write_bytes(b"half")
    (tmp_path / f"{name}.json").write_text(note.replace("ADDRESS", mirror.address))
    assert bring(described(content), mirror, tmp_path) == content


def test_an_answer_that_a_library_stumbles_over_is_the_mirrors_fault(
    tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(*arguments: object) -> Path:
        raise KeyError("signed https://host/x?X-Amz-Signature=abc \x1b[31m\n")

    mirror, _ = mirrored(server, "http", b"x")
    monkeypatch.setitem(transports._TRANSPORTS, "http", stumble)
    with pytest.raises(MirrorError) as caught:
        bring(described(b"x"), mirror, tmp_path)
    assert str(caught.value).startswith(
        "answered what cannot be understood: 'signed https://host/x?X-Amz-Signature=***"
    )
    assert str(caught.value).isprintable()
