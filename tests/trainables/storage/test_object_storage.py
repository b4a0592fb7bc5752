"""Whole files to an object storage and back, over a folder behind `file://` and over S3's own protocol."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from search_spaces.errors import UserError
from tests.support.object_stores import SECRET, LoopbackS3, loopback_s3
from trainables.storage.mirror import MIRRORS_VARIABLE, Mirror, MirrorLostError, is_small, open_mirror
from trainables.storage.object_storage import Storage, open_storage, parse_address

FOLD = "folds/key"

Node = Callable[[str], Mirror]
"""The mirror of the tested address on a node of this name, whose disk no other node sees."""


@pytest.fixture(scope="module")
def s3() -> Iterator[LoopbackS3]:
    with loopback_s3() as server:
        server.make_bucket("bucket")
        yield server


@pytest.fixture(params=["file", "s3"])
def node(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    if request.param == "file":
        address = (tmp_path / "storage").as_uri()
    else:
        address = request.getfixturevalue("s3").address(f"bucket/{tmp_path.name}")

    def on(name: str) -> Mirror:
        monkeypatch.setenv("VL2V_MIRRORS", str(tmp_path / name))
        return open_mirror(address)

    return on


def write(mirror: Mirror, **files: str) -> None:
    """Write files into the mirror's fold; `checkpoint_pt` is `checkpoint.pt`."""
    for name, text in files.items():
        path = mirror.folder / FOLD / name.replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def read(mirror: Mirror, name: str) -> str | None:
    path = mirror.folder / FOLD / name
    return path.read_text() if path.exists() else None


def test_what_one_node_sends_another_fetches_and_nothing_is_moved_twice(node: Node) -> None:
    first, second = node("first"), node("second")
    write(first, spec_json="{}", journal_jsonl="1\n", checkpoint_pt="weights")
    sent = [f"{FOLD}/checkpoint.pt", f"{FOLD}/journal.jsonl", f"{FOLD}/spec.json"]
    assert sorted(first.push()) == sent
    assert first.push() == []
    assert first.pull() == []
    assert sorted(second.pull()) == sent
    assert read(second, "checkpoint.pt") == "weights"
    assert second.push() == []
    # S3's clock ticks once a second: what was fetched right after it was written is looked at once more.
    write(first, journal_jsonl="2\n")
    assert first.push() == [f"{FOLD}/journal.jsonl"]
    second.pull()
    assert read(second, "journal.jsonl") == "2\n"


def test_a_large_file_arrives_as_it_was(node: Node) -> None:
    first, second = node("first"), node("second")
    content = os.urandom(20 * 2**20 + 1)
    write(first)
    path = first.folder / FOLD / "student.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    first.push()
    second.pull(wanted=is_small)
    assert not (second.folder / FOLD / "student.safetensors").exists()
    second.pull()
    assert (second.folder / FOLD / "student.safetensors").read_bytes() == content


def test_what_belongs_to_one_machine_stays_there(node: Node) -> None:
    mirror = node("first")
    for name in (
        "lease.json", "mlflow.db", "mlflow.db-wal", "request.json", "mlartifacts/a/b.txt", "ray/x", "data/icons.json",
        f"{FOLD}/lease.json", f"{FOLD}/worker.json", f"{FOLD}/.lock", f"{FOLD}/.result.json.7.part", f"{FOLD}/ray/x",
        "embeddings/key/.leases/shard", "embeddings/key/shard.arrow.7.part", "sweep.json",
    ):  # fmt: skip
        path = mirror.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    assert mirror.push() == ["sweep.json"]
    assert list(mirror.storage.list()) == ["sweep.json"]


def test_a_result_is_the_last_to_be_sent_and_the_last_to_be_fetched(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[str] = []
    for way in ("send", "fetch"):
        original: Any = getattr(Storage, way)

        def noted(storage: Storage, name: str, *rest: Any, original: Any = original) -> Any:
            time.sleep(0.0 if name.endswith("result.json") else 0.1)
            done = original(storage, name, *rest)
            moved.append(name.rpartition("/")[2])
            return done

        monkeypatch.setattr(Storage, way, noted)
    first, second = node("first"), node("second")
    write(first, result_json="{}", journal_jsonl="1\n", test_json="{}", student_safetensors="w")
    first.push()
    assert moved[-1] == "result.json"
    assert len(moved) == 4
    second.pull()
    assert moved[-1] == "result.json"
    assert len(moved) == 8


def test_the_journal_in_the_storage_is_never_behind_the_checkpoint(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = node("first")
    write(mirror, journal_jsonl="step 1\n", checkpoint_pt="after step 1")
    original = Storage.send

    def step_meanwhile(storage: Storage, name: str, *rest: Any) -> Any:
        done = original(storage, name, *rest)
        if name.endswith("journal.jsonl"):
            (mirror.folder / FOLD / "journal.jsonl").write_text("step 1\nstep 2\n")
            aside = mirror.folder / FOLD / ".checkpoint.pt.part"
            aside.write_text("after step 2")
            aside.replace(mirror.folder / FOLD / "checkpoint.pt")
        return done

    monkeypatch.setattr(Storage, "send", step_meanwhile)
    mirror.push(FOLD)
    assert mirror.storage.read(f"{FOLD}/journal.jsonl") == b"step 1\n"
    assert mirror.storage.read(f"{FOLD}/checkpoint.pt") == b"after step 1"
    monkeypatch.undo()
    mirror.push(FOLD)
    assert mirror.storage.read(f"{FOLD}/checkpoint.pt") == b"after step 2"


def test_a_checkpoint_goes_with_its_fold_and_nothing_else_ever_does(node: Node) -> None:
    mirror = node("first")
    write(mirror, journal_jsonl="1\n", checkpoint_pt="c", spec_json="{}")
    mirror.push()
    write(mirror, result_json="{}")
    for name in ("checkpoint.pt", "spec.json"):
        (mirror.folder / FOLD / name).unlink()
    mirror.push(FOLD)
    assert sorted(mirror.storage.list()) == [f"{FOLD}/{name}" for name in ("journal.jsonl", "result.json", "spec.json")]
    assert mirror.pull() == [f"{FOLD}/spec.json"]


def test_the_storage_wins_where_both_sides_changed_save_lines_that_were_appended(node: Node) -> None:
    first, second = node("first"), node("second")
    write(first, spec_json='"old"', journal_jsonl="1\n")
    first.push()
    second.pull()
    write(second, spec_json='"theirs"', journal_jsonl="1\n2\n")
    second.push()
    write(first, spec_json='"mine, and longer"', journal_jsonl="1\n2\n3\n")
    first.pull()
    assert read(first, "spec.json") == '"theirs"'
    assert read(first, "journal.jsonl") == "1\n2\n3\n"
    assert first.push() == [f"{FOLD}/journal.jsonl"]
    second.pull()
    assert read(second, "journal.jsonl") == "1\n2\n3\n"


def test_a_fold_goes_on_where_the_storage_stands(node: Node) -> None:
    first, second = node("first"), node("second")
    write(first, journal_jsonl="1\n", checkpoint_pt="1")
    first.push()
    # Never sent: the node was cut off.
    write(first, journal_jsonl="1\n2\n", checkpoint_pt="two")
    second.resume(FOLD)
    write(second, journal_jsonl="1\n2\n3\n", checkpoint_pt="three")
    second.push()
    write(second, journal_jsonl="1\n2\n3\n4\n", checkpoint_pt="fourth")
    for mirror in (first, second):
        mirror.resume(FOLD)
        assert (read(mirror, "journal.jsonl"), read(mirror, "checkpoint.pt")) == ("1\n2\n3\n", "three")


def test_a_fold_that_was_never_sent_begins_anew_and_one_that_was_finished_is_sent(node: Node) -> None:
    mirror = node("first")
    write(mirror, journal_jsonl="1\n", checkpoint_pt="1")
    mirror.resume(FOLD)
    assert read(mirror, "journal.jsonl") is None
    assert read(mirror, "checkpoint.pt") is None
    write(mirror, journal_jsonl="1\n", result_json="{}")
    mirror.resume(FOLD)
    assert read(mirror, "journal.jsonl") == "1\n"
    assert mirror.storage.read(f"{FOLD}/result.json") == b"{}"


def test_an_upload_that_is_cut_short_leaves_nothing(node: Node) -> None:
    mirror = node("first")
    write(mirror, spec_json="short")
    with (mirror.folder / FOLD / "spec.json").open("rb") as file, pytest.raises(OSError, match="cut short"):
        mirror.storage.send(f"{FOLD}/spec.json", file, 1000)
    assert mirror.storage.list() == {}


def test_what_the_storage_lost_is_sent_again(node: Node) -> None:
    mirror = node("first")
    write(mirror, spec_json="{}", journal_jsonl="1\n", student_safetensors="w", result_json="{}", checkpoint_pt="c")
    (mirror.folder / "sweep.json").write_text("{}")
    sent = sorted(mirror.push())
    for name in mirror.storage.list():
        mirror.storage.remove(name)
    mirror = node("first")
    assert mirror.pull(FOLD, wanted=is_small) == []
    # A checkpoint is gone because its fold is over.
    again = [name for name in sent if name.startswith(FOLD) and not name.endswith("checkpoint.pt")]
    assert sorted(mirror.push()) == again
    mirror.pull()
    assert mirror.push() == ["sweep.json"]
    assert mirror.pull() == []
    assert mirror.push() == []
    assert sorted(mirror.storage.list()) == sorted([*again, "sweep.json"])


def test_what_a_listing_overlooked_is_not_forgotten(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    first, beside, second = node("first"), node("first"), node("second")
    write(first, spec_json="{}", journal_jsonl="1\n")
    first.push()
    second.pull()
    original = Storage.list

    def overlooks(storage: Storage, *prefix: str) -> Any:
        listed = original(storage, *prefix)
        # Meanwhile another process of this machine sends one file, and another node replaces one.
        write(beside, result_json="{}")
        beside.push()
        write(second, journal_jsonl="1\n2\n")
        second.push()
        return {name: version for name, version in listed.items() if not name.endswith("journal.jsonl")}

    monkeypatch.setattr(Storage, "list", overlooks)
    first.pull()
    monkeypatch.undo()
    assert first.push() == []
    first.pull()
    assert read(first, "journal.jsonl") == "1\n2\n"


@pytest.mark.parametrize("left", ["", '{"accuracy": 0.', "\0\0\0\0"])
def test_a_file_that_lost_its_bytes_never_takes_the_place_of_the_good_one(node: Node, left: str) -> None:
    first, second = node("first"), node("second")
    write(first, result_json='{"accuracy": 0.5}', journal_jsonl="1\n")
    first.push()
    second.pull()
    for mirror, mend in ((first, first.push), (second, second.pull)):
        write(mirror, result_json=left)
        mend()
        assert read(mirror, "result.json") == '{"accuracy": 0.5}'
        assert mirror.push() == []
    assert first.storage.read(f"{FOLD}/result.json") == b'{"accuracy": 0.5}'


def test_a_damaged_file_that_was_never_sent_stays_here(node: Node) -> None:
    mirror = node("first")
    write(mirror, result_json="{", spec_json="{}")
    assert mirror.push() == [f"{FOLD}/spec.json"]
    assert read(mirror, "result.json") == "{"


def test_what_is_fetched_is_on_the_disk_before_it_has_its_name(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = node("first"), node("second")
    write(first, result_json="{}")
    first.push()
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (done.append("fsync"), fsync(descriptor))[1])
    monkeypatch.setattr(Path, "replace", lambda path, target: (done.append("rename"), replace(path, target))[1])
    second.pull()
    assert done[:2] == ["fsync", "rename"]


def test_losing_the_records_costs_time_alone(node: Node) -> None:
    mirror = node("first")
    write(mirror, spec_json="{}")
    mirror.push()
    for file in (mirror.folder / ".mirror").glob("files.sqlite*"):
        file.unlink()
    mirror = node("first")
    assert mirror.pull() == [f"{FOLD}/spec.json"]
    assert mirror.push() == []


def test_who_works_in_a_mirror_that_was_taken_away_sends_nothing_any_more(node: Node) -> None:
    forgotten = node("first")
    write(forgotten, journal_jsonl="1\n2\n")
    forgotten.push()
    shutil.rmtree(forgotten.folder)
    for _ in range(2):
        write(forgotten, journal_jsonl="3\n")
        with pytest.raises(MirrorLostError):
            forgotten.push(FOLD)
        # The next command makes the folder anew.
        node("first").pull()
    assert forgotten.storage.read(f"{FOLD}/journal.jsonl") == b"1\n2\n"


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("s3://bucket/a//b/", "s3://bucket/a/b"),
        ("S3://bucket/a?scheme=http&region=x", "s3://bucket/a?region=x&scheme=http"),
        ("gcs://bucket", "gs://bucket"),
        ("gs://anonymous@bucket/a", "gs://anonymous@bucket/a"),
        ("file:///mnt/disk/", "file:///mnt/disk"),
    ],
)
def test_every_spelling_of_a_place_gives_one_address(text: str, read: str) -> None:
    assert str(parse_address(text)) == read


def test_a_region_makes_no_other_place_and_an_endpoint_does() -> None:
    plain = parse_address("s3://bucket/a").digest
    assert parse_address("s3://bucket/a?region=eu-west-1").digest == plain
    assert parse_address("s3://bucket/a?endpoint_override=localhost:9000").digest != plain


@pytest.mark.parametrize(
    "text",
    [
        f"s3://user:{SECRET}@bucket/a",
        f"s3://{SECRET}@bucket",
        f"s3://bucket/a?secret_key={SECRET}",
        f"s3://bucket/a?access_key={SECRET}",
        f"s3://bucket/a?endpoint_override=user:{SECRET}@host:9000",
        f"gs://anonymous:{SECRET}@bucket",
        f"s3:///?session_token={SECRET}",
    ],
)
def test_an_address_with_a_secret_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(UserError, match="credentials come from the environment") as refused:
        open_storage(text)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("s3://", "names a bucket"),
        ("s3://bucket?color=red", "no option 'color'; it takes region, scheme, endpoint_override"),
        ("file://folder/x", "absolute path"),
        ("s5://bucket", "no such kind of address"),
    ],
)
def test_an_address_that_is_none(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        open_storage(text)


def test_a_bucket_that_is_missing(s3: LoopbackS3) -> None:
    with pytest.raises(UserError, match="there is no bucket 'other'"):
        open_storage(s3.address("other/x"))


def test_nobody_listens(s3: LoopbackS3) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(UserError, match="nobody answers") as told:
            open_storage(LoopbackS3(closed.getsockname()[1]).address("bucket/x"))
    assert "\n" not in str(told.value)
    assert SECRET not in str(told.value)


def test_who_listens_and_does_not_answer_is_asked_twice(s3: LoopbackS3) -> None:
    asked: list[socket.socket] = []

    def listen(silent: socket.socket) -> None:
        with suppress(OSError):
            while True:
                asked.append(silent.accept()[0])

    with socket.create_server(("127.0.0.1", 0)) as silent:
        listener = threading.Thread(target=listen, args=(silent,), daemon=True)
        listener.start()
        with pytest.raises(UserError, match=r"nobody answers|does not answer") as told:
            open_storage(LoopbackS3(silent.getsockname()[1]).address("bucket/x"))
        silent.shutdown(socket.SHUT_RDWR)
        listener.join()
    for connection in asked:
        connection.close()
    assert len(asked) == 2
    assert "\n" not in str(told.value)
    assert SECRET not in str(told.value)


def test_a_first_question_that_takes_too_long_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answered, ended = threading.Event(), threading.Event()

    def opened(address: object) -> None:
        answered.wait()
        ended.set()

    monkeypatch.setattr("trainables.storage.object_storage.OPEN_TIMEOUT_S", 0.1)
    monkeypatch.setattr("trainables.storage.object_storage._opened", opened)
    with pytest.raises(UserError, match="does not answer within 0 s; check its endpoint"):
        open_storage("s3://bucket/x")
    answered.set()
    assert ended.wait(60)


def test_a_mark_that_is_gone_from_the_storage_goes_here_too(node: Node) -> None:
    first, second = node("first"), node("second")
    write(first, running_json="{}", spec_json="{}")
    first.push()
    second.pull()
    (first.folder / FOLD / "running.json").unlink()
    first.push(FOLD)
    assert list(first.storage.list()) == [f"{FOLD}/spec.json"]
    second.pull()
    assert read(second, "running.json") is None
    assert read(second, "spec.json") == "{}"


@pytest.mark.parametrize("key", ["{}//evil.json", "{}/a//evil.json", "{}/../evil.json", "{}/./evil.json", "{}/folds/"])
def test_a_key_that_names_no_file_of_the_folder_is_passed_over(
    key: str, s3: LoopbackS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boto3 = pytest.importorskip("boto3")
    monkeypatch.setenv(MIRRORS_VARIABLE, str(tmp_path / "mirrors"))
    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{s3.port}", region_name="us-east-1")
    client.put_object(Bucket="bucket", Key=f"{tmp_path.name}/trials/x.json", Body=b"{}")
    client.put_object(Bucket="bucket", Key=key.format(tmp_path.name), Body=b"" if key.endswith("/") else b"1")
    mirror = open_mirror(s3.address(f"bucket/{tmp_path.name}"))
    assert mirror.pull() == ["trials/x.json"]
    assert not list(tmp_path.rglob("*evil*"))


def test_names_with_odd_characters_stay_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VL2V_MIRRORS", str(tmp_path / "mirrors"))
    folder = tmp_path / "50% of it, #1?"
    mirror = open_mirror(folder.as_uri())
    assert open_mirror(mirror.address).folder == mirror.folder
    write(mirror, spec_json="{}")
    mirror.push()
    assert (folder / FOLD / "spec.json").read_text() == "{}"
