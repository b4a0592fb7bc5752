"""Fetching from a real server on loopback ends in a verified benchmark or in one clear error, whatever goes wrong."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from search_spaces.benchmarks import BENCHMARKS, PACS
from search_spaces.errors import UserError
from tests.support.archives import downloads, hub_parquet, local_sources, tarred
from tests.support.file_server import FileServer
from tests.support.repository import REPOSITORY
from trainables.data.acquire.fetch import FetchSettings, fetch
from trainables.data.acquire.sources import BenchmarkSources, DataMirror, RemoteFile, Route, Step
from trainables.data.formats.open import open_benchmark
from trainables.data.formats.verify import Verification

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

QUICK = FetchSettings(attempts=3, first_wait_s=0.01, variants=[])


@pytest.fixture
def pacs(server: FileServer, pacs_files: dict[str, bytes]) -> BenchmarkSources:
    return local_sources("PACS", server, pacs_files)


def _only(sources: BenchmarkSources, route: int, *mirrors: DataMirror, **changes: object) -> BenchmarkSources:
    """One route with one file, with other mirrors or facts."""
    chosen = sources.routes[route]
    file = replace(chosen.files[0], mirrors=mirrors or chosen.files[0].mirrors, **changes)  # type: ignore[arg-type]
    return replace(sources, routes=(replace(chosen, files=(file,)),))


def _http(server: FileServer, content: bytes, name: str = "PACS.zip") -> tuple[DataMirror, str]:
    server.add(f"/plain/{name}", content)
    return DataMirror(transport="http", address=f"{server.url}/plain/{name}"), f"/plain/{name}"


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What a download waits between its attempts, in seconds; noted, not waited for."""
    noted: list[float] = []
    monkeypatch.setattr("trainables.data.acquire.transports.time", SimpleNamespace(sleep=noted.append))
    return noted


def _nothing_half_written(root: Path) -> bool:
    return not root.exists() or all(entry.name.startswith(".fetch-") for entry in root.iterdir())


@pytest.mark.parametrize(
    ("name", "images"), [("PACS", 56), ("VLCS", 40), ("OfficeHome", 520), ("TerraIncognita", 81), ("DomainNet", 2070)]
)
def test_every_route_and_mirror_ends_in_a_verified_benchmark(
    tmp_path: Path, server: FileServer, name: str, images: int
) -> None:
    sources = local_sources(name, server, downloads(name, tmp_path / "scratch"))
    tried = 0
    for route in sources.routes:
        for number in range(max(len(file.mirrors) for file in route.files)):
            files = tuple(
                replace(file, mirrors=(file.mirrors[min(number, len(file.mirrors) - 1)],)) for file in route.files
            )
            one = replace(sources, routes=(replace(route, files=files),))
            root = tmp_path / f"{route.name}-{number}"
            found = fetch(BENCHMARKS[name], root, sources=one, settings=QUICK)
            assert (found.num_images, found.errors) == (images, ())
            assert open_benchmark(BENCHMARKS[name], root).manifest == found.manifest
            assert [entry.name for entry in root.iterdir()] == [BENCHMARKS[name].folder]
            receipt = json.loads((root / BENCHMARKS[name].folder / ".fetch.json").read_text())
            assert set(receipt["files"]) == {file.name for file in route.files}
            tried += 1
    assert tried == {"PACS": 3, "VLCS": 1, "OfficeHome": 2, "TerraIncognita": 3, "DomainNet": 2}[name]


def test_an_archive_gives_the_very_images(tmp_path: Path, pacs: BenchmarkSources) -> None:
    from trainables.data.formats.sample import write_sample

    write_sample(tmp_path / "original", images_per_class=2, image_side=16, benchmarks=["PACS"])
    found = fetch(PACS, tmp_path / "fetched", sources=pacs, settings=QUICK)
    assert found.manifest == open_benchmark(PACS, tmp_path / "original").manifest


def test_camera_trap_rules(tmp_path: Path, server: FileServer) -> None:
    terra = BENCHMARKS["TerraIncognita"]
    sources = local_sources("TerraIncognita", server, downloads("TerraIncognita", tmp_path / "scratch"))
    fetch(terra, tmp_path / "root", sources=sources, settings=QUICK)
    folder = tmp_path / "root" / "terra_incognita"
    both = "location_38-cat-000.jpg"
    assert (folder / "location_38" / "dog" / both).read_bytes() == (folder / "location_38" / "cat" / both).read_bytes()
    assert len(list((folder / "location_38" / "cat").iterdir())) == 2, "two boxes of one category are one image"
    assert not (folder / "location_38" / "deer").exists()
    assert not (folder / "location_7").exists()


def test_the_list_of_duplicates_is_checked(tmp_path: Path, server: FileServer) -> None:
    files = downloads("DomainNet", tmp_path / "scratch")
    sources = local_sources("DomainNet", server, files)
    found = fetch(BENCHMARKS["DomainNet"], tmp_path / "root", sources=sources, settings=QUICK)
    assert found.counts["clipart"] == 345
    short = {**files, "domain_net_duplicates.txt": b"clipart/zebra/duplicate_0.jpg\n"}
    with pytest.raises(UserError, match="lists 1 images instead of 7"):
        fetch(
            BENCHMARKS["DomainNet"],
            tmp_path / "short",
            sources=local_sources("DomainNet", server, short),
            settings=QUICK,
        )
    outside = {**files, "domain_net_duplicates.txt": b"../../precious\n"}
    with pytest.raises(UserError, match="names a path outside the benchmark"):
        fetch(
            BENCHMARKS["DomainNet"],
            tmp_path / "outside",
            sources=local_sources("DomainNet", server, outside),
            settings=QUICK,
        )


def test_a_second_fetch_transfers_nothing(tmp_path: Path, server: FileServer, pacs: BenchmarkSources) -> None:
    first = fetch(PACS, tmp_path, sources=pacs, settings=QUICK)
    before = dict(server.sent)
    second = fetch(PACS, tmp_path, sources=pacs, settings=QUICK)
    assert second.manifest == first.manifest
    assert dict(server.sent) == before


def _mirror(server: FileServer, transport: str, content: bytes) -> tuple[DataMirror, str]:
    """A mirror on the server, and the path it asks for."""
    if transport == "hugging_face":
        path = "/datasets/owner/name/resolve/main/PACS.zip"
        server.add(path, content)
        return DataMirror(transport="hugging_face", address="owner/name/PACS.zip", endpoint=server.url), path
    if transport == "bucket":
        server.add("/bucket/PACS.zip", content)
        return DataMirror(
            transport="bucket", address="s3://bucket/PACS.zip", endpoint=server.address
        ), "/bucket/PACS.zip"
    server.add(f"/{transport}/PACS.zip", content)
    return DataMirror(transport=transport, address=f"{server.url}/{transport}/PACS.zip"), f"/{transport}/PACS.zip"  # type: ignore[arg-type]


@pytest.mark.parametrize("transport", ["http", "google_drive", "hugging_face", "bucket"])
@pytest.mark.parametrize("fault", ["stop half way", "500", "503"])
def test_a_passing_fault_is_outlived(
    tmp_path: Path, server: FileServer, pacs: BenchmarkSources, pacs_files: dict[str, bytes], transport: str, fault: str
) -> None:
    mirror, path = _mirror(server, transport, pacs_files["PACS.zip"])
    server.faults[path] = [fault]
    found = fetch(PACS, tmp_path, sources=_only(pacs, 0, mirror), settings=QUICK)
    assert found.num_images == 56
    if transport in ("http", "hugging_face"):
        # The other libraries write whole blocks of up to 10 MB, so of this small file they keep nothing.
        assert server.sent[path] == len(pacs_files["PACS.zip"]), "what had arrived was sent again"


_PAGE = "sent a web page instead of the file"
_SAID = {
    "404": "answered 404 not found",
    "429": r"answered 429 too many requests \(3 attempts\)",
    "500": r"answered 500 server error \(3 attempts\)",
    "html": _PAGE,
    "html without a type": _PAGE,
    "other bytes": "wrong checksum: SHA-256 ",
    "wrong length": r"the connection failed: .* \(3 attempts\)",
}
"""What a lasting fault is called."""
_SAID_BY = {
    # The announced length is other than the registry's: nothing more has to be read.
    ("http", "html without a type"): r"offers \d+ bytes instead of",
    ("hugging_face", "html without a type"): r"offers \d+ bytes instead of",
    ("http", "wrong length"): r"offers [\d,]+ bytes instead of",
    ("hugging_face", "wrong length"): r"offers [\d,]+ bytes instead of",
    ("bucket", "404"): "not found in the bucket",
    ("bucket", "wrong length"): r"AWS Error NETWORK_CONNECTION .* \(3 attempts\)",
}
"""Where a transport says it otherwise."""


@pytest.mark.parametrize("transport", ["http", "google_drive", "hugging_face", "bucket"])
@pytest.mark.parametrize("fault", _SAID)
def test_a_lasting_fault_is_one_clear_error(
    tmp_path: Path,
    server: FileServer,
    pacs: BenchmarkSources,
    pacs_files: dict[str, bytes],
    pauses: list[float],
    transport: str,
    fault: str,
) -> None:
    mirror, path = _mirror(server, transport, pacs_files["PACS.zip"])
    server.faults[path] = [fault, "..."]
    with pytest.raises(UserError, match=_SAID_BY.get((transport, fault), _SAID[fault])) as caught:
        fetch(PACS, tmp_path / "root", sources=_only(pacs, 0, mirror), settings=QUICK)
    message = str(caught.value)
    attempts = 3 if "(3 attempts)" in message else 1
    # An attempt may look before it asks, a bucket's client twice; no library tries more often by itself.
    assert server.asked[path] in (0, attempts)
    assert server.looked[path] in (0, attempts, 2 * attempts)
    assert server.asked[path] + server.looked[path] > 0
    waits = [0.0, 0.0] if fault == "429" and transport != "bucket" else [0.01, 0.02]
    assert pauses == waits[: attempts - 1]
    assert message.startswith("PACS could not be fetched: [archive] PACS.zip: ")
    assert mirror.address in message
    assert "By hand: open https://drive.google.com" in message
    assert "\n" not in message
    assert _nothing_half_written(tmp_path / "root")


def test_a_mirror_that_fails_gives_way_to_the_next(
    tmp_path: Path, server: FileServer, pacs: BenchmarkSources, pacs_files: dict[str, bytes]
) -> None:
    good, _ = _http(server, pacs_files["PACS.zip"])
    gone = DataMirror(transport="http", address=f"{server.url}/gone.zip")
    nobody = DataMirror(transport="http", address="http://127.0.0.1:9/PACS.zip")
    found = fetch(PACS, tmp_path, sources=_only(pacs, 0, gone, nobody, good), settings=QUICK)
    assert found.num_images == 56
    receipt = json.loads((tmp_path / "PACS" / ".fetch.json").read_text())
    assert receipt["files"]["PACS.zip"]["from"] == f"http {good.address}"
    assert receipt["files"]["PACS.zip"]["sha256"] == hashlib.sha256(pacs_files["PACS.zip"]).hexdigest()


def _elsewhere(transport: str, host: str) -> DataMirror:
    """A mirror at HOST:PORT where there is none."""
    if transport == "hugging_face":
        return DataMirror(transport="hugging_face", address="owner/name/PACS.zip", endpoint=f"http://{host}")
    if transport in ("s3", "gs"):
        return DataMirror(transport="bucket", address=f"{transport}://bucket/PACS.zip", endpoint=host)
    return DataMirror(transport=transport, address=f"http://{host}/PACS.zip")  # type: ignore[arg-type]


@pytest.mark.parametrize("transport", ["http", "google_drive", "hugging_face", "s3", "gs"])
@pytest.mark.parametrize("host", ["no name", "refused port"])
def test_a_host_that_cannot_be_reached_is_given_up_after_one_quick_retry(
    tmp_path: Path,
    pacs: BenchmarkSources,
    pauses: list[float],
    transport: str,
    host: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connects: list[object] = []
    look_up = socket.getaddrinfo

    def noted(name: object, *rest: Any, **options: Any) -> Any:
        connects.append(name)
        return look_up(name, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", noted)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = "nobody.invalid:80" if host == "no name" else f"127.0.0.1:{unused.getsockname()[1]}"
        mirror = _elsewhere(transport, address)
        with pytest.raises(UserError, match=r"By hand: open https://drive\.google\.com") as caught:
            fetch(PACS, tmp_path, sources=_only(pacs, 0, mirror), settings=FetchSettings(variants=[]))
    assert pauses == [1.0]
    # pyarrow looks names up by itself: how often its clients may try is told to them (test_transports.py).
    assert connects == [] if transport in ("s3", "gs") else connects == [address.partition(":")[0]] * 2
    assert f"{mirror}: the host cannot be reached: " in str(caught.value)
    assert "(2 attempts)" in str(caught.value)


def test_an_outage_of_a_host_that_had_answered_is_waited_for(
    tmp_path: Path, pacs: BenchmarkSources, pacs_files: dict[str, bytes]
) -> None:
    leaving = FileServer()
    with leaving.running():
        mirror, path = _http(leaving, pacs_files["PACS.zip"])
        leaving.faults[path] = ["stop half way", "..."]
        with pytest.raises(UserError, match=r"the host cannot be reached: Connection refused \(3 attempts\)"):
            fetch(PACS, tmp_path, sources=_only(pacs, 0, mirror), settings=QUICK, progress=lambda *_: leaving.close())
    assert leaving.asked[path] == 1


def test_all_mirrors_are_named_when_all_fail(tmp_path: Path, server: FileServer, pacs: BenchmarkSources) -> None:
    server.files.clear()
    with pytest.raises(UserError) as caught:
        fetch(PACS, tmp_path, sources=pacs, settings=QUICK)
    message = str(caught.value)
    for route in pacs.routes:
        assert f"[{route.name}]" in message
        assert all(mirror.address in message for file in route.files for mirror in file.mirrors)


@pytest.mark.parametrize("damage", ["truncated", "not an archive"])
def test_a_damaged_archive_of_unknown_checksum_gives_way_to_the_next_mirror(
    tmp_path: Path, server: FileServer, pacs: BenchmarkSources, pacs_files: dict[str, bytes], damage: str
) -> None:
    whole = pacs_files["PACS.zip"]
    bad, _ = _http(server, whole[: len(whole) // 2] if damage == "truncated" else b"x" * 5000, "bad.zip")
    good, _ = _http(server, whole)
    alone = _only(pacs, 0, bad, size=None, sha256=None)
    with pytest.raises(UserError, match=r"PACS.zip is truncated or damaged"):
        fetch(PACS, tmp_path / "alone", sources=alone, settings=QUICK)
    assert _nothing_half_written(tmp_path / "alone")
    both = _only(pacs, 0, bad, good, size=None, sha256=None)
    assert fetch(PACS, tmp_path / "both", sources=both, settings=QUICK).num_images == 56


def test_an_archive_with_another_folder_inside_says_what_it_has(
    tmp_path: Path, server: FileServer, pacs: BenchmarkSources
) -> None:
    import io
    import zipfile

    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("PACS_2/photo/dog/1.jpg", b"")
    mirror, _ = _http(server, stream.getvalue())
    with pytest.raises(UserError, match=r"PACS.zip has no folder kfold; it has PACS_2"):
        fetch(PACS, tmp_path, sources=_only(pacs, 0, mirror, size=None, sha256=None), settings=QUICK)


def test_a_copy_with_other_counts_is_not_taken_for_the_benchmark(tmp_path: Path, pacs: BenchmarkSources) -> None:
    with pytest.raises(UserError, match=r"not the benchmark: nearest known variant: papers; art_painting 14 "):
        fetch(PACS, tmp_path, sources=pacs, settings=replace(QUICK, variants=None))
    assert _nothing_half_written(tmp_path)


def test_a_folder_that_is_there_and_not_whole_is_left_alone(tmp_path: Path, pacs: BenchmarkSources) -> None:
    (tmp_path / "PACS" / "photo" / "dog").mkdir(parents=True)
    with pytest.raises(UserError, match=r"PACS is there, but 3 of 4 domain folders are missing.*left as it is"):
        fetch(PACS, tmp_path, sources=pacs, settings=QUICK)
    assert (tmp_path / "PACS" / "photo" / "dog").is_dir()


def test_files_the_user_has_are_used(
    tmp_path: Path, server: FileServer, pacs: BenchmarkSources, pacs_files: dict[str, bytes]
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "PACS.zip").write_bytes(pacs_files["PACS.zip"])
    fetch(PACS, tmp_path / "root", sources=pacs, settings=replace(QUICK, own_files=own))
    assert sum(server.sent.values()) == 0
    assert (own / "PACS.zip").exists()
    (own / "PACS.zip").write_bytes(b"something else")
    with pytest.raises(UserError, match=r"own file .*PACS.zip: sent 14 bytes instead of"):
        fetch(
            PACS,
            tmp_path / "other",
            sources=_only(pacs, 0, DataMirror(transport="http", address=f"{server.url}/none")),
            settings=replace(QUICK, own_files=own),
        )


def test_too_little_space_is_said_before_the_first_byte(
    tmp_path: Path, server: FileServer, pacs: BenchmarkSources, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    with pytest.raises(UserError, match=r"PACS needs about 0.1 GB below .*, where 0.0 GB are free"):
        fetch(PACS, tmp_path, sources=pacs, settings=QUICK)
    assert sum(server.asked.values()) == 0


def test_a_full_disk_is_one_clear_error_and_the_next_run_resumes(
    tmp_path: Path, server: FileServer, pacs: BenchmarkSources, pacs_files: dict[str, bytes]
) -> None:
    mirror, path = _http(server, pacs_files["PACS.zip"])
    sources = _only(pacs, 0, mirror)
    size = len(pacs_files["PACS.zip"])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, hard))
    try:
        with pytest.raises(UserError, match=r"cannot write .*PACS.zip: File too large; what has arrived is kept"):
            fetch(PACS, tmp_path, sources=sources, settings=QUICK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert _nothing_half_written(tmp_path)
    part = tmp_path / ".fetch-PACS" / "archive" / "downloads" / "PACS.zip.part"
    kept = part.stat().st_size
    assert kept == size // 2
    before = server.sent[path]
    assert fetch(PACS, tmp_path, sources=sources, settings=QUICK).num_images == 56
    assert server.sent[path] - before == size - kept


def test_a_root_that_cannot_be_written_is_named(tmp_path: Path, pacs: BenchmarkSources) -> None:
    (tmp_path / "root").write_text("a file")
    with pytest.raises(UserError, match=r"cannot write below .*root"):
        fetch(PACS, tmp_path / "root", sources=pacs, settings=QUICK)


def test_a_read_only_root_is_named(tmp_path: Path, pacs: BenchmarkSources, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **named: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    # root may write everywhere, so the file system's answer is put in its mouth.
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UserError, match=r"cannot write below .*: Read-only file system"):
        fetch(PACS, tmp_path, sources=pacs, settings=QUICK)


_KILLED = """
import sys
from pathlib import Path
from search_spaces.benchmarks import PACS
from trainables.data.acquire.fetch import FetchSettings, fetch
from trainables.data.acquire.sources import BenchmarkSources, DataMirror, RemoteFile, Route, Step
address, root, size, sha256 = sys.argv[1:5]
mirror = DataMirror(transport="http", address=address)
file = RemoteFile(name="PACS.zip", size=int(size), sha256=sha256, mirrors=(mirror,))
route = Route(name="archive", files=(file,), steps=(Step(step="take", source="PACS.zip/kfold"),))
sources = BenchmarkSources(licence="", citation="", manual="none", unpacked_bytes=50_000_000, routes=(route,))
fetch(PACS, Path(root), sources=sources, settings=FetchSettings(variants=[]))
"""


def test_killed_in_the_middle_it_transfers_only_what_is_missing(
    tmp_path: Path, server: FileServer, pacs_files: dict[str, bytes]
) -> None:
    content = _padded_zip(pacs_files["PACS.zip"], 3_000_000)
    mirror, path = _http(server, content)
    sha256 = hashlib.sha256(content).hexdigest()
    server.bytes_per_s = 1_500_000
    command = [sys.executable, "-c", _KILLED, mirror.address, str(tmp_path), str(len(content)), sha256]
    process = subprocess.Popen(command, cwd=REPOSITORY)
    while server.sent[path] < len(content) // 2 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert _nothing_half_written(tmp_path)
    kept = (tmp_path / ".fetch-PACS" / "archive" / "downloads" / "PACS.zip.part").stat().st_size
    assert len(content) // 4 < kept < len(content)
    time.sleep(0.1)
    server.bytes_per_s = None
    before = server.sent[path]
    subprocess.run(command, cwd=REPOSITORY, check=True)
    assert server.sent[path] - before == len(content) - kept
    assert len(open_benchmark(PACS, tmp_path).labels("photo")) == 14


def _padded_zip(archive: bytes, size: int) -> bytes:
    import io
    import zipfile

    stream = io.BytesIO(archive)
    with zipfile.ZipFile(stream, "a") as opened:
        opened.writestr("filler.bin", os.urandom(size))
    return stream.getvalue()


def test_a_changed_file_is_not_glued_to_a_part(
    tmp_path: Path, server: FileServer, pacs_files: dict[str, bytes]
) -> None:
    whole = pacs_files["PACS.zip"]
    mirror, path = _http(server, whole[:500] + bytes(20) + whole[520:])
    file = RemoteFile(name="PACS.zip", mirrors=(mirror,))
    route = Route(name="archive", files=(file,), steps=(Step(step="take", source="PACS.zip/kfold"),))
    sources = BenchmarkSources(licence="", citation="", manual="none", unpacked_bytes=50_000_000, routes=(route,))
    server.faults[path] = ["stop half way", "..."]
    with pytest.raises(UserError):
        fetch(PACS, tmp_path, sources=sources, settings=replace(QUICK, attempts=1))
    server.faults.clear()
    server.add(path, whole)
    assert fetch(PACS, tmp_path, sources=sources, settings=QUICK).num_images == 56


@pytest.mark.parametrize("step", [0, 1, 2, 3, 4])
def test_interrupted_anywhere_it_goes_on(
    tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Each step of a fetch is broken off once, as a kill would, and the same call is made again."""
    import trainables.data.acquire.assemble as assemble
    import trainables.data.acquire.fetch as fetching
    from trainables.data.acquire import route

    class Killed(BaseException):
        pass

    def kill(*arguments: object, **named: object) -> None:
        raise Killed

    sources = local_sources("TerraIncognita", server, downloads("TerraIncognita", tmp_path / "scratch"))
    places = [
        (route, "unpack_archive"),
        (fetching, "run_step"),
        (assemble, "write_json"),
        (fetching, "verify_benchmark"),
        (fetching, "_move_into_place"),
    ]
    root = tmp_path / "root"
    with monkeypatch.context() as patch:
        patch.setattr(*places[step], kill)
        with pytest.raises(Killed):
            fetch(BENCHMARKS["TerraIncognita"], root, sources=sources, settings=QUICK)
    assert _nothing_half_written(root)
    before = sum(server.sent.values())
    found = fetch(BENCHMARKS["TerraIncognita"], root, sources=sources, settings=QUICK)
    assert found.num_images == 81
    again = sum(server.sent.values()) - before
    assert again == (0 if step else len(server.files["/http/eccv_18_annotations.tar.gz"]))


def test_two_fetches_at_once_are_refused(tmp_path: Path, pacs: BenchmarkSources) -> None:
    import fcntl

    work = tmp_path / ".fetch-PACS"
    work.mkdir()
    with (work / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another fetch works in"):
            fetch(PACS, tmp_path, sources=pacs, settings=QUICK)


def test_progress_is_reported(tmp_path: Path, pacs: BenchmarkSources, pacs_files: dict[str, bytes]) -> None:
    seen: list[tuple[str, int, int | None]] = []
    fetch(PACS, tmp_path, sources=pacs, settings=QUICK, progress=lambda *facts: seen.append(facts))
    assert seen[-1] == ("PACS.zip", len(pacs_files["PACS.zip"]), len(pacs_files["PACS.zip"]))


def test_a_parquet_with_original_paths_keeps_their_names(tmp_path: Path) -> None:
    import io

    import pyarrow as pa
    import pyarrow.parquet as parquet

    from tests.support.folders import encoded, tiny_benchmark
    from trainables.data.acquire.assemble import Assembly, run_step

    rows = {
        "image": [{"bytes": encoded(1), "path": "a.png"}, {"bytes": encoded(2), "path": None}],
        "image_path": ["sketch/dog/dog_7.png", None],
        "domain": ["Sketch", "ART"],
        "label": [1, 0],
    }
    stream = io.BytesIO()
    parquet.write_table(pa.table(rows), stream)
    (tmp_path / "x.parquet").write_bytes(stream.getvalue())
    target = tmp_path / "assembled"
    step = Step(step="parquet", source="x.parquet")
    files = {"x.parquet": tmp_path / "x.parquet"}
    assembly = Assembly(benchmark=tiny_benchmark(), files=files, target=target, max_bytes=2**20)
    run_step(step, 0, assembly)
    found = sorted(str(file.relative_to(target)) for file in target.rglob("*.png"))
    assert found == ["art/cat/x-000001.png", "sketch/dog/dog_7.png"]
    assert (target / found[1]).read_bytes() == encoded(1)
    assert isinstance(hub_parquet(tmp_path), bytes)
    (tmp_path / "x.parquet").write_bytes(tarred({}))
    with pytest.raises(UserError, match=r"x.parquet is no Parquet file"):
        run_step(step, 1, assembly)


def test_the_result_is_a_verification(tmp_path: Path, pacs: BenchmarkSources) -> None:
    assert isinstance(fetch(PACS, tmp_path, sources=pacs, settings=QUICK), Verification)
