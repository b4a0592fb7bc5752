"""A full disk, and a place that cannot be read, end in one line; when there is room, the same call goes on."""

from __future__ import annotations

import errno
import io
import os
import resource
import shutil
import signal
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from search_spaces.benchmarks import BENCHMARKS, PACS
from search_spaces.errors import UserError
from tests.support.archives import downloads, local_sources
from tests.support.file_server import FileServer
from trainables.data.acquire import assemble, fetch, receipt, route
from trainables.data.acquire.fetch import FetchSettings
from trainables.data.acquire.sources import BenchmarkSources

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

QUICK = FetchSettings(attempts=3, first_wait_s=0.01, variants=[])
LARGE = 2_300_000
"""Bytes of the one file that does not fit."""


def _with_a_large_file(files: dict[str, bytes]) -> dict[str, bytes]:
    """The archives with one file that is small while it is packed and large when it is unpacked or written."""
    stream = io.BytesIO(files["PACS.zip"])
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("filler.bin", bytes(LARGE))
    table = parquet.read_table(io.BytesIO(files["pacs.parquet"]))
    picture = io.BytesIO()
    Image.new("RGB", (880, 880)).save(picture, "BMP")
    images = [{"bytes": picture.getvalue(), "path": None}, *table["image"].to_pylist()[1:]]
    table = table.set_column(0, "image", pa.array(images))
    written = io.BytesIO()
    parquet.write_table(table, written, compression="zstd")
    return {"PACS.zip": stream.getvalue(), "pacs.parquet": written.getvalue()}


@contextmanager
def _quota(root: Path) -> Iterator[Callable[[], None]]:
    """No file may grow beyond 2 MB, until the function that is given is called."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def lift() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, hard))
    try:
        yield lift
    finally:
        lift()
        signal.signal(signal.SIGXFSZ, handler)


@contextmanager
def _small_disk(root: Path) -> Iterator[Callable[[], None]]:
    """The root is a disk of 2 MB, until the function that is given is called."""
    root.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(root)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root may mount a small disk, and not everywhere")
    try:
        yield lambda: subprocess.run(["mount", "-o", "remount,size=20m", str(root)], check=True) and None
    finally:
        subprocess.run(["umount", str(root)], check=True)


@pytest.mark.parametrize("disk", [_quota, _small_disk])
@pytest.mark.parametrize(
    ("route", "said"),
    [
        (0, r"cannot unpack PACS\.zip: (File too large|No space left)"),
        (1, r"cannot assemble PACS in .*: (File|No space)"),
    ],
    ids=["unpacking", "assembling"],
)
def test_a_full_disk_after_the_download_is_one_line_and_nothing_is_sent_again(
    tmp_path: Path,
    server: FileServer,
    route: int,
    said: str,
    disk: Callable[[Path], AbstractContextManager[Callable[[], None]]],
) -> None:
    files = _with_a_large_file(downloads("PACS", tmp_path / "scratch"))
    sources = local_sources("PACS", server, files)
    sources = replace(sources, unpacked_bytes=1_300_000, routes=(sources.routes[route],))
    root = tmp_path / "root"
    with disk(root) as make_room:
        with pytest.raises(UserError, match=said) as caught:
            fetch.fetch(PACS, root, sources=sources, settings=QUICK)
        assert "\n" not in str(caught.value)
        assert not (root / "PACS").exists()
        make_room()
        sent = sum(server.sent.values())
        assert fetch.fetch(PACS, root, sources=sources, settings=QUICK).num_images == 56
        assert sum(server.sent.values()) == sent


@pytest.fixture
def pacs(tmp_path: Path, server: FileServer) -> BenchmarkSources:
    return local_sources("PACS", server, downloads("PACS", tmp_path / "scratch"))


@pytest.mark.parametrize("module", [route, assemble, receipt], ids=["files.json", "steps.json", "receipt"])
def test_a_full_disk_while_a_note_is_written_is_one_line(
    tmp_path: Path, server: FileServer, pacs: BenchmarkSources, monkeypatch: pytest.MonkeyPatch, module: object
) -> None:
    def full(path: Path, content: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_json", full)
        with pytest.raises(UserError, match=r"PACS.*: No space left on device; what has arrived is kept"):
            fetch.fetch(PACS, tmp_path / "root", sources=pacs, settings=QUICK)
    sent = sum(server.sent.values())
    assert fetch.fetch(PACS, tmp_path / "root", sources=pacs, settings=QUICK).num_images == 56
    assert sum(server.sent.values()) == sent


def test_a_parent_that_cannot_be_looked_into_is_named(
    tmp_path: Path, pacs: BenchmarkSources, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, **named: object) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    # root may look everywhere, so the file system's answer is put in its mouth.
    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(UserError, match=r"cannot fetch PACS: .*PACS: Permission denied"):
        fetch.fetch(PACS, tmp_path / "root", sources=pacs, settings=QUICK)


def test_a_benchmark_that_appears_before_the_lock_is_only_verified(
    tmp_path: Path, server: FileServer, pacs: BenchmarkSources, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch.fetch(PACS, tmp_path / "other", sources=pacs, settings=QUICK)
    root, locked, sent = tmp_path / "root", fetch._locked, sum(server.sent.values())

    @contextmanager
    def late(work: Path) -> Iterator[None]:
        with locked(work):
            shutil.copytree(tmp_path / "other" / "PACS", root / "PACS")
            yield

    monkeypatch.setattr(fetch, "_locked", late)
    assert fetch.fetch(PACS, root, sources=pacs, settings=QUICK).num_images == 56
    assert sum(server.sent.values()) == sent
    assert [entry.name for entry in root.iterdir()] == ["PACS"]


def test_bytes_that_stand_in_two_folders_are_counted_once(
    tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / ".fetch-terra_incognita" / "lila"
    work.mkdir(parents=True)
    (work / "one.jpg").write_bytes(bytes(30_000_000))
    (work / "two.jpg").hardlink_to(work / "one.jpg")
    sources = local_sources("TerraIncognita", server, downloads("TerraIncognita", tmp_path / "scratch"))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10_000_000))
    with pytest.raises(UserError, match=r"needs about 0\.0 GB below .*, where 0\.0 GB are free"):
        fetch.fetch(BENCHMARKS["TerraIncognita"], tmp_path, sources=sources, settings=QUICK)
    assert sum(server.asked.values()) == 0
