"""What arrived and turns out to be wrong is let go, and whoever else has the file is asked; own files go first."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from search_spaces.benchmarks import BENCHMARKS, PACS
from search_spaces.errors import UserError
from tests.support.archives import downloads, local_sources, tarred
from tests.support.bad_archives import BAD_ARCHIVES, zip_of
from tests.support.file_server import FileServer
from trainables.data.acquire import route
from trainables.data.acquire.fetch import FetchSettings, fetch
from trainables.data.acquire.receipt import receipt_notes
from trainables.data.acquire.sources import BenchmarkSources, DataMirror

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

QUICK = FetchSettings(attempts=3, first_wait_s=0.01, variants=[])


@pytest.fixture(scope="module")
def vlcs_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The file of a small VLCS, by name."""
    return downloads("VLCS", tmp_path_factory.mktemp("vlcs"))


def _unvouched(sources: BenchmarkSources, *routes: int) -> BenchmarkSources:
    """Some routes (all unless named), with no size and no checksum known."""
    chosen = [sources.routes[number] for number in routes] or sources.routes
    return replace(
        sources,
        routes=tuple(
            replace(route, files=tuple(replace(file, size=None, sha256=None) for file in route.files))
            for route in chosen
        ),
    )


def _served(server: FileServer, name: str, content: bytes) -> DataMirror:
    server.add(f"/mirrors/{name}", content)
    return DataMirror(transport="http", address=f"{server.url}/mirrors/{name}")


def _mirrored(sources: BenchmarkSources, *mirrors: DataMirror) -> BenchmarkSources:
    """The first route's first file from these mirrors."""
    route = sources.routes[0]
    return replace(
        sources, routes=(replace(route, files=(replace(route.files[0], mirrors=mirrors), *route.files[1:])),)
    )


def _without(archive: bytes, domain: str) -> bytes:
    """The zip without one domain: it unpacks, and verification finds it out."""
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return zip_of({name: opened.read(name) for name in opened.namelist() if f"/{domain}/" not in name})


DEEP = b"[" * 99_999
OTHER_FOLDER = zip_of({"PACS_2/photo/dog/1.jpg": b""})


@pytest.mark.parametrize(
    ("benchmark", "route", "name", "damage", "said"),
    [
        ("PACS", 0, "PACS.zip", lambda content: OTHER_FOLDER, "has no folder kfold; it has PACS_2"),
        ("PACS", 0, "PACS.zip", lambda content: content[:3000], "truncated or damaged"),
        ("PACS", 0, "PACS.zip", lambda content: _without(content, "photo"), "1 of 4 domain folders are missing: photo"),
        ("PACS", 1, "pacs.parquet", lambda content: content[:5000], "pacs.parquet is no Parquet file, or is damaged"),
        ("DomainNet", 0, "domain_net_duplicates.txt", lambda content: b"clipart/zebra/duplicate_0.jpg\n", "lists 1"),
        ("DomainNet", 0, "domain_net_duplicates.txt", lambda content: content + b"a/b.jpg\n", "lists 8 images"),
        ("DomainNet", 0, "domain_net_duplicates.txt", lambda content: b"n" * 300 + content[29:], "cannot be read"),
        ("TerraIncognita", 0, "eccv_18_annotations.tar.gz", lambda content: tarred({"b.json": b"[]"}), "b.json is no"),
        ("TerraIncognita", 0, "eccv_18_annotations.tar.gz", lambda content: tarred({"b.json": DEEP}), "depth"),
        ("TerraIncognita", 0, "eccv_18_all_images_sm.tar.gz", lambda content: tarred({"a.jpg": b""}), "are missing"),
    ],
)  # fmt: skip
def test_a_repaired_mirror_helps(
    tmp_path: Path, server: FileServer, benchmark: str, route: int, name: str, damage: object, said: str
) -> None:
    files = downloads(benchmark, tmp_path / "scratch")
    bad = {**files, name: damage(files[name])}  # type: ignore[operator]
    root = tmp_path / "root"
    with pytest.raises(UserError, match=said) as caught:
        fetch(
            BENCHMARKS[benchmark],
            root,
            sources=_unvouched(local_sources(benchmark, server, bad), route),
            settings=QUICK,
        )
    assert "\n" not in str(caught.value)
    assert [entry.name for entry in root.iterdir()] == [f".fetch-{BENCHMARKS[benchmark].folder}"]
    server.sent.clear()
    repaired = _unvouched(local_sources(benchmark, server, files), route)
    assert fetch(BENCHMARKS[benchmark], root, sources=repaired, settings=QUICK).errors == ()
    assert sum(server.sent.values()) == len(files[name]), "what was not at fault is not asked again"


@pytest.mark.parametrize("case", [case for case, (name, *_) in BAD_ARCHIVES.items() if name == "x.zip"])
def test_a_wrong_archive_gives_way_to_the_next_mirror(
    tmp_path: Path, server: FileServer, pacs_files: dict[str, bytes], case: str
) -> None:
    bad = _served(server, "bad.zip", BAD_ARCHIVES[case][1])
    good = _served(server, "good.zip", pacs_files["PACS.zip"])
    sources = _mirrored(_unvouched(local_sources("PACS", server, pacs_files), 0), bad, good)
    assert fetch(PACS, tmp_path, sources=sources, settings=QUICK).num_images == 56
    receipt = json.loads((tmp_path / "PACS" / ".fetch.json").read_text())
    assert receipt["files"]["PACS.zip"]["from"] == str(good)


@pytest.mark.parametrize("case", [case for case, (name, *_) in BAD_ARCHIVES.items() if name != "x.zip"])
def test_a_wrong_tar_gives_way_to_the_next_mirror(
    tmp_path: Path, server: FileServer, vlcs_files: dict[str, bytes], case: str
) -> None:
    bad = _served(server, "bad.tar.gz", BAD_ARCHIVES[case][1])
    good = _served(server, "good.tar.gz", vlcs_files["VLCS.tar.gz"])
    sources = _mirrored(_unvouched(local_sources("VLCS", server, vlcs_files), 0), bad, good)
    assert fetch(BENCHMARKS["VLCS"], tmp_path, sources=sources, settings=QUICK).num_images == 40


@pytest.mark.parametrize(
    "damage", [lambda content: OTHER_FOLDER, lambda content: _without(content, "photo")], ids=["step", "verification"]
)
def test_what_a_step_or_verification_rejects_gives_way_to_the_next_mirror(
    tmp_path: Path, server: FileServer, pacs_files: dict[str, bytes], damage: object
) -> None:
    bad = _served(server, "bad.zip", damage(pacs_files["PACS.zip"]))  # type: ignore[operator]
    good = _served(server, "good.zip", pacs_files["PACS.zip"])
    gone = DataMirror(transport="http", address=f"{server.url}/gone.zip")
    sources = _unvouched(local_sources("PACS", server, pacs_files), 0)
    with pytest.raises(UserError, match=r"PACS.zip: http .*bad.zip: .*; http .*gone.zip: answered 404") as caught:
        fetch(PACS, tmp_path, sources=_mirrored(sources, bad, gone), settings=QUICK)
    assert "\n" not in str(caught.value)
    found = fetch(PACS, tmp_path, sources=_mirrored(sources, bad, gone, good), settings=QUICK)
    assert found.num_images == 56
    receipt = json.loads((tmp_path / "PACS" / ".fetch.json").read_text())
    assert receipt["files"]["PACS.zip"]["from"] == str(good)


def test_only_the_file_at_fault_is_asked_again(tmp_path: Path, server: FileServer) -> None:
    files = downloads("TerraIncognita", tmp_path / "scratch")
    sources = _unvouched(local_sources("TerraIncognita", server, files))
    route = sources.routes[0]
    bad = _served(server, "bad.tar.gz", tarred({"part.json": b"{}"}))
    annotations = replace(route.files[1], mirrors=(bad, *route.files[1].mirrors))
    sources = replace(sources, routes=(replace(route, files=(route.files[0], annotations)),))
    assert fetch(BENCHMARKS["TerraIncognita"], tmp_path / "root", sources=sources, settings=QUICK).num_images == 81
    assert server.asked["/http/eccv_18_all_images_sm.tar.gz"] == 1


def test_a_file_with_its_known_checksum_is_kept_whatever_came_of_it(
    tmp_path: Path, server: FileServer, pacs_files: dict[str, bytes]
) -> None:
    sources = local_sources("PACS", server, {**pacs_files, "PACS.zip": OTHER_FOLDER})
    sources = replace(sources, routes=sources.routes[:1])
    for _ in range(2):
        with pytest.raises(UserError, match="has no folder kfold"):
            fetch(PACS, tmp_path, sources=sources, settings=QUICK)
    assert sum(server.sent.values()) == len(OTHER_FOLDER)


def test_an_annotation_of_an_unknown_category_is_one_line(tmp_path: Path, server: FileServer) -> None:
    files = downloads("TerraIncognita", tmp_path / "scratch")
    part = {"images": [], "annotations": [{"image_id": "x", "category_id": 999}], "categories": []}
    files["eccv_18_annotations.tar.gz"] = tarred({"part.json": json.dumps(part).encode()})
    with pytest.raises(UserError, match="the image x has the category 999, which has no name"):
        fetch(
            BENCHMARKS["TerraIncognita"],
            tmp_path / "root",
            sources=local_sources("TerraIncognita", server, files),
            settings=QUICK,
        )


def _own(folder: Path, content: bytes) -> FetchSettings:
    folder.mkdir(exist_ok=True)
    (folder / "PACS.zip").write_bytes(content)
    return replace(QUICK, own_files=folder)


@pytest.mark.parametrize("damage", ["truncated", "other folder"])
def test_a_damaged_own_file_gives_way_to_the_mirror(
    tmp_path: Path, server: FileServer, pacs_files: dict[str, bytes], damage: str
) -> None:
    content = pacs_files["PACS.zip"][:3000] if damage == "truncated" else OTHER_FOLDER
    settings = _own(tmp_path / "own", content)
    sources = _unvouched(local_sources("PACS", server, pacs_files), 0)
    gone = _mirrored(sources, DataMirror(transport="http", address=f"{server.url}/gone.zip"))
    with pytest.raises(UserError, match=r"PACS.zip: own file .*/own/PACS.zip: .*; http .*gone.zip: answered 404"):
        fetch(PACS, tmp_path / "gone", sources=gone, settings=settings)
    assert fetch(PACS, tmp_path / "root", sources=sources, settings=settings).num_images == 56
    assert (tmp_path / "own" / "PACS.zip").read_bytes() == content, "the user's file is never touched"


def _no_links(patch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    patch.setattr(os, "link", refuse)


def test_half_a_copy_of_an_own_file_is_not_taken_for_it(
    tmp_path: Path, server: FileServer, pacs_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "pacs.parquet").write_bytes(pacs_files["pacs.parquet"])
    settings = replace(QUICK, own_files=tmp_path / "own")
    sources = _unvouched(local_sources("PACS", server, pacs_files), 1)
    with monkeypatch.context() as patch:

        def half(source: Path, place: Path) -> None:
            place.write_bytes(source.read_bytes()[:5000])
            # A kill tidies nothing up.
            patch.setattr(Path, "unlink", lambda *arguments, **named: None)
            raise Killed

        _no_links(patch)
        patch.setattr(shutil, "copyfile", half)
        with pytest.raises(Killed):
            fetch(PACS, tmp_path / "root", sources=sources, settings=settings)
    assert fetch(PACS, tmp_path / "root", sources=sources, settings=settings).num_images == 56
    assert sum(server.sent.values()) == 0


@pytest.mark.parametrize("linked", [True, False])
def test_an_own_file_is_linked_or_copied_and_stays_the_users(
    tmp_path: Path, server: FileServer, pacs_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, linked: bool
) -> None:
    settings = _own(tmp_path / "own", pacs_files["PACS.zip"])
    if not linked:
        _no_links(monkeypatch)
    sources = _unvouched(local_sources("PACS", server, pacs_files), 0)
    assert fetch(PACS, tmp_path / "root", sources=sources, settings=settings).num_images == 56
    assert sum(server.sent.values()) == 0
    own = tmp_path / "own" / "PACS.zip"
    assert own.read_bytes() == pacs_files["PACS.zip"]
    assert own.stat().st_nlink == 1


def test_a_full_disk_while_an_own_file_is_copied_is_one_line(
    tmp_path: Path, server: FileServer, pacs_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, place: Path) -> None:
        place.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place))

    settings = _own(tmp_path / "own", pacs_files["PACS.zip"])
    sources = local_sources("PACS", server, pacs_files)
    with monkeypatch.context() as patch:
        _no_links(patch)
        patch.setattr(shutil, "copyfile", full)
        with pytest.raises(UserError, match=r"cannot copy .*/own/PACS.zip to .*: No space left on device"):
            fetch(PACS, tmp_path / "root", sources=sources, settings=settings)
    assert [path for path in (tmp_path / "root").rglob("PACS.zip*") if path.is_file()] == []


def test_an_own_file_that_cannot_be_read_gives_way_to_the_mirror(
    tmp_path: Path, server: FileServer, pacs_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = _own(tmp_path / "own", pacs_files["PACS.zip"])

    def refuse(*arguments: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    # root may read everything, so the file system's answer is put in its mouth.
    monkeypatch.setattr(route, "_link_or_copy", refuse)
    sources = _unvouched(local_sources("PACS", server, pacs_files), 0)
    gone = _mirrored(sources, DataMirror(transport="http", address=f"{server.url}/gone.zip"))
    with pytest.raises(UserError, match=r"own file .*PACS.zip: cannot be read: Permission denied; http .*answered 404"):
        fetch(PACS, tmp_path / "gone", sources=gone, settings=settings)
    assert fetch(PACS, tmp_path / "root", sources=sources, settings=settings).num_images == 56
    with pytest.raises(UserError, match=r"there is no folder .*/none with files of your own"):
        fetch(PACS, tmp_path / "new", sources=sources, settings=replace(QUICK, own_files=tmp_path / "none"))


def test_the_receipt_tells_route_mirror_and_note(
    tmp_path: Path, server: FileServer, pacs_files: dict[str, bytes]
) -> None:
    sources = local_sources("PACS", server, pacs_files)
    note = "file names differ from the archive's, so splits differ from DomainBed's"
    sources = replace(
        sources, routes=tuple(replace(route, note=note if i else "") for i, route in enumerate(sources.routes))
    )
    server.files.pop("/google_drive/PACS.zip")
    found = fetch(PACS, tmp_path, sources=sources, settings=QUICK)
    (mirror,) = sources.routes[1].files[0].mirrors
    assert found.notes[-2:] == (f"fetched by the route 'Hugging Face' from {mirror}", note)
    assert found.place == str(tmp_path / "PACS")
    assert receipt_notes(tmp_path / "PACS") == found.notes[-2:]
    assert fetch(PACS, tmp_path, sources=sources, settings=QUICK).notes == found.notes, "what is there says the same"
    (tmp_path / "PACS" / ".fetch.json").write_text("[]")
    assert receipt_notes(tmp_path / "PACS") == ()


def test_a_whole_copy_of_unknown_counts_is_kept_until_the_user_has_decided(
    tmp_path: Path, server: FileServer, pacs_files: dict[str, bytes]
) -> None:
    sources = _unvouched(local_sources("PACS", server, pacs_files), 0)
    strict = replace(QUICK, variants=None)
    kept = tmp_path / ".fetch-PACS" / "archive"
    with pytest.raises(UserError, match="not the benchmark: nearest known variant") as caught:
        fetch(PACS, tmp_path, sources=sources, settings=strict)
    assert f"it is whole and kept in {kept}: --accept-unknown takes it as it is" in str(caught.value)
    assert (kept / "downloads" / "PACS.zip").read_bytes() == pacs_files["PACS.zip"]
    sent = sum(server.sent.values())
    found = fetch(PACS, tmp_path, sources=sources, settings=replace(strict, accept_unknown=True))
    assert sum(server.sent.values()) == sent
    assert (found.variant, found.accepted, found.num_images) == ("unknown", False, 56)
    assert found.notes[-1].startswith("kept on --accept-unknown")
    assert json.loads((tmp_path / "PACS" / ".fetch.json").read_text())["variant"] == "unknown"
    assert not kept.exists()
    again = fetch(PACS, tmp_path, sources=sources, settings=strict)
    assert again.manifest == found.manifest
    victim = next((tmp_path / "PACS" / "photo" / "dog").iterdir())
    shutil.copy(victim, victim.with_name("more.jpg"))
    with pytest.raises(UserError, match="PACS is there, but"):
        fetch(PACS, tmp_path, sources=sources, settings=strict)


def test_a_damaged_copy_is_not_accepted_as_unknown(
    tmp_path: Path, server: FileServer, pacs_files: dict[str, bytes]
) -> None:
    bad = {**pacs_files, "PACS.zip": _without(pacs_files["PACS.zip"], "photo")}
    sources = _unvouched(local_sources("PACS", server, bad), 0)
    with pytest.raises(UserError, match="1 of 4 domain folders are missing: photo"):
        fetch(PACS, tmp_path, sources=sources, settings=replace(QUICK, variants=None, accept_unknown=True))
    assert not (tmp_path / "PACS").exists()


def test_damaged_notes_of_what_has_arrived_are_made_again(
    tmp_path: Path, server: FileServer, pacs_files: dict[str, bytes]
) -> None:
    sources = _unvouched(local_sources("PACS", server, pacs_files), 0)
    with pytest.raises(UserError, match="not the benchmark"):
        fetch(PACS, tmp_path, sources=sources, settings=replace(QUICK, variants=None))
    (notes,) = tmp_path.glob(".fetch-PACS/*/files.json")
    notes.write_text('{"PACS.zip": 7}')
    server.sent.clear()
    assert fetch(PACS, tmp_path, sources=sources, settings=QUICK).num_images == 56
    assert sum(server.sent.values()) == 0
