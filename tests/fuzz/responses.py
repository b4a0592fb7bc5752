"""Random answers of a teacher's server: embeddings that are ones, or one printable line within the patience."""

from __future__ import annotations

import gzip
import json
import random
import socket
import time
import zlib
from typing import Any

import torch

from search_spaces.errors import UserError
from tests.fuzz.requests import safetensors as _safetensors
from tests.fuzz.tally import Tally, main, tally
from tests.support.scripted_server import FACTS, Reply, ScriptedServer, answer, embeddings, scripted_server
from trainables.teacher.http.connection import Patience
from trainables.teacher.http.remote import RemoteTeacher

PATIENCE = Patience(timeout_s=5.0, total_s=0.3, first_pause_s=0.02, longest_pause_s=0.05)
LONGEST_S = 30.0
"""For one input, of which the patience is a small part, on a busy machine."""
JUNK: tuple[Any, ...] = (
    *(None, True, 0, 1, -1, 4.5, 1e308, 10**300, float("inf"), float("nan"), "", "4", "\ud800\x1b[31m", "x" * 9999),
    *([], {}, [[]], {"a": 1}, [4], 512, 2**31, 2**63),
)
STATUSES = ("200 OK", "200 OK", "200 OK", "201 x", "204 No Content", "302 Found", "400 Bad", "401 No", "404 Gone")
HEADERS = {
    "Content-Encoding": ("gzip", "deflate", "br", "identity", "gzip, gzip", "\xff", ""),
    "Retry-After": ("inf", "nan", "-1", "1e999", "x", "Fri, 31 Dec 9999 23:59:59 GMT", "0"),
    "Teacher-Fingerprint": ("it", "", "é", "other", "x" * 5000),
    "Content-Type": ("text/plain", "text/html; charset=\xff", "application/json", ""),
    "Set-Cookie": ("a=b", "=;;;", "\xff" * 100),
    "Transfer-Encoding": ("chunked", "gzip", "identity"),
    "Connection": ("close", "keep-alive", "upgrade"),
    "Location": ("http://[", "//evil", ""),
}


def safetensors(kind: str, shape: list[Any], data: bytes) -> bytes:
    """An answer with one tensor, whatever it says of itself."""
    return _safetensors(kind, shape, data, name="embeddings")


def tried(inputs: int, *, seed: int) -> Tally:
    """What came of so many answers."""
    with scripted_server() as server:
        return tally(lambda chance: _case(chance, server), inputs, seed=seed)


def _case(chance: random.Random, server: ScriptedServer) -> str:
    is_opening = chance.random() < 0.4
    good = answer(json.dumps(FACTS).encode())
    server.to_get = _reply(chance, json.dumps(_facts(chance)).encode()) if is_opening else lambda to: to.sendall(good)
    server.to_post = _reply(chance, _content(chance))
    started = time.monotonic()
    try:
        teacher = RemoteTeacher(server.url, patience=PATIENCE)
        found = teacher.embed_images(torch.zeros(1, 3, 2, 2))
        problem = "" if _is_embedding(found, teacher.embedding_dim) else f"took {found} for an answer"
        teacher.close()
    except UserError as error:
        said = str(error)
        problem = "" if said.isprintable() and len(said) < 600 else f"said {said[:300]!r} in {len(said)} letters"
    took = time.monotonic() - started
    return problem or (f"took {took:.1f} s" if took > LONGEST_S else "")


def _is_embedding(found: torch.Tensor, dim: int) -> bool:
    return found.shape == (1, dim) and bool(torch.isfinite(found).all()) and abs(float(found.norm()) - 1.0) < 1e-3


def _facts(chance: random.Random) -> Any:
    content: dict[str, Any] = dict(FACTS)
    for _ in range(chance.choice([0, 1, 1, 2])):
        name = chance.choice(sorted(content))
        if chance.random() < 0.2:
            del content[name]
        else:
            content[name] = chance.choice(JUNK)
    return content if chance.random() < 0.9 else chance.choice(JUNK)


def _content(chance: random.Random) -> bytes:
    kind = chance.choice(["F64", "F32", "F16", "BF16", "F8_E4M3", "F4", "I64", "C64", "BOOL"])
    shape = chance.choice([[1, 4], [4], [1, 5], [2, 4], [0, 4], [1, 4, 1], [1, 2**62], [1] * 500, [-1, 4], [1.5, 4]])
    return chance.choice([embeddings(), embeddings(), embeddings(2), safetensors(kind, shape, chance.randbytes(16))])


def _reply(chance: random.Random, content: bytes) -> Reply:
    """The content packed, damaged, cut, or dripping."""
    packing = chance.choice(["", "", "", "gzip", "deflate", "bomb"])
    headers = {name: chance.choice(values) for name, values in HEADERS.items() if chance.random() < 0.08}
    if packing:
        headers["Content-Encoding"] = "deflate" if packing == "deflate" else "gzip"
        bomb = bytes(50 * 2**20) if packing == "bomb" else content
        content = zlib.compress(content) if packing == "deflate" else gzip.compress(bomb, 1)
    if chance.random() < 0.1:
        content = chance.choice(
            [b"", b"[" * 9999, b"\xff\xfe", b"<a>\n", b'{"error": "a\\nb\\u001b"}', b'{"error": []}']
        )
    length = chance.choice([None] * 8 + [0, len(content) + 1, 10**15])
    data = bytearray(answer(content, status=chance.choice(STATUSES), length=length, headers=headers))
    if chance.random() < 0.2:
        for _ in range(chance.choice([1, 5])):
            data[chance.randrange(len(data))] ^= chance.randrange(1, 256)
    if chance.random() < 0.1:
        data = data[: chance.randrange(len(data))]
    return _dripping(bytes(data)) if chance.random() < 0.1 else lambda connection: connection.sendall(data)


def _dripping(data: bytes) -> Reply:
    def reply(connection: socket.socket) -> None:
        for start in range(0, len(data), 10):
            connection.sendall(data[start : start + 10])
            time.sleep(0.02)

    return reply


if __name__ == "__main__":
    main(tried, "responses")
