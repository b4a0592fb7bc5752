"""What a finished fold's `result.json` and `test.json` say, as values: nobody else names their entries by strings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search_spaces.errors import UserError
from trainables.storage.finished_folds import OtherFoldError, check_belongs, flaw
from trainables.storage.fold_folder import RUN_AGAIN, FoldFolder
from trainables.storage.json_files import DamagedFileError, damaged


@dataclass(frozen=True, kw_only=True, slots=True)
class AskedQueries:
    """What a fold asked the teacher, over all its interruptions."""

    images: int = 0
    texts: int = 0
    unique_images: int = 0
    bytes: int = 0
    unconfirmed: int = 0
    """Queries of killed processes whose answers nobody saw: they may have been asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FoldResult:
    """Source-side numbers of a finished fold."""

    key: str
    test_domains: tuple[str, ...]
    """One domain; two of a pair fold; empty where an old result does not say."""
    accuracy: float
    """Mean accuracy on the source domains' 20% parts, a fraction; NaN where there is none."""
    cross_entropy: float
    """Mean cross-entropy there, in nats; NaN where there is none."""
    domain_accuracies: Mapping[str, float]
    """Accuracy on each source domain's 20% part."""
    rule: str
    """How the evaluated weights were selected: `swad`, `best_source_validation`, `last`, `zero_shot`."""
    step: int
    """Step of the evaluated weights; 0 where the result does not say."""
    selected: Mapping[str, Any]
    """Everything about that selection, for whoever reads it."""
    align_reused: bool | None
    """Whether Align was taken over from another fold; None without such a stage."""
    queries: AskedQueries
    batch_pieces: int
    """Pieces that every batch was computed in."""
    gpu_memory: Mapping[str, int] | None
    """`peak_bytes` and `total_bytes`; None without a GPU."""
    seconds: float
    """What the fold took."""
    started: float
    """Unix seconds."""
    finished: float
    """Unix seconds."""
    student_sha256: str
    """Of the saved student's file; empty where none was saved."""
    content: Mapping[str, Any] = field(repr=False)
    """The file's own content, to be shown or kept whole."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TestResult:
    """Test-domain numbers of one set of weights on one domain. Only the report makes and reads them."""

    __test__ = False

    accuracy: float
    """On the 80% part; a fraction."""
    balanced_accuracy: float | None
    """The same, every class counting alike; None where the fold does not say."""
    out_accuracy: float | None
    """On the 20% part, which oracle selection goes by; None where the fold does not say."""
    num_images: int | None
    """Images in the 80% part; None where the fold does not say."""


def fold_result(folder: FoldFolder, key: str) -> FoldResult | None:
    """Read a fold's result; None while there is none.

    Raises:
        DamagedFileError: the file lacks an entry, or one has another type.
        OtherFoldError: it is another fold's result, or an accuracy is no fraction.
    """
    content = folder.read_result()
    if content is None:
        return None
    check_belongs(folder, content, key)
    try:
        result = parse_result(content)
    except (DamagedFileError, OtherFoldError):
        raise
    except (TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise damaged(folder.result, str(error), folder.advice) from None
    for accuracy in (result.accuracy, *result.domain_accuracies.values()):
        check_fraction(accuracy, folder.result, folder.advice, nan_allowed=True)
    return result


def whole_result(
    folder: FoldFolder, key: str, *, by_content: bool = False, weights_elsewhere: bool = False
) -> FoldResult | None:
    """The result of a fold that is done; None where it has none, or one of the files that it keeps is damaged.

    Raises `OtherFoldError` as `fold_result` does; the arguments are those of `storage.finished_folds.flaw`.
    """
    try:
        result = fold_result(folder, key)
    except DamagedFileError:
        return None
    if result is None or flaw(folder, result.content, by_content=by_content, weights_elsewhere=weights_elsewhere):
        return None
    return result


def check_fraction(accuracy: float, file: Path, advice: str, *, nan_allowed: bool = False) -> None:
    """Raises `OtherFoldError` for an accuracy that no fold can have."""
    if 0.0 <= accuracy <= 1.0 or (nan_allowed and math.isnan(accuracy)):
        return
    raise OtherFoldError(f"{file} says that an accuracy is {accuracy}, which is no fraction of 0 to 1: {advice}")


def parse_held_out(content: Mapping[str, Any], file: Path) -> float:
    """The accuracy in a pair fold's file about one test domain; raises `DamagedFileError` or `OtherFoldError`."""
    try:
        accuracy = float(content["accuracy"])
    except (TypeError, OverflowError) as error:
        raise damaged(file, str(error), RUN_AGAIN) from None
    check_fraction(accuracy, file, RUN_AGAIN, nan_allowed=True)
    return accuracy


def parse_test(content: Mapping[str, Any], domain: str, *, last_step: bool = False) -> TestResult:
    """What `test.json` says of a domain: of the evaluated weights, or of the last step's.

    Raises:
        UserError: it says nothing of that domain.
    """
    part = content.get("last_step", {}) if last_step else content
    if domain not in part.get("accuracy", {}):
        raise UserError(f"test.json holds no accuracy on {domain}")
    balanced, outer = part.get("balanced_accuracy", {}).get(domain), part.get("out_accuracy", {}).get(domain)
    images = content.get("num_images", {}).get(domain)
    return TestResult(
        accuracy=float(part["accuracy"][domain]),
        balanced_accuracy=None if balanced is None else float(balanced),
        out_accuracy=None if outer is None else float(outer),
        num_images=None if images is None else int(images),
    )


def parse_result(content: Mapping[str, Any]) -> FoldResult:
    """What the content of a `result.json` says; raises `DamagedFileError`, `TypeError` or `ValueError`."""
    validation, selected = content["source_validation"], content.get("chosen") or {}
    asked = content.get("teacher_queries") or {}
    stages = [stage for stage in content.get("stages", ()) if stage["name"] == "align"]
    return FoldResult(
        key=str(content["key"]),
        test_domains=tuple(content.get("fold", {}).get("test_domains", ())),
        accuracy=_number(validation["accuracy"]),
        cross_entropy=_number(validation.get("cross_entropy")),
        domain_accuracies={str(name): _number(value) for name, value in validation.get("domains", {}).items()},
        rule=str(selected.get("rule", "")),
        step=int(selected.get("step", 0)),
        selected=selected,
        align_reused=bool(stages[0]["reused"]) if stages else None,
        queries=AskedQueries(**{name: int(asked.get(name, 0)) for name in AskedQueries.__dataclass_fields__}),
        batch_pieces=int(content.get("batch_pieces", 1)),
        gpu_memory=content.get("gpu_memory"),
        seconds=float(content["seconds"]),
        started=float(content["started"]),
        finished=float(content["finished"]),
        student_sha256=str(content.get("student_sha256", "")),
        content=content,
    )


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)
