"""The count is true: the meter against a counter on the teacher's own forward hook, which knows nothing of it.

The teacher lives in this process and is asked over HTTP by the workers of a command, so that it outlives them. The
command is killed while its questions are being answered: what is lost is exactly what the ledger calls unconfirmed.
"""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from tests.support.killed_command import finished, killed_at
from trainables.data.formats.sample import write_sample
from trainables.teacher.clip import OpenClipTeacher
from trainables.teacher.http.server import create_app
from trainables.teacher.http.wire import TOKEN_VARIABLE
from trainables.teacher.ledger import query_counts
from trainables.teacher.open import open_teacher

pytestmark = pytest.mark.slow

IN_FLIGHT_S = 2.0
"""Until the other worker's question has come in too, whose answer has to wait for the one that is held back."""
TINY = [
    "student=test_byobnet",
    "student_weights=random",
    "image_size=32",
    "batch_size_per_domain=4",
    "evaluate_every=2",
    "align.num_steps=4",
    "distill.num_steps=8",
]


@dataclass
class Hooked:
    """A teacher that counts in its forward pass, and once holds an answer back."""

    hold_at: int
    """Images after which an answer is held back."""
    images: int = 0
    is_held: threading.Event = field(default_factory=threading.Event)
    may_go_on: threading.Event = field(default_factory=threading.Event)

    def __call__(self, module: object, inputs: tuple[Any, ...], output: object) -> None:
        self.images += len(inputs[0])
        if self.images >= self.hold_at and not self.is_held.is_set():
            self.is_held.set()
            self.may_go_on.wait(120)

    def waits(self) -> bool:
        """Whether an answer is held back, and all other workers wait as well."""
        if self.is_held.is_set():
            time.sleep(IN_FLIGHT_S)
        return self.is_held.is_set()


@contextmanager
def answering(hook: Hooked) -> Iterator[str]:
    """A server in a thread of this process; yields its address."""
    teacher = open_teacher("open_clip:vl2v-tiny:random:0", image_size=32)
    assert isinstance(teacher, OpenClipTeacher)
    teacher._model.visual.register_forward_hook(hook)
    app = create_app(teacher, fingerprint="weights-of-the-test", image_size=32)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            hook.may_go_on.set()
            server.should_exit = True
            thread.join(60)


@pytest.mark.parametrize(("mode", "hold_at"), [("live", 32), ("views:2", 1), ("clean", 1)])
def test_the_meter_equals_the_forward_hook_with_two_workers_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, hold_at: int
) -> None:
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", TOKEN_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    write_sample(tmp_path, benchmarks=["PACS"], images_per_class=6)
    for domain in ("art_painting", "sketch"):
        shutil.copytree(tmp_path / "PACS" / domain, tmp_path / "two" / domain)
    hook, out = Hooked(hold_at), tmp_path / "out"
    with answering(hook) as url:
        command = ["train", "--benchmark", "two", "--data-root", str(tmp_path), "--test-domain", "sketch"]
        command += ["--teacher", f"remote:{url}", "--teacher-mode", mode, "--workers", "2", "--out", str(out), *TINY]
        killed_at(command, hook.waits)
        hook.may_go_on.set()
        before = query_counts(out / "queries")
        assert before.unconfirmed > 0, "the kill was to lose an answer"
        assert finished(command) == 0
        paid = httpx.get(f"{url}/v1/ledger", timeout=30.0).json()
    after = query_counts(out / "queries")
    assert after.unconfirmed == before.unconfirmed
    assert hook.images == paid["images"] == after.images + after.unconfirmed
    assert paid["texts"] == after.texts
    (result,) = (json.loads(path.read_text()) for path in out.glob("folds/*/result.json"))
    asked = result["teacher_queries"]
    assert (asked["images"], asked["unconfirmed"]) == (after.images, after.unconfirmed)
    if mode != "live":
        assert asked["unique_images"] == 42
