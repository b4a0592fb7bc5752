"""The published numbers that a report stands beside, read from `claims.yaml`. Unit: percent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

PAPER_STUDENT = "vit_base_patch16_224"
PAPER_TEACHER = "open_clip:ViT-B-16-quickgelu:openai"

_ROWS: Mapping[str, tuple[str, str]] = {
    "vl2v_adip": ("black_box", "vl2v_adip"),
    "vl2v_sd": ("white_box", "vl2v_sd"),
    "erm": ("black_box", "erm_fine_tune"),
    "kd": ("black_box", "kd"),
    "zero_shot": ("white_box", "clip_zero_shot"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedRow:
    """One row of a published table."""

    method: str
    """Our name of the method."""
    row: str
    """`TABLE/ROW` in claims.yaml."""
    student: str
    """The student it was published with; empty for the teacher itself and for self-distillation."""
    swad: bool | None
    """Whether the page marks the row as one with SWAD; None where it is not known."""
    values: Mapping[str, float]
    """Test-domain accuracy in percent, averaged over domains, by benchmark."""
    id: float | None
    """In-domain accuracy in percent, averaged over the five benchmarks."""
    ood: float | None
    """Test-domain accuracy in percent, averaged over the five benchmarks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadlineClaims:
    """The row that a reproduction is asked to verify."""

    method: str
    """Our name of the method."""
    title: str
    values: Mapping[str, float]
    """Percent by benchmark."""
    status: str


def published(method: str, student: str = PAPER_STUDENT) -> dict[str, float]:
    """Published percent by benchmark of a method with a student; empty where nothing was published."""
    row = published_row(method, student)
    return {} if row is None else dict(row.values)


def published_row(method: str, student: str = PAPER_STUDENT) -> PublishedRow | None:
    """Published row of a method with a student; None where there is none.

    The teacher and self-distillation have no student of their own: any name finds their row.
    """
    table, row = _ROWS.get(method, ("", ""))
    own_student = "" if table == "white_box" else PAPER_STUDENT
    if student == "resnet50" and method == "vl2v_adip":
        table, own_student = "resnet50_student", "resnet50"
    elif own_student and student != own_student:
        return None
    claims = _claims()
    for entry in claims.get(table, ()):
        if entry["method"] == row:
            numbers = dict(zip(claims["columns"], entry["values"], strict=True))
            in_domain, out_of_domain = numbers.pop("id"), numbers.pop("ood")
            return PublishedRow(
                method=method,
                row=f"{table}/{row}",
                student=own_student,
                swad=entry.get("swad", True if table == "black_box" else None),
                values=numbers,
                id=in_domain,
                ood=out_of_domain,
            )
    return None


def headline_claims() -> HeadlineClaims:
    """The five numbers of the task page of the paper."""
    headline = _claims()["headline"]
    return HeadlineClaims(
        method="vl2v_sd", title=headline["method"], values=dict(headline["values"]), status=headline["status"]
    )


@cache
def _claims() -> dict[str, Any]:
    text = files("search_spaces").joinpath("claims.yaml").read_text(encoding="utf-8")
    content: dict[str, Any] = yaml.safe_load(text)
    return content
