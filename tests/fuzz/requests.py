"""Random requests to a teacher's server: an answer or one line of refusal each, nothing paid that was not answered."""

from __future__ import annotations

import json
import random
import struct
from typing import Any

import httpx
import torch

from tests.fuzz.tally import Tally, main, tally
from tests.support.quick_server import QuickServer, QuickTeacher, quick_server
from trainables.teacher.http.service import ServiceLimits
from trainables.teacher.http.wire import IDEMPOTENCY_KEY, WireError, pack_arrays, unpack_arrays

LIMITS = ServiceLimits(
    max_images=8, max_side=32, max_prompts=6, max_prompt_letters=40, max_image_bytes=200_000, max_text_bytes=4000,
    receive_s=2.0,
)  # fmt: skip
KINDS = (
    "F64",
    "F32",
    "F16",
    "BF16",
    "F8_E4M3",
    "F8_E5M2",
    "F8_E8M0",
    "F4",
    "F6_E2M3",
    "C64",
    "I64",
    "U8",
    "BOOL",
    "XX",
)
NUMBERS = (0, 1, 2, 3, 7, 32, 33, 2**20, 2**31, 2**62, 2**63, -1, 1.5, None, "3")
TEXTS = ("", "a", "a photo of a dog", "é√", "\ud800", "\x00", "a" * 40, "a" * 41, "a" * 3000, "\u202e", "\n")
JUNK: tuple[Any, ...] = (None, True, 7, 1e308, "a", [], {}, [[]], {"prompts": 1}, float("inf"), float("nan"))
NAMES = ("images", "embeddings", "", "x" * 500, "__metadata__", "é\n\x1b[31m")


def tried(inputs: int, *, seed: int) -> Tally:
    """What came of so many requests to one server."""
    teacher = QuickTeacher()
    bills: dict[str, tuple[str, int]] = {}
    with quick_server(teacher, limits=LIMITS) as server, httpx.Client(base_url=server.url, timeout=30) as client:
        counts = tally(lambda chance: _case(chance, client, server, bills), inputs, seed=seed)
        paid = client.get("/v1/ledger").json()
    for kind in ("images", "texts"):
        if (wanted := sum(count for name, count in bills.values() if name == kind)) != paid[kind]:
            counts.wrong_answers += 1
            counts.problems.append(f"{paid[kind]} {kind} are paid, {wanted} were answered")
    return counts


def safetensors(kind: str, shape: list[Any], data: bytes, *, name: str = "images") -> bytes:
    """A body with one tensor, whatever it says of itself."""
    header = json.dumps({name: {"dtype": kind, "shape": shape, "data_offsets": [0, len(data)]}}).encode()
    return struct.pack("<Q", len(header)) + header + data


def _case(chance: random.Random, client: httpx.Client, server: QuickServer, bills: dict[str, tuple[str, int]]) -> str:
    logged = len(server.lines)
    problem = _bare(chance, server) if chance.random() < 0.15 else _asked(chance, client, bills)
    if tracebacks := [line for line in server.lines[logged:] if "Traceback" in line]:
        raise RuntimeError(tracebacks[0])
    return problem


def _asked(chance: random.Random, client: httpx.Client, bills: dict[str, tuple[str, int]]) -> str:
    kind = chance.choice(["images", "images", "texts"])
    body = _with_wrong_bytes(chance, _images(chance) if kind == "images" else _texts(chance))
    path = f"/v1/{kind}" if chance.random() < 0.95 else chance.choice(["/v1/sounds", "/", "/v1/images/", "/v1/%00"])
    key = chance.choice(["", "k" * 300, "é", *(str(number) for number in range(40))])
    headers = [(IDEMPOTENCY_KEY.encode(), key.encode("latin-1"))] if chance.random() < 0.95 else []
    headers += [(b"Content-Type", chance.choice([b"text/html", b"application/json", b"x" * 200]))]
    if chance.random() < 0.1:
        headers.append((chance.choice([b"Host", b"Content-Encoding", b"Expect", b"Authorization"]), b"gzip \xff"))
    method = "POST" if chance.random() < 0.95 else chance.choice(["GET", "PUT", "DELETE", "OPTIONS", "PATCH"])
    content: Any = iter([body[:100], body[100:]]) if chance.random() < 0.2 else body
    answer = client.request(method, path, content=content, headers=headers)
    if answer.status_code == 200 and path in ("/v1/images", "/v1/texts"):
        try:
            count = len(unpack_arrays("embeddings", answer.content))
        except WireError as error:
            return f"200 with {error}"
        known = bills.setdefault(key, (kind, count))
        return "" if known == (kind, count) else f"the key {key} is answered for {known} and for {(kind, count)}"
    is_plain = answer.status_code in (307, 400, 404, 405, 411, 413, 422)
    is_line = len(answer.text) < 500 and "\n" not in answer.text
    said = f"{method} {path} with {body[:60]!r}: {answer.status_code} {answer.text[:200]!r}"
    return "" if is_plain and is_line else said


def _images(chance: random.Random) -> bytes:
    if chance.random() < 0.4:
        shape = [chance.choice([1, 1, 3, 8, 9]), chance.choice([3, 3, 3, 1]), *[chance.choice([1, 2, 16, 32, 33])] * 2]
        values = chance.choice([0.0, 1.0, 1e38, 3e38, float("nan"), float("inf"), -1e-40])
        kinds = (torch.float32, torch.float32, torch.float16, torch.float64, torch.int32, torch.complex64)
        return pack_arrays(
            chance.choice(NAMES[:1] * 9 + NAMES[1:4]), torch.full(shape, values).to(chance.choice(kinds))
        )
    shape = [chance.choice(NUMBERS) for _ in range(chance.choice([0, 1, 4, 4, 4, 70]))]
    data = bytes(chance.choice([0, 4, 12, 48, 96, 12 * 32 * 32, 200_001]))
    return safetensors(chance.choice(KINDS), shape, data, name=chance.choice(NAMES))


def _texts(chance: random.Random) -> bytes:
    content: Any = {"prompts": [chance.choice(TEXTS) for _ in range(chance.choice([0, 1, 1, 2, 7]))]}
    if chance.random() < 0.3:
        content = chance.choice([*JUNK, {"prompts": chance.choice(JUNK)}, {"prompts": [chance.choice(JUNK)]}])
    text = json.dumps(content)
    return chance.choice([text] * 8 + ["[" * 3000, '{"prompts": ' * 300, "1" * 3900]).encode(
        chance.choice(["utf-8", "utf-8", "utf-16", "latin-1"]), "replace"
    )


def _with_wrong_bytes(chance: random.Random, data: bytes) -> bytes:
    if chance.random() < 0.7 or not data:
        return data
    wrong = bytearray(data)
    for _ in range(chance.choice([1, 4])):
        wrong[chance.randrange(len(wrong))] ^= chance.randrange(1, 256)
    return bytes(chance.choice([wrong, wrong, wrong[: chance.randrange(len(wrong))], wrong + b"x" * 50]))


def _bare(chance: random.Random, server: QuickServer) -> str:
    """Bytes that are hardly HTTP; whatever comes back, the next request is answered."""
    lines = [
        chance.choice(
            ["POST /v1/images HTTP/1.1", "GET /v1/teacher HTTP/1.0", "POST / HTTP/9.9", "\x00", "GET", "PRI *"]
        ),
        *chance.sample(
            [
                *(
                    "Host: localhost",
                    "Host: a\r\nHost: b",
                    "Content-Length: -1",
                    "Content-Length: 99999999999999999999",
                ),
                *("Content-Length: 5, 6", "Transfer-Encoding: chunked", "Transfer-Encoding: gzip", ": x", "A" * 70_000),
                *("Upgrade: websocket\r\nConnection: upgrade", "Idempotency-Key: k", "Expect: 100-continue"),
            ],
            chance.randint(0, 4),
        ),
    ]
    with server.connection() as connection:
        connection.settimeout(0.05)
        try:
            connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + chance.randbytes(20))
            connection.recv(2**16)
        except (TimeoutError, OSError):
            pass
    return "" if httpx.get(f"{server.url}/v1/teacher", timeout=30).status_code == 200 else "the server is gone"


if __name__ == "__main__":
    main(tried, "requests")
