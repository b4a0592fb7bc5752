"""A teacher's server under hostile requests: one line each, paid once, with a bound on memory and time."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from search_spaces.errors import UserError
from tests.fuzz import requests
from tests.support.quick_server import QuickServer, QuickTeacher, quick_server
from tests.support.repository import REPOSITORY
from trainables.teacher.http import service
from trainables.teacher.http.server import ANY_HOST, LOOPBACK_HOSTS, serve
from trainables.teacher.http.service import ServerLedger, ServiceLimits
from trainables.teacher.http.wire import IDEMPOTENCY_KEY, MAX_IMAGES, pack_arrays, unpack_arrays

SMALL = ServiceLimits(
    max_images=8, max_side=64, max_prompts=5, max_prompt_letters=20, max_image_bytes=400_000, max_text_bytes=2000,
    receive_s=1.0, connections=64,
)  # fmt: skip
IMAGES = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def small() -> Iterator[QuickServer]:
    with quick_server(limits=SMALL) as server:
        yield server


def post(server: QuickServer, body: Any, *, key: str = "", kind: str = "images", **headers: str) -> httpx.Response:
    """One query; every other one has a key of its own."""
    keyed = {IDEMPOTENCY_KEY: key or os.urandom(8).hex(), **headers}
    return httpx.post(f"{server.url}/v1/{kind}", content=body, headers=keyed, timeout=60)


def paid(server: QuickServer) -> dict[str, int]:
    return dict(httpx.get(f"{server.url}/v1/ledger", timeout=60).json())


def texts(*prompts: str) -> bytes:
    return json.dumps({"prompts": prompts}).encode()


def at_once(server: QuickServer, bodies: list[tuple[str, bytes]], key: str) -> list[int]:
    """The statuses of queries that are sent together under one key."""
    started = threading.Barrier(len(bodies))

    def ask(query: tuple[str, bytes]) -> int:
        started.wait()
        return post(server, query[1], key=key, kind=query[0]).status_code

    with ThreadPoolExecutor(len(bodies)) as pool:
        return sorted(pool.map(ask, bodies))


@pytest.mark.parametrize("ledger", [None, "paid.jsonl"])
def test_ten_bodies_under_one_key_are_one_answer_and_nine_refusals(tmp_path: Path, ledger: str | None) -> None:
    teacher = QuickTeacher(before=lambda: time.sleep(0.2))
    file = tmp_path / ledger if ledger else None
    with quick_server(teacher, ledger=file, limits=ServiceLimits(at_once=10)) as server:
        bodies = [("images", pack_arrays("images", IMAGES + number)) for number in range(8)]
        assert at_once(server, [*bodies, ("texts", texts("a")), ("texts", texts("b"))], "one") == [200] + [422] * 9
        assert paid(server)["requests"] == 1
        assert sum(paid(server)[kind] for kind in ("images", "texts")) == teacher.images + teacher.texts


def test_one_body_ten_times_is_ten_answers_and_one_payment() -> None:
    with quick_server(QuickTeacher(before=lambda: time.sleep(0.05)), limits=ServiceLimits(at_once=10)) as server:
        assert at_once(server, [("images", pack_arrays("images", IMAGES))] * 10, "one") == [200] * 10
        assert paid(server) == {"images": 3, "texts": 0, "requests": 1}


def test_a_key_stands_for_nothing_where_nothing_was_answered() -> None:
    failures = iter([RuntimeError("out of memory\nsecond line"), None])
    line = "the teacher failed: RuntimeError: out of memory"

    def fail() -> None:
        if (error := next(failures)) is not None:
            raise error

    with quick_server(QuickTeacher(before=fail)) as server:
        failed = post(server, pack_arrays("images", IMAGES), key="one")
        assert (failed.status_code, failed.json()) == (500, {"error": line})
        assert post(server, pack_arrays("images", IMAGES + 1), key="one").status_code == 200
        assert post(server, pack_arrays("images", IMAGES), key="one").status_code == 422
        assert paid(server) == {"images": 3, "texts": 0, "requests": 1}
        assert server.lines == [line]


@pytest.mark.parametrize(
    ("kind", "body", "status", "said"),
    [
        ("images", pack_arrays("images", torch.zeros(9, 3, 2, 2)), 413, "at most 8 images in a request, got 9"),
        ("images", pack_arrays("images", torch.zeros(1, 3, 65, 65)), 422, "a side of at most 64 px, got 65"),
        ("images", pack_arrays("images", torch.zeros(1, 3, 200, 200)), 413, "Content Too Large"),
        ("texts", texts(*"abcdef"), 413, "at most 5 prompts in a request, got 6"),
        ("texts", texts("a" * 21), 422, "at most 20 letters, got 21"),
        ("texts", texts("a" * 3000), 413, "Content Too Large"),
    ],
)
def test_what_is_too_large_is_refused_and_not_paid(
    small: QuickServer, kind: str, body: bytes, status: int, said: str
) -> None:
    before = paid(small)
    answer = post(small, body, kind=kind)
    assert (answer.status_code, paid(small)) == (status, before)
    assert said in answer.text


def test_one_side_is_served_where_the_teacher_has_one() -> None:
    with quick_server(image_size=8) as server:
        assert post(server, pack_arrays("images", IMAGES)).status_code == 200
        said = post(server, pack_arrays("images", IMAGES[..., :7, :7])).json()
        assert said == {"error": "images have a side of 8 px, got 7"}
        assert httpx.get(f"{server.url}/v1/teacher").json()["max_images"] == MAX_IMAGES
    # As many images as fit into the longest body.
    with quick_server(image_size=448) as server:
        assert httpx.get(f"{server.url}/v1/teacher").json()["max_images"] == 139


def _endless(sent: list[int], chunks: int) -> Iterator[bytes]:
    for _ in range(chunks):
        sent.append(1)
        yield bytes(2**20)


def test_an_endless_body_takes_no_memory(small: QuickServer) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert post(small, _endless([], 300)).status_code == 413, "in chunks, without a length"
    declared = {"Content-Length": str(300 * 2**20)}
    assert post(small, _endless([], 300), **declared).status_code == 413
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60 * 1024


MALFORMED: dict[str, tuple[str, bytes]] = {
    "nothing": ("images", b""),
    "a header of 2^63 bytes": ("images", (2**63).to_bytes(8, "little") + b"{}"),
    "a header of a megabyte": ("images", (2**20).to_bytes(8, "little") + b" " * 300_000),
    "a deep header": ("images", (60_000).to_bytes(8, "little") + b"[" * 60_000),
    "no numbers that torch knows": ("images", requests.safetensors("F4", [1, 3, 2, 2], bytes(6))),
    "numbers without isfinite": ("images", requests.safetensors("F8_E4M3", [1, 3, 2, 2], bytes(12))),
    "complex numbers": ("images", requests.safetensors("C64", [1, 3, 2, 2], bytes(96))),
    "whole numbers": ("images", requests.safetensors("I64", [1, 3, 2, 2], bytes(96))),
    "no image": ("images", pack_arrays("images", torch.zeros(0, 3, 2, 2))),
    "no pixel": ("images", pack_arrays("images", torch.zeros(2, 3, 0, 0))),
    "sides that differ": ("images", pack_arrays("images", torch.zeros(2, 3, 2, 3))),
    "shapes beyond counting": ("images", requests.safetensors("F32", [0, 3, 2**62, 2**62], b"")),
    "five thousand dimensions": ("images", requests.safetensors("F32", [1] * 5000, bytes(4))),
    "doubles beyond floats": ("images", pack_arrays("images", torch.full((1, 3, 2, 2), 1e300, dtype=torch.float64))),
    "floats whose sum is none": ("images", pack_arrays("images", torch.full((1, 3, 2, 2), 3e38))),
    "no JSON": ("texts", b"\xff"),
    "deep JSON": ("texts", b"[" * 1900),
    "JSON of another kind": ("texts", b"7"),
    "no list": ("texts", b'{"prompts": {"a": 1}}'),
    "no prompt": ("texts", b'{"prompts": []}'),
    "half a character": ("texts", b'{"prompts": ["\\ud800"]}'),
    "numbers": ("texts", b'{"prompts": [1e999]}'),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_body_is_the_clients_mistake(small: QuickServer, case: str) -> None:
    kind, body = MALFORMED[case]
    before = paid(small)
    answer = post(small, body, kind=kind)
    assert answer.status_code in (400, 422), answer.text
    said = answer.json()["error"]
    assert said
    assert said.isprintable()
    assert (paid(small), small.lines) == (before, [])


@pytest.mark.parametrize("key", ["", "k" * 201, "é", "a\tb"])
def test_a_key_is_some_printable_letters(small: QuickServer, key: str) -> None:
    headers = [(IDEMPOTENCY_KEY.encode(), key.encode("latin-1"))]
    answer = httpx.post(f"{small.url}/v1/images", content=pack_arrays("images", IMAGES), headers=headers)
    assert answer.status_code == 400
    assert "1 to 200 printable ASCII characters" in answer.json()["error"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *((host, 200) for host in ("localhost:80", "127.0.0.1", "[::1]:80", "LOCALHOST")),
        *(
            (host, 400)
            for host in ("evil.example", "evil.example:80", "localhost.evil.example", "", "127.0.0.1@e", "[")
        ),
    ],
)
def test_another_name_of_the_server_is_refused(small: QuickServer, host: str, status: int) -> None:
    assert httpx.get(f"{small.url}/v1/teacher", headers={"Host": host}).status_code == status
    assert post(small, pack_arrays("images", IMAGES), Host=host).status_code == status


def test_names_may_be_allowed() -> None:
    for hosts, status in (((*LOOPBACK_HOSTS, "teacher.example"), 200), (ANY_HOST, 200), (LOOPBACK_HOSTS, 400)):
        with quick_server(hosts=hosts) as server:
            answer = httpx.get(f"{server.url}/v1/teacher", headers={"Host": "teacher.example"})
            assert answer.status_code == status


def _until_hung_up(connection: socket.socket, parts: Iterable[bytes] = ()) -> tuple[float, bytes]:
    """Seconds until the other side hangs up on whoever sends these parts, and what it said."""
    started, said, sent = time.monotonic(), b"", iter(parts)
    connection.settimeout(0.05)
    while time.monotonic() - started < 30:
        try:
            connection.sendall(next(sent, b""))
            part = connection.recv(2**16)
            if not part:
                break
            said += part
        except TimeoutError:
            continue
        except OSError:
            break
    return time.monotonic() - started, said


def _repeated(part: bytes) -> Iterator[bytes]:
    while True:
        yield part


QUERY = b"POST /v1/images HTTP/1.1\r\nHost: localhost\r\n" + f"{IDEMPOTENCY_KEY}: k\r\n".encode()


@pytest.mark.parametrize(
    ("start", "rest"),
    [
        (b"", b""),
        (b"GET /v1/teacher HTTP/1.1\r\nHost: local", b""),
        (b"GET /v1/teacher HTTP/1.1\r\nA: ", b"a"),
        (b"GET /v1/teacher HTTP/1.1\r\nHost: localhost\r\n\r\nGET /v1/", b""),
    ],
    ids=["nothing", "half of them", "drop by drop", "after an answer"],
)
def test_who_sends_no_headers_is_hung_up_on(small: QuickServer, start: bytes, rest: bytes) -> None:
    with small.connection() as connection:
        connection.sendall(start)
        seconds, _ = _until_hung_up(connection, _repeated(rest))
        assert seconds < 10


def test_a_body_that_drips_is_refused_and_then_hung_up_on(small: QuickServer) -> None:
    with small.connection() as connection:
        connection.sendall(QUERY + b"Content-Length: 9999\r\n\r\n")
        seconds, said = _until_hung_up(connection, _repeated(b"x"))
    assert seconds < 15
    assert said.startswith(b"HTTP/1.1 408 ")
    assert said.endswith(b'{"error":"the body did not arrive within 1 s"}')


def test_a_body_without_end_is_refused_and_then_hung_up_on(small: QuickServer) -> None:
    with small.connection() as connection:
        connection.sendall(QUERY + b"Transfer-Encoding: chunked\r\n\r\n")
        seconds, said = _until_hung_up(connection, _repeated(b"10000\r\n" + bytes(0x10000) + b"\r\n"))
    assert seconds < 15
    assert said.startswith(b"HTTP/1.1 413 ")


def test_who_does_not_take_the_answer_is_hung_up_on() -> None:
    # Eight megabytes: more than the system keeps for a connection.
    with quick_server(QuickTeacher(embedding_dim=4096), limits=ServiceLimits(receive_s=1.0)) as server:
        body = pack_arrays("images", torch.rand(MAX_IMAGES, 3, 1, 1))
        with server.connection() as connection:
            connection.sendall(QUERY + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
            time.sleep(4)
            _, said = _until_hung_up(connection)
        assert 0 < len(said) < 4 * MAX_IMAGES * 4096


def test_who_leaves_in_mid_body_costs_one_line_at_most(small: QuickServer) -> None:
    with small.connection() as connection:
        connection.sendall(QUERY + b"Content-Length: 9999\r\n\r\nabc")
    time.sleep(0.3)
    assert post(small, pack_arrays("images", IMAGES)).status_code == 200
    assert small.lines == []


_SLOW = """
import sys, time
from tests.support.quick_server import QuickTeacher
from trainables.teacher.http.server import serve

def compute():
    print("computing", flush=True)
    # Not a sleep, which a signal ends.
    end = time.monotonic() + 60
    while time.monotonic() < end:
        time.sleep(0.01)

serve(QuickTeacher(before=compute), port=int(sys.argv[1]), fingerprint="slow")
"""


@pytest.mark.parametrize(
    ("number", "state"),
    [(signal.SIGTERM, "computing"), (signal.SIGINT, "computing"), (signal.SIGTERM, "half a body")],
)
def test_a_signal_ends_the_server_within_seconds(number: signal.Signals, state: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-c", _SLOW, str(port)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        server, deadline = QuickServer(port), time.monotonic() + 120
        while True:
            try:
                httpx.get(f"{server.url}/v1/teacher")
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        with server.connection() as connection:
            if state == "computing":
                threading.Thread(target=_ignored, args=(server,), daemon=True).start()
                assert process.stdout is not None
                assert process.stdout.readline() == "computing\n"
            elif state == "half a body":
                connection.sendall(QUERY + b"Content-Length: 9999\r\n\r\nabc")
                time.sleep(0.5)
            process.send_signal(number)
            process.wait(60)
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.communicate()


def _ignored(server: QuickServer) -> None:
    try:
        post(server, pack_arrays("images", IMAGES))
    except httpx.TransportError:
        return


def test_a_payment_that_cannot_be_written_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with quick_server(ledger=tmp_path / "paid.jsonl") as server:
        with monkeypatch.context() as patch:
            patch.setattr(service, "append_lines", full)
            answer = post(server, pack_arrays("images", IMAGES), key="one")
        assert (answer.status_code, paid(server)["requests"]) == (503, 0)
        assert answer.json() == {"error": "the ledger cannot be written: No space left on device"}
        again = post(server, pack_arrays("images", IMAGES), key="one")
        assert unpack_arrays("embeddings", again.content).shape == (3, 4)
        assert paid(server) == {"images": 3, "texts": 0, "requests": 1}
    assert ServerLedger(tmp_path / "paid.jsonl").totals() == {"images": 3, "texts": 0, "requests": 1}


def test_a_ledger_is_one_servers(tmp_path: Path) -> None:
    file = tmp_path / "below" / "paid.jsonl"
    first = ServerLedger(file)
    with pytest.raises(UserError, match="another server keeps the ledger"):
        ServerLedger(file)
    del first
    ServerLedger(file)
    with pytest.raises(UserError, match=r"cannot write the ledger .*/below: Is a directory"):
        ServerLedger(tmp_path / "below")


def test_lines_of_a_ledger_that_are_none_are_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "paid.jsonl"
    good = {"key": "k", "kind": "images", "body": "b", "count": 3}
    bad = [{**good, "count": "3"}, {**good, "kind": ["images"]}, {**good, "key": {}}, {"key": "k"}, [], 7]
    file.write_text("\n".join(map(json.dumps, [*bad, good])) + '\n{"key": ')
    assert ServerLedger(file).totals() == {"images": 3, "texts": 0, "requests": 1}


def test_a_port_that_is_taken_is_the_users_mistake(small: QuickServer) -> None:
    with pytest.raises(UserError, match=f"cannot be served on 127.0.0.1, port {small.port}"):
        serve(QuickTeacher(), port=small.port, fingerprint="x")


def test_random_requests_are_answered_in_one_line_and_paid_once() -> None:
    assert requests.tried(150, seed=0).problems == []
