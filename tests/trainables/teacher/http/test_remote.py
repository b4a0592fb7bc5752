"""A remote teacher against a real server process: the same numbers, paid once, whatever goes wrong on the way."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import torch

from search_spaces.benchmarks import BENCHMARKS
from search_spaces.errors import UserError
from trainables.teacher.fingerprint import teacher_fingerprint
from trainables.teacher.http.connection import Patience, retry_after_s
from trainables.teacher.http.remote import RemoteTeacher
from trainables.teacher.http.wire import TOKEN_VARIABLE, pack_arrays, unpack_arrays
from trainables.teacher.ledger import QueryLedger, query_counts
from trainables.teacher.meter import MeteredTeacher
from trainables.teacher.open import open_teacher
from trainables.teacher.stored.embedding import EmbeddingJob, embed

NAME = "open_clip:vl2v-tiny:random:0"
TOKEN = "s3cret-token-of-the-test"
HASTE = Patience(timeout_s=10.0, total_s=40.0, first_pause_s=0.02, longest_pause_s=0.2)
IMAGES = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))

SERVER = """
import json, os, sys
from pathlib import Path
from trainables.teacher.http.server import Faults, serve
from trainables.teacher.open import open_teacher
settings = json.loads(sys.argv[1])
teacher = open_teacher(settings["name"], image_size=32)
ledger = Path(settings["ledger"])
serve(teacher, port=settings["port"], fingerprint="weights of " + settings["name"], token=settings["token"],
      image_size=32, ledger=ledger, faults=Faults(**settings["faults"]))
"""


@dataclass
class Server:
    """A server process that can be killed and started again on its port."""

    folder: Path
    faults: dict[str, float]
    token: str | None
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    name: str = NAME

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / "server.log").read_text()

    def start(self, *, wait: bool = True) -> None:
        if self.port == 0:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = probe.getsockname()[1]
        settings = {
            "name": self.name,
            "ledger": str(self.folder / "paid.jsonl"),
            "port": self.port,
            "token": self.token,
        }
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SERVER, json.dumps(settings | {"faults": self.faults})],
                stdout=log,
                stderr=log,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
        deadline = time.monotonic() + 90
        while wait:
            try:
                httpx.get(f"{self.url}/v1/teacher", timeout=5.0)
                return
            except httpx.TransportError:
                assert self.process.poll() is None, self.log
                assert time.monotonic() < deadline, self.log
                time.sleep(0.1)

    def kill(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def paid(self) -> dict[str, int]:
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.get(f"{self.url}/v1/ledger", headers=headers).json()  # type: ignore[no-any-return]


@contextmanager
def running(folder: Path, *, token: str | None = None, **faults: float) -> Iterator[Server]:
    server = Server(folder, faults, token)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("server"), token=TOKEN) as started:
        yield started


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)


def test_the_answers_are_the_local_teachers_bit_for_bit(server: Server) -> None:
    local, remote = open_teacher(NAME, image_size=32), open_teacher(f"remote:{server.url}", image_size=32)
    assert torch.equal(remote.embed_images(IMAGES), local.embed_images(IMAGES))
    prompts = ["a photo of a dog", "a photo of a é"]
    assert torch.equal(remote.embed_texts(prompts), local.embed_texts(prompts))
    assert (remote.embedding_dim, remote.logit_scale) == (32, local.logit_scale)
    assert remote.embed_images(IMAGES[:0]).shape == (0, 32)
    with pytest.raises(UserError, match="vl2v_sd"):
        remote.image_encoder()


def test_a_large_batch_goes_in_parts(server: Server) -> None:
    remote = RemoteTeacher(server.url, patience=HASTE)
    remote.max_images = 4
    before = server.paid()
    torch.testing.assert_close(remote.embed_images(IMAGES), open_teacher(NAME, image_size=32).embed_images(IMAGES))
    after = server.paid()
    assert (after["images"] - before["images"], after["requests"] - before["requests"]) == (6, 2)


def test_the_fingerprint_names_what_is_served_and_not_the_address(server: Server) -> None:
    first = teacher_fingerprint(f"remote:{server.url}")
    assert first == teacher_fingerprint(f"remote:{server.url.replace('127.0.0.1', 'localhost')}/")
    assert first != teacher_fingerprint(NAME)


def test_a_repeated_key_is_answered_again_and_paid_once(server: Server) -> None:
    before = server.paid()["images"]
    headers = {"Authorization": f"Bearer {TOKEN}", "Idempotency-Key": "the same"}
    bodies = [pack_arrays("images", IMAGES), pack_arrays("images", IMAGES), pack_arrays("images", IMAGES + 1)]
    answers = [httpx.post(f"{server.url}/v1/images", content=body, headers=headers) for body in bodies]
    assert [answer.status_code for answer in answers] == [200, 200, 422]
    assert torch.equal(unpack_arrays("embeddings", answers[0].content), unpack_arrays("embeddings", answers[1].content))
    assert server.paid()["images"] - before == 6


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("images", b"nonsense", 400),
        ("images", pack_arrays("pictures", IMAGES), 400),
        ("images", pack_arrays("images", IMAGES[0]), 400),
        ("images", pack_arrays("images", IMAGES * float("nan")), 400),
        ("images", pack_arrays("images", torch.zeros(600, 3, 2, 2)), 413),
        ("texts", b'{"prompts": "dog"}', 400),
        ("texts", b"[]", 400),
        ("sounds", b"", 404),
    ],
)
def test_bad_requests_are_refused_in_one_line_and_not_paid(server: Server, path: str, body: bytes, status: int) -> None:
    before = server.paid()
    headers = {"Authorization": f"Bearer {TOKEN}", "Idempotency-Key": f"bad {path} {len(body)}"}
    answer = httpx.post(f"{server.url}/v1/{path}", content=body, headers=headers)
    assert answer.status_code == status
    assert answer.json()["error"].count("\n") == 0
    assert server.paid() == before


def test_a_wrong_token_is_one_line_without_the_token(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "wrong-token")
    with pytest.raises(UserError, match=f"refuses us .401.: check the token in {TOKEN_VARIABLE}") as caught:
        RemoteTeacher(server.url, patience=HASTE)
    assert "wrong-token" not in str(caught.value)
    monkeypatch.delenv(TOKEN_VARIABLE)
    with pytest.raises(UserError, match=f"no token is in {TOKEN_VARIABLE}"):
        RemoteTeacher(server.url, patience=HASTE)
    monkeypatch.setenv(TOKEN_VARIABLE, "two\nlines")
    with pytest.raises(UserError, match="line break") as caught:
        RemoteTeacher(server.url, patience=HASTE)
    assert "two" not in str(caught.value)


def test_the_token_stands_nowhere(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    remote = RemoteTeacher(server.url, patience=HASTE)
    remote.embed_images(IMAGES)
    pickled = pickle.dumps(remote)
    assert TOKEN.encode() not in pickled
    again = pickle.loads(pickled)  # noqa: S301
    assert torch.equal(again.embed_images(IMAGES), remote.embed_images(IMAGES))
    assert TOKEN not in repr(remote) + repr(remote.__dict__) + caplog.text
    assert TOKEN not in server.log


@pytest.mark.parametrize(
    "url",
    ["ftp://host", "host:80", "http://", "http://user:pass@host", "http://host/v1?key=pass", "http://host/v1#pass"],
)
def test_addresses_that_are_none_are_one_line_and_not_shown(url: str) -> None:
    with pytest.raises(UserError, match=r"remote:http|holds a password|holds a query string or a fragment") as caught:
        RemoteTeacher(url, patience=Patience(total_s=0.1))
    assert "pass@" not in str(caught.value)
    assert "=pass" not in str(caught.value)
    assert "#pass" not in str(caught.value)


def test_nobody_there_is_one_line_within_the_patience() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(UserError, match=r"did not answer after \d+ attempts; last: ConnectError"):
        RemoteTeacher(f"http://127.0.0.1:{port}", patience=Patience(total_s=0.5, first_pause_s=0.05))


def test_another_image_size_is_one_line(server: Server) -> None:
    with pytest.raises(UserError, match="takes images of 32 px, not 64"):
        open_teacher(f"remote:{server.url}", image_size=64)


@pytest.mark.parametrize(
    ("fault", "line"),
    [("nan", "NaN or infinite embeddings for 1 of 6"), ("extra_dim", r"\[6, 33\].*\[6, 32\] is wanted")],
)
def test_nonsense_embeddings_are_one_line(tmp_path: Path, fault: str, line: str) -> None:
    with running(tmp_path, **{fault: True}) as server, pytest.raises(UserError, match=line):
        RemoteTeacher(server.url, patience=HASTE).embed_images(IMAGES)


def test_lost_answers_refusals_and_a_restart_change_neither_the_numbers_nor_the_bill(tmp_path: Path) -> None:
    local = open_teacher(NAME, image_size=32)
    with running(tmp_path, drop=0.2, too_many=0.15, error=0.15) as server:
        metered = MeteredTeacher(RemoteTeacher(server.url, patience=HASTE), QueryLedger(tmp_path / "ledger", "fold"))

        def restart() -> None:
            server.kill()
            time.sleep(0.5)
            server.start(wait=False)

        for number in range(40):
            if number == 20:
                killer = threading.Thread(target=restart)
                killer.start()
            batch = IMAGES + number
            assert torch.equal(metered.embed_images(batch), local.embed_images(batch))
        killer.join()
        counts = query_counts(tmp_path / "ledger")
        assert (counts.images, counts.unconfirmed) == (240, 0)
        assert server.paid() == {"images": 240, "texts": 0, "requests": 40}


def test_another_model_at_the_same_address_is_one_line_and_nothing_of_it_is_stored(tmp_path: Path) -> None:
    with running(tmp_path, token=TOKEN) as server:
        planned = teacher_fingerprint(f"remote:{server.url}")
        benchmark = BENCHMARKS["icons"]
        job = EmbeddingJob(
            benchmark=benchmark, teacher=f"remote:{server.url}", teacher_fingerprint=planned, teacher_mode="clean",
            image_size=32, store=str(tmp_path / "store"),
        )  # fmt: skip
        remote = RemoteTeacher(server.url, patience=HASTE)
        remote.embed_images(IMAGES)
        server.kill()
        server.name = "open_clip:vl2v-tiny:random:1"
        server.start()
        other = teacher_fingerprint(f"remote:{server.url}")
        line = f"remote:{server.url} has changed .* is {other[:12]}, planned was {planned[:12]}; bring the planned one"
        with pytest.raises(UserError, match=line):
            remote.embed_images(IMAGES)
        with pytest.raises(UserError, match=line):
            embed(job.to_mapping())
        with pytest.raises(UserError, match=line):
            pickle.loads(pickle.dumps(remote))  # noqa: S301
    assert not list(tmp_path.rglob("*.arrow"))


def test_retry_after_in_seconds_and_as_a_date(monkeypatch: pytest.MonkeyPatch) -> None:
    assert retry_after_s("1.5") == 1.5
    assert retry_after_s("-3") == 0.0
    assert retry_after_s(None) is None
    assert retry_after_s("soon") is None
    now = datetime(2024, 5, 17, 12, 0, 0, 500_000, tzinfo=UTC)
    monkeypatch.setattr(
        "trainables.teacher.http.connection.datetime", SimpleNamespace(now=lambda zone: now.astimezone(zone))
    )
    assert retry_after_s(format_datetime(now + timedelta(seconds=30), usegmt=True)) == 29.5
    assert retry_after_s(format_datetime(now - timedelta(seconds=30), usegmt=True)) == 0.0
