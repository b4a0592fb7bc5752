"""A pack gives the batches of the folder, bit for bit, wherever it lies, and appears whole or not at all."""

from __future__ import annotations

import json
import os
import pickle
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import fs

from search_spaces.benchmarks import BENCHMARKS, PACS
from search_spaces.errors import UserError
from search_spaces.folds import Fold
from tests.support.counted_calls import counted_calls
from tests.support.file_server import FileServer
from tests.support.folders import DOMAINS, encoded, tiny_benchmark, write_tiny
from trainables.data.formats.images import ImageSource
from trainables.data.formats.open import (
    benchmark_from_folder,
    find_unreadable,
    locate,
    open_benchmark,
    resolve_benchmark,
)
from trainables.data.formats.pack import PackSettings, write_pack
from trainables.data.formats.pack_reader import PackSource, is_pack, read_description
from trainables.data.formats.sample import write_sample
from trainables.data.loading.batches import BatchStream, evaluation_batches
from trainables.data.loading.splits import split_fold
from trainables.storage.leases import Owner, this_process


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = write_tiny(tmp_path)
    (made / "art" / "cat" / "0.png").unlink()
    Image.open(made / "art" / "cat" / "1.png").convert("CMYK").save(made / "art" / "cat" / "0.jpg")
    Image.open(made / "art" / "cat" / "1.png").quantize(8).save(made / "art" / "cat" / "p.png")
    return made


def _same_images(first: ImageSource, second: ImageSource) -> bool:
    return all(
        list(first.paths(domain)) == list(second.paths(domain))
        and np.array_equal(first.labels(domain), second.labels(domain))
        and all(
            first.read(domain, index).tobytes() == second.read(domain, index).tobytes()
            for index in range(len(first.labels(domain)))
        )
        for domain in first.domain_names
    )


@pytest.mark.parametrize("encoding", ["stored", "pixels"])
@pytest.mark.parametrize("shard_mb", [256, 0])
def test_a_pack_is_the_folder(folder: Path, tmp_path: Path, encoding: str, shard_mb: int) -> None:
    source = open_benchmark(tiny_benchmark(), folder.parent)
    place = write_pack(
        source,
        tmp_path / "packs" / "tiny.pack",
        settings=PackSettings(encoding=encoding),  # type: ignore[arg-type]
        shard_mb=shard_mb,
    )
    shards = len(list(place.glob("shard-*")))
    assert shards == (1 if shard_mb else 37)
    packed = open_benchmark(tiny_benchmark(), tmp_path / "packs")
    assert isinstance(packed, PackSource)
    assert isinstance(packed, ImageSource)
    assert packed.manifest == source.manifest
    assert packed.manifest_rows == source.manifest_rows  # type: ignore[attr-defined]
    assert (packed.benchmark, packed.domain_names, packed.class_names) == ("Tiny", DOMAINS, ("cat", "dog"))
    assert _same_images(source, packed)
    assert find_unreadable(packed) == []
    with pytest.raises(IndexError):
        packed.read("art", 13)
    copy = pickle.loads(pickle.dumps(packed))  # noqa: S301
    assert _same_images(source, copy)


@pytest.mark.parametrize("encoding", ["stored", "pixels"])
def test_batches_of_packed_icons_are_identical(tmp_path: Path, encoding: str) -> None:
    benchmark = BENCHMARKS["icons"]
    source = open_benchmark(benchmark)
    write_pack(source, tmp_path / "icons.pack", settings=PackSettings(encoding=encoding))  # type: ignore[arg-type]
    packed = open_benchmark(benchmark, tmp_path)
    assert isinstance(packed, PackSource)
    assert packed.manifest == source.manifest
    fold = Fold(benchmark="icons", test_domains=("line",), seed=0)
    streams = []
    for images in (source, packed):
        splits = split_fold(images, benchmark, fold)
        stream = BatchStream(
            images,
            benchmark,
            splits.source_train,
            batch_size_per_domain=8,
            image_size=64,
            seed=0,
            stage="align",
            num_steps=4,
            teacher_mode="views:3",
        )
        evaluation = evaluation_batches(images, splits.test_in, image_size=64, batch_size=50)
        streams.append(([*stream], [*evaluation]))
    for kind in (0, 1):
        for first, second in zip(streams[0][kind], streams[1][kind], strict=True):
            assert torch.equal(first.images, second.images)
            assert torch.equal(first.labels, second.labels)
            assert torch.equal(first.image_ids, second.image_ids)


def test_the_pack_goes_before_the_folder(folder: Path) -> None:
    source = open_benchmark(tiny_benchmark(), folder.parent)
    assert locate(tiny_benchmark(), folder.parent) == str(folder)
    write_pack(source, folder.with_suffix(".pack"))
    assert locate(tiny_benchmark(), folder.parent) == str(folder.with_suffix(".pack"))
    assert locate(PACS, folder.parent) is None
    for name in ("tiny", f"folder:{folder}", f"folder:{folder}.pack"):
        benchmark = resolve_benchmark(name, folder.parent)
        assert (benchmark.name, benchmark.domain_names, benchmark.class_names) == ("tiny", DOMAINS, ("cat", "dog"))
        assert isinstance(open_benchmark(benchmark, folder.parent), PackSource)
    assert benchmark_from_folder(str(folder)).domain_names == DOMAINS


def test_packing_twice_writes_once(folder: Path, tmp_path: Path) -> None:
    source = open_benchmark(tiny_benchmark(), folder.parent)
    place = write_pack(source, tmp_path / "out" / "tiny.pack")
    state = (place / "pack.json").stat().st_mtime_ns
    assert write_pack(source, place) == place
    assert (place / "pack.json").stat().st_mtime_ns == state
    with pytest.raises(UserError, match="is a pack of other data or settings"):
        write_pack(source, place, settings=PackSettings(encoding="pixels"))
    write_pack(source, place, settings=PackSettings(encoding="pixels"), overwrite=True)
    assert read_description(place)["encoding"] == "pixels"
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["tiny.pack"]


def test_smaller_images_are_other_data(tmp_path: Path) -> None:
    write_sample(tmp_path, images_per_class=1, image_side=64, benchmarks=["PACS"])
    source = open_benchmark(PACS, tmp_path)
    with pytest.raises(UserError, match="does not go beside"):
        write_pack(source, tmp_path / "PACS.pack", settings=PackSettings(max_side=32))
    write_pack(source, tmp_path / "small" / "PACS.pack", settings=PackSettings(max_side=32))
    packed = open_benchmark(PACS, tmp_path / "small")
    assert packed.read("photo", 0).size == (32, 32)
    assert packed.manifest != source.manifest
    assert list(packed.paths("photo")) == list(source.paths("photo"))
    write_pack(source, tmp_path / "same" / "PACS.pack", settings=PackSettings(max_side=64))
    assert open_benchmark(PACS, tmp_path / "same").manifest == source.manifest, "nothing was re-encoded"


def test_an_unreadable_image_stops_the_pack_and_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    (folder / "photo" / "dog" / "3.png").write_bytes(encoded(3)[:80])
    source = open_benchmark(tiny_benchmark(), folder.parent)
    with pytest.raises(UserError, match=r"cannot read image Tiny/photo/dog/3.png"):
        write_pack(source, tmp_path / "out" / "tiny.pack")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_image_that_changes_while_it_is_packed_is_noticed(folder: Path, tmp_path: Path) -> None:
    source = open_benchmark(tiny_benchmark(), folder.parent)
    assert source.manifest
    (folder / "photo" / "dog" / "3.png").write_bytes(encoded(1234))
    with pytest.raises(UserError, match=r"Tiny/photo/dog/3.png changed while it was packed"):
        write_pack(source, tmp_path / "tiny.pack")


ELSEWHERE = replace(this_process(), identity="e" * 32, host="node-7", process=1, process_started=1, machine="elsewhere")
"""A process of another node, whose process id says nothing here."""


def _writing(out: Path, owner: Owner) -> Path:
    """What a process leaves that is killed while it writes `tiny.pack`; its lease is fresh."""
    left = out / f".tiny.pack.{owner.identity}.part"
    left.mkdir(parents=True)
    (left / "shard-00000.arrow").write_bytes(b"half")
    (out / ".tiny.pack.lease.json").write_text(json.dumps(asdict(owner)))
    return left


def test_what_a_killed_pack_left_is_cleared_away(folder: Path, tmp_path: Path) -> None:
    dead = replace(this_process(), identity="d" * 32, process=2**30)
    _writing(tmp_path / "out", dead)
    assert locate(tiny_benchmark("tiny"), tmp_path / "out") is None
    write_pack(open_benchmark(tiny_benchmark(), folder.parent), tmp_path / "out" / "tiny.pack")
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["tiny.pack"]


def test_another_nodes_pack_in_progress_is_left_alone(folder: Path, tmp_path: Path) -> None:
    out, source = tmp_path / "out", open_benchmark(tiny_benchmark(), folder.parent)
    left = _writing(out, ELSEWHERE)
    with pytest.raises(UserError, match=r"tiny.pack is being written: held by process 1 on node-7; wait for it"):
        write_pack(source, out / "tiny.pack")
    assert (left / "shard-00000.arrow").read_bytes() == b"half"
    long_ago = time.time() - 3600
    os.utime(out / ".tiny.pack.lease.json", (long_ago, long_ago))
    write_pack(source, out / "tiny.pack")
    assert [entry.name for entry in out.iterdir()] == ["tiny.pack"], "its heart has stopped"


@pytest.mark.parametrize("by", ["opening", "packing", "naming"])
def test_an_overwrite_killed_between_its_renames_is_recovered(folder: Path, tmp_path: Path, by: str) -> None:
    source, out = open_benchmark(tiny_benchmark(), folder.parent), tmp_path / "out"
    write_pack(source, out / "tiny.pack")
    # A process of its own, ended as by kill -9 at its second rename: nothing is tidied up.
    killed = os.fork()
    if killed == 0:
        renames: list[Path] = []
        rename = Path.rename

        def rename_once(place: Path, target: Path) -> Path:
            renames.append(place)
            if len(renames) == 2:
                os._exit(9)
            return rename(place, target)

        Path.rename = rename_once  # type: ignore[method-assign, assignment]
        write_pack(source, out / "tiny.pack", settings=PackSettings(encoding="pixels"), overwrite=True)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(killed, 0)[1]) == 9
    assert (out / ".tiny.pack.old").is_dir()
    assert not (out / "tiny.pack").exists()
    if by == "opening":
        assert open_benchmark(tiny_benchmark(), out).manifest == source.manifest
    elif by == "naming":
        assert resolve_benchmark("tiny", out).domain_names == DOMAINS
    else:
        write_pack(source, out / "tiny.pack")
    assert [entry.name for entry in out.iterdir()] == ["tiny.pack"]
    assert read_description(out / "tiny.pack")["encoding"] == "stored"


def test_a_failed_overwrite_leaves_the_pack_that_was_there(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = open_benchmark(tiny_benchmark(), folder.parent), tmp_path / "out"
    write_pack(source, out / "tiny.pack")
    rename = Path.rename

    def fail(place: Path, target: Path) -> Path:
        if place.name.endswith(".part") and not target.name.endswith(".json"):
            raise OSError(28, "No space left on device")
        return rename(place, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(UserError, match=r"cannot write the pack .*tiny.pack: No space left on device"):
        write_pack(source, out / "tiny.pack", settings=PackSettings(encoding="pixels"), overwrite=True)
    assert [entry.name for entry in out.iterdir()] == ["tiny.pack"]
    assert read_description(out / "tiny.pack")["encoding"] == "stored"


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"encoding": "zstd"}, "encoding is stored or pixels"), ({"max_side": 2}, "max_side is 8 pixels or more")],
)
def test_wrong_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PackSettings(**settings)  # type: ignore[arg-type]


def test_a_pack_cannot_be_packed_and_names_end_in_pack(folder: Path, tmp_path: Path) -> None:
    source = open_benchmark(tiny_benchmark(), folder.parent)
    with pytest.raises(UserError, match=r"a pack's name ends in .pack"):
        write_pack(source, tmp_path / "tiny.arrow")
    write_pack(source, tmp_path / "packs" / "tiny.pack")
    with pytest.raises(UserError, match="only a folder or a Parquet file can be packed"):
        write_pack(open_benchmark(tiny_benchmark(), tmp_path / "packs"), tmp_path / "again.pack")


def test_damaged_and_foreign_packs_are_named(folder: Path, tmp_path: Path) -> None:
    source = open_benchmark(tiny_benchmark(), folder.parent)
    place = write_pack(source, tmp_path / "packs" / "tiny.pack")
    with pytest.raises(UserError, match=r"has the domains .*PACS has others"):
        PackSource(place, PACS)
    assert is_pack(place)
    shard = place / "shard-00000.arrow"
    opened = open_benchmark(tiny_benchmark(), tmp_path / "packs")
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"is damaged: shard-00000.arrow is cut short"):
        opened.read("sketch", 11)
    index = place / "index.arrow"
    index.write_bytes(b"ARROW1".ljust(index.stat().st_size, b"-"))
    with pytest.raises(UserError, match="is damaged"):
        open_benchmark(tiny_benchmark(), tmp_path / "packs")
    (place / "pack.json").unlink()
    with pytest.raises(UserError, match="is not a pack: No such file"):
        open_benchmark(tiny_benchmark(), tmp_path / "packs")
    assert not is_pack(place)


def test_a_pack_is_read_through_pyarrows_file_systems(folder: Path, tmp_path: Path) -> None:
    source = open_benchmark(tiny_benchmark(), folder.parent)
    write_pack(source, tmp_path / "packs" / "tiny.pack")
    through_uri = open_benchmark(tiny_benchmark(), f"file://{tmp_path}/packs")
    assert isinstance(through_uri, PackSource)
    assert _same_images(source, through_uri)
    below = fs.SubTreeFileSystem(str(tmp_path / "packs"), fs.LocalFileSystem())
    assert _same_images(source, PackSource("tiny.pack", tiny_benchmark(), filesystem=below))
    with pytest.raises(UserError, match=r"PACS wants the pack file://.*/PACS.pack, which is not there"):
        open_benchmark(PACS, f"file://{tmp_path}/packs")
    with pytest.raises(UserError, match="cannot read nothing://x"):
        PackSource("nothing://x/tiny.pack", tiny_benchmark())


def test_a_pack_is_read_from_object_storage_image_by_image(folder: Path, tmp_path: Path) -> None:
    source = open_benchmark(tiny_benchmark(), folder.parent)
    place = write_pack(source, tmp_path / "tiny.pack")
    with FileServer().running() as server:
        for file in place.iterdir():
            server.add(f"/bucket/tiny.pack/{file.name}", file)
        storage = fs.S3FileSystem(anonymous=True, region="us-east-1", endpoint_override=server.address, scheme="http")
        packed = PackSource("bucket/tiny.pack", tiny_benchmark(), filesystem=storage)
        shard = "/bucket/tiny.pack/shard-00000.arrow"
        assert packed.read("sketch", 5).tobytes() == source.read("sketch", 5).tobytes()
        assert 0 < server.sent[shard] < 2 * len(packed.encoded("sketch", 5))
        assert _same_images(source, packed)


def test_opening_costs_the_same_whatever_the_number_of_images(tmp_path: Path) -> None:
    calls = {}
    for count in (1, 6):
        root = tmp_path / str(count)
        write_sample(root, images_per_class=count, image_side=8, benchmarks=["OfficeHome"])
        source = open_benchmark(BENCHMARKS["OfficeHome"], root)
        write_pack(source, root / "packs" / "office_home.pack")
        packs = root / "packs"
        calls[count] = counted_calls(lambda packs=packs: open_benchmark(BENCHMARKS["OfficeHome"], packs).labels("Art"))
    assert calls[6] == calls[1]
