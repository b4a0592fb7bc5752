"""A hostile or broken server costs no more than the patience and some memory, and is told in one line."""

from __future__ import annotations

import gzip
import json
import os
import resource
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from search_spaces.errors import UserError
from tests.fuzz import responses
from tests.support.scripted_server import (
    FACTS,
    ScriptedServer,
    answer,
    at_once,
    embeddings,
    facts,
    scripted_server,
)
from trainables.teacher.http.connection import Patience, retry_after_s
from trainables.teacher.http.remote import RemoteTeacher
from trainables.teacher.http.wire import MAX_PROMPTS, TOKEN_VARIABLE

TOTAL_S = 1.5
SHORT = Patience(timeout_s=30.0, total_s=TOTAL_S, first_pause_s=0.05, longest_pause_s=0.1)
"""For a server that never comes to an end: what is tested would take for ever."""
LONGER = Patience(timeout_s=30.0, total_s=8.0, first_pause_s=0.05, longest_pause_s=0.1)
"""For a server that is asked again and again."""
ENOUGH = Patience(timeout_s=60.0, total_s=60.0, first_pause_s=0.05, longest_pause_s=0.1)
"""For a server whose first answer is the last word, on however busy a machine."""
IMAGE = torch.zeros(1, 3, 2, 2)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as running:
        yield running


def refused(server: ScriptedServer, image: torch.Tensor = IMAGE, *, patience: Patience = ENOUGH) -> str:
    """The one line that a teacher at this server ends in."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError) as caught:
        RemoteTeacher(server.url, patience=patience).embed_images(image)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024
    said = str(caught.value)
    assert said.isprintable()
    assert len(said) < 500
    return said


def drip(start: bytes, part: bytes) -> Any:
    """Sends a start, and then parts for ever, each long before any timeout."""

    def reply(connection: socket.socket) -> None:
        connection.sendall(start)
        while True:
            time.sleep(0.1)
            connection.sendall(part)

    return reply


DRIPS = {
    "a body": (answer(length=10**9), b"x"),
    "a body in chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "headers": (b"HTTP/1.1 200 OK\r\nA: ", b"a"),
    "the status": (b"HTTP/1.1 200 ", b"O"),
    "early hints": (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    "an error": (answer(length=10**9, status="400 Bad Request"), b"x"),
    "nothing": (b"", b""),
}


@pytest.mark.parametrize("case", DRIPS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_patience_is_a_limit_on_the_whole_request(server: ScriptedServer, case: str, method: str) -> None:
    setattr(server, f"to_{method.lower()}", drip(*DRIPS[case]))
    assert "did not answer after 1 attempt; last: no answer within 1.5 s" in refused(server, patience=SHORT)


def test_a_query_that_is_not_taken_ends_with_the_patience(server: ScriptedServer) -> None:
    server.reads_bodies, server.to_post = False, drip(b"", b"")
    # More than the system keeps for a connection.
    assert "last: no answer within" in refused(server, torch.zeros(1, 3, 1500, 1500), patience=LONGER)


def test_waiting_for_a_slot_is_a_part_of_the_patience(server: ScriptedServer) -> None:
    teacher = RemoteTeacher(server.url, patience=replace(LONGER, concurrency=1))
    server.to_post = drip(b"", b"")
    lines = list[str]()

    def ask() -> None:
        with pytest.raises(UserError) as caught:
            teacher.embed_images(IMAGE)
        lines.append(str(caught.value))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines) == 4
    teacher.close()


def test_a_packed_answer_is_unpacked(server: ScriptedServer) -> None:
    packed = {"gzip": gzip.compress(embeddings()), "deflate": zlib.compress(embeddings()), "identity": embeddings()}
    expected = torch.full((1, 4), 0.5)
    for encoding, content in packed.items():
        server.to_post = at_once(answer(content, headers={"Content-Encoding": encoding}))
        assert torch.equal(RemoteTeacher(server.url, patience=ENOUGH).embed_images(IMAGE), expected)


ZEROS = gzip.compress(bytes(2**30), 1)
"""A gigabyte in some megabytes."""
ANSWERS: dict[str, tuple[bytes, dict[str, str], str]] = {
    "a bomb": (ZEROS[:60_000], {"Content-Encoding": "gzip"}, "unpacks to more than 65,576 bytes"),
    "a long bomb": (ZEROS, {"Content-Encoding": "gzip"}, "has more than 65,576 bytes"),
    "broken gzip": (b"\x1f\x8b\x08" + b"x" * 50, {"Content-Encoding": "gzip"}, "is broken gzip"),
    "gzip cut short": (gzip.compress(embeddings())[:-9], {"Content-Encoding": "gzip"}, "is broken gzip (cut short)"),
    "no gzip": (embeddings(), {"Content-Encoding": "gzip"}, "is broken gzip"),
    "broken deflate": (b"x", {"Content-Encoding": "deflate"}, "is broken deflate"),
    "brotli": (b"x", {"Content-Encoding": "br"}, "is packed as 'br'; plain, gzip or deflate is wanted"),
    "twice packed": (b"x", {"Content-Encoding": "gzip, gzip"}, "is packed as 'gzip, gzip'"),
    "too long": (bytes(10**6), {}, "has more than 65,576 bytes"),
    "a web page": (b"<html>\n</html>", {}, "answers nonsense: the body is not safetensors"),
    "nothing": (b"", {}, "answers nonsense: the body is not safetensors"),
    "two rows": (embeddings(2), {}, "[2, 4]; float [1, 4] is wanted"),
    "numbers of eight bits": (
        responses.safetensors("F8_E4M3", [1, 4], bytes(4)), {}, "the tensor 'embeddings' is float8_e4m3fn",
    ),
    "another model": (embeddings(), {"Teacher-Fingerprint": "é\x1b[31m"}, "has changed since the work was planned"),
}  # fmt: skip


@pytest.mark.parametrize("case", ANSWERS)
def test_an_answer_that_is_none_is_one_line(server: ScriptedServer, case: str) -> None:
    content, headers, said = ANSWERS[case]
    server.to_post = at_once(answer(content, headers=headers))
    assert said in refused(server)
    assert server.asked == 2, "asking again would not help"


FACTS_THAT_ARE_NONE: dict[str, tuple[bytes, str]] = {
    "deep JSON": (answer(b"[" * 60_000), "is not a teacher's answer"),
    "an infinite dimension": (answer(b'{"protocol": 1, "embedding_dim": Infinity}'), "is not a teacher's answer"),
    "another infinite one": (answer(json.dumps(FACTS).replace(": 4,", ": 1e999,").encode()), "embedding_dim inf"),
    "no number": (answer(b'{"protocol": 1, "embedding_dim": NaN}'), "is not a teacher's answer"),
    "a list": (answer(b"[1]"), "is not a teacher's answer"),
    "a text": (answer(b'"x"'), "is not a teacher's answer"),
    "no JSON": (answer(b"\xff\xfe"), "is not a teacher's answer"),
    "too long": (answer(b" " * 70_000), "has more than 65,536 bytes"),
    "a bomb": (answer(ZEROS[:50_000], headers={"Content-Encoding": "gzip"}), "unpacks to more than 65,536 bytes"),
    "another protocol": (facts(protocol="2" * 9999), "speaks protocol '2222222222222222222, we speak 1"),
    "half a dimension": (facts(embedding_dim=4.5), "what cannot be: embedding_dim 4.5"),
    "a true dimension": (facts(embedding_dim=True), "what cannot be: embedding_dim True"),
    "a huge dimension": (facts(embedding_dim=10**300), "what cannot be: embedding_dim 1000"),
    "a scale of 0": (facts(logit_scale=0), "what cannot be: logit_scale 0"),
    "a scale in words": (facts(logit_scale="ten"), "what cannot be: logit_scale 'ten'"),
    "an endless scale": (facts(logit_scale=10**400), "what cannot be: logit_scale 1000"),
    "no images": (facts(max_images=0), "what cannot be: max_images 0"),
    "a list of sizes": (facts(image_size=[32]), "what cannot be: image_size [32]"),
    "no fingerprint": (facts(fingerprint=" "), "what cannot be: fingerprint ' '"),
    "a fingerprint of lists": (facts(fingerprint=[[]]), "what cannot be: fingerprint [[]]"),
}


@pytest.mark.parametrize("case", FACTS_THAT_ARE_NONE)
def test_facts_that_are_none_are_one_line(server: ScriptedServer, case: str) -> None:
    data, said = FACTS_THAT_ARE_NONE[case]
    server.to_get = at_once(data)
    assert said in refused(server)


def test_a_server_may_allow_any_number_of_images(server: ScriptedServer) -> None:
    server.to_get = at_once(facts(max_images=10**300, embedding_dim=4.0))
    assert RemoteTeacher(server.url, patience=ENOUGH).embed_images(IMAGE).shape == (1, 4)


ERRORS: dict[str, tuple[bytes, str]] = {
    "one line": (answer(b'{"error": "no\\nsecond"}', status="400 Bad"), "refuses the request: 400 no"),
    "deep JSON": (answer(b"[" * 50_000, status="400 Bad"), "refuses the request: 400 Bad"),
    "a bomb": (answer(ZEROS[:50_000], status="400 Bad", headers={"Content-Encoding": "gzip"}), "400 Bad"),
    "broken gzip": (answer(b"x", status="400 Bad", headers={"Content-Encoding": "gzip"}), "400 Bad"),
    "a long page": (answer(b"x" * 10**6, status="404 Gone", headers={"Content-Type": "text/plain"}), "404 Gone"),
    "plain text": (answer(b"Invalid host", status="400 B", headers={"Content-Type": "text/plain"}), "400 Invalid host"),
    "an escape": (answer(b'{"error": "\\u001b[31mred\\u202e"}', status="422 x"), "422 [31mred"),
    "no words": (answer(b'{"error": ""}', status="422 Odd"), "422 Odd"),
    "the token": (answer(b'{"error": "no user s3cret-token"}', status="400 Bad"), "400 no user ***"),
    "elsewhere": (answer(status="302 Found", headers={"Location": "http://evil.example"}), "302 Found"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_an_error_is_one_line_without_the_token(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "s3cret-token")
    data, said = ERRORS[case]
    server.to_post = at_once(data)
    assert said in refused(server)


@pytest.mark.parametrize("value", ["inf", "1e999", "99999999999", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_server_that_wants_too_long_a_wait_is_given_up(server: ScriptedServer, value: str) -> None:
    server.to_post = at_once(answer(status="503 Busy", headers={"Retry-After": value}))
    assert "did not answer after 1 attempt; last: 503 Busy" in refused(server)


@pytest.mark.parametrize("value", ["nan", "soon", "", "Fri, 99 Dec 99999 23:59:59 +9999999999", "\xff"])
def test_a_wait_that_is_none_is_passed_over(server: ScriptedServer, value: str) -> None:
    assert retry_after_s(value) is None
    server.to_post = at_once(answer(status="503 Busy", headers={"Retry-After": value}))
    said = refused(server, patience=LONGER)
    assert "last: 503 Busy" in said
    assert "1 attempt;" not in said


@pytest.mark.parametrize(
    "data",
    [b"", b"x" * 500, b"HTTP/1.1 200 OK\r\n" + b"A: a\r\n" * 50_000, b"HTTP/1.1 9999 x\r\n\r\n", b"\x16\x03\x01"],
)
def test_what_is_no_http_is_asked_again_and_then_given_up(server: ScriptedServer, data: bytes) -> None:
    server.to_get = at_once(data)
    assert "attempts; last: " in refused(server, patience=LONGER)
    assert server.asked > 1


def test_many_prompts_go_in_parts(server: ScriptedServer) -> None:
    teacher = RemoteTeacher(server.url, patience=ENOUGH)
    rows = iter([MAX_PROMPTS, 1])
    server.to_post = lambda connection: connection.sendall(answer(embeddings(next(rows))))
    assert teacher.embed_texts(["a"] * (MAX_PROMPTS + 1)).shape == (MAX_PROMPTS + 1, 4)
    assert server.asked == 3


def test_a_forked_process_asks_for_itself(server: ScriptedServer) -> None:
    teacher = RemoteTeacher(server.url, patience=ENOUGH)
    child = os.fork()
    if child == 0:
        code = 9
        try:
            code = 0 if teacher.embed_images(IMAGE).shape == (1, 4) else 8
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert teacher.embed_images(IMAGE).shape == (1, 4)


def test_a_closed_connection_leaves_no_thread(server: ScriptedServer) -> None:
    def threads() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name == "teacher"}

    before = threads()
    teachers = [RemoteTeacher(server.url, patience=ENOUGH) for _ in range(2)]
    assert len(threads() - before) == 2
    teachers.pop().close()
    assert len(threads() - before) == 1
    # The other one nobody closes.
    teachers.clear()
    assert not threads() - before


def test_random_answers_are_one_line() -> None:
    assert responses.tried(60, seed=0).problems == []
