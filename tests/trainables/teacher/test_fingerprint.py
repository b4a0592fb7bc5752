"""Fingerprints name weights by content."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from search_spaces.errors import UserError
from trainables.student.fingerprint import student_fingerprint
from trainables.teacher.fingerprint import teacher_fingerprint


def test_a_file_counts_by_content_and_not_by_path(tmp_path: Path) -> None:
    one, copy, other = tmp_path / "one.pt", tmp_path / "copy.pt", tmp_path / "other.pt"
    one.write_bytes(b"weights")
    copy.write_bytes(b"weights")
    other.write_bytes(b"Weights")
    teacher = [teacher_fingerprint(f"open_clip:ViT-B-16:{path}") for path in (one, copy, other)]
    student = [student_fingerprint("resnet50", str(path)) for path in (one, copy, other)]
    for first, second, third in (teacher, student):
        assert first == second != third
        assert len(first) == 64
    assert teacher_fingerprint(f"open_clip:ViT-B-32:{one}") != teacher[0]
    one.write_bytes(b"changed weights")
    assert teacher_fingerprint(f"open_clip:ViT-B-16:{one}") != teacher[0]


def test_an_architecture_file_counts_by_content(tmp_path: Path) -> None:
    architecture = tmp_path / "mine.json"
    architecture.write_text("{}")
    first = teacher_fingerprint(f"open_clip:{architecture}:random:0")
    architecture.write_text('{"embed_dim": 2}')
    assert teacher_fingerprint(f"open_clip:{architecture}:random:0") != first


def test_names_tell_weights_apart() -> None:
    assert teacher_fingerprint("open_clip:ViT-B-16:random:0") != teacher_fingerprint("open_clip:ViT-B-16:random:1")
    assert teacher_fingerprint("open_clip:ViT-B-16:openai") != teacher_fingerprint("open_clip:ViT-B-32:openai")
    assert student_fingerprint("resnet50", "random") != student_fingerprint("resnet50", "pretrained")
    assert student_fingerprint("resnet50", "pretrained") != student_fingerprint("resnet50.a1_in1k", "pretrained")


def test_missing_files_and_unknown_kinds_are_one_line() -> None:
    with pytest.raises(UserError, match="no teacher checkpoint"):
        teacher_fingerprint("open_clip:ViT-B-16:/nowhere/weights.pt")
    with pytest.raises(UserError, match=r"no student weights 'pretraned'"):
        student_fingerprint("resnet50", "pretraned")
    with pytest.raises(UserError, match="unknown teacher"):
        teacher_fingerprint("clip")


def test_loads_without_torch() -> None:
    code = (
        "import sys, trainables.teacher.fingerprint as f; f.teacher_fingerprint('open_clip:A:b'); print(*sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "open_clip", "timm"} & set(answer.stdout.split())
