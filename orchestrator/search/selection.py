"""Our own model selection, which cannot see a test accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from search_spaces.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceValidation:
    """What a search may know of a trial: nothing here comes from a test domain."""

    number: int
    """The trial's number in its fold group."""
    accuracy: float
    """Mean accuracy on the source domains' validation parts, over the trial's folds; a fraction."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOutValidation:
    """What leave-one-domain-out selection may know of a trial: nothing here comes from the domain selected for."""

    number: int
    """The trial's number in its fold group."""
    accuracy: float
    """Mean accuracy on each source domain in folds that leave it out beside the test domain; a fraction."""


Validation = TypeVar("Validation", SourceValidation, HeldOutValidation)


def select(trials: Sequence[Validation]) -> Validation:
    """Choose the trial with the best accuracy that its selection may know.

    As in DomainBed, the later trial wins a tie and NaN loses to every number.

    Raises:
        UserError: there is no trial to select from.
    """
    if not trials:
        raise UserError("no finished trial to select from")
    return max(trials, key=lambda trial: (nan_last(trial.accuracy), trial.number))


def mean(values: Sequence[float]) -> float:
    """Mean as numpy adds it up, so that ties fall as in DomainBed; NaN of nothing."""
    return float(np.mean(values)) if values else math.nan


def nan_last(value: float) -> float:
    """A number to sort by: NaN loses to every number."""
    return -math.inf if math.isnan(value) else value
