"""Weights go into a model by their names: after a prefix that all of them share, after the model's own conversion.

Shapes alone decide nothing: two tensors of one shape may mean different things.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from search_spaces.errors import UserError, first_line

Convert = Callable[[dict[str, Tensor]], Mapping[str, Tensor]]
"""From a file's names and shapes to those of the model; it may change what it is given, and raise anything."""

LISTED = 5
"""Names of each side that an error shows."""
LIBRARIES = {
    "Hugging Face transformers": (
        r"(^|\.)(embeddings\.(patch_embeddings|cls_token)|encoder\.layers?\.\d+\.(attention|self_attn)|embedder\.embedder"
        r"|(vision|text)_model)\."
    ),
    "open_clip or CLIP": r"(^|\.)(resblocks\.\d|attnpool)\.",
    "torchvision": r"(^|\.)(features\.\d+\.\d+|conv_proj|encoder_layer_\d+|trunk_output|layers\.\d+\.\d+\.layers)\.",
    "Flax": r"/(kernel|scale|embedding)$",
    "timm": r"(^|\.)(blocks\.\d+|stages(_|\.)\d+|conv_stem|patch_embed|stem)\.",
    "Keras": r"(^|[./])(gamma|beta|moving_mean|moving_variance|kernel)(:0)?$",
}
"""A pattern that some names of a library's models match, by library."""

CONVERSION = "the conversion of its names"
_HEAD = re.compile(
    r"(^|[._])(heads?|fc\d?|classifier|linear|proj(ection|ector)?|predictor|logits|criterion|loss)([._]|$)"
)


class ForeignNamesError(UserError):
    """Fewer than half of a model's names are in a file: the file is another model's or another library's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Attempt:
    """A part of a file's weights, converted, and how it differs from the model."""

    prefix: str
    tensors: dict[str, Tensor]
    shared: int = 0
    """Names that both have."""
    differences: tuple[str, ...]
    """In words; empty where it fits."""


def load_strictly(
    module: torch.nn.Module,
    weights: Mapping[str, Tensor],
    *,
    what: str,
    convert: Convert = dict,
    leave_out: Callable[[str], bool] = lambda name: False,
) -> None:
    """Load a state dict whose names, shapes and kinds of numbers all fit, or say in one line what does not.

    Where the names stand below a prefix (`backbone.`), what stands beside it may be a head or a counter, no more.

    Args:
        what: names the file and the model.
        convert: the model's own conversion.
        leave_out: whether a converted name that the model does not have may be there.

    Raises:
        UserError: names are missing, unknown or those of another library, a shape or type differs, or several parts of
            the file fit and are not equal.
    """
    # torch's resizing, which conversions do, takes no numbers of 16 bits on the CPU.
    weights = {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
    own = module.state_dict()
    attempts = [_attempt("", weights, own, convert, leave_out)]
    if attempts[0].differences:
        attempts += [_attempt(prefix, weights, own, convert, leave_out) for prefix in _prefixes(weights, len(own))]
    fitting = [attempt for attempt in attempts if not attempt.differences]
    if not fitting:
        # The first of equals: the file as it is, then the prefix of most names.
        raise _misfit(max(attempts, key=lambda attempt: attempt.shared), weights, own, what)
    chosen = fitting[0]
    if any(not _equal(chosen.tensors, other.tensors) for other in fitting[1:]):
        prefixes = ", ".join(attempt.prefix for attempt in fitting)
        raise UserError(f"{what}: the file holds several models that fit, below {prefixes}; save the one that is meant")
    _check_beside([attempt.prefix for attempt in fitting], weights, what)
    try:
        module.load_state_dict(chosen.tensors, strict=True)
    except RuntimeError as error:
        raise UserError(f"{what}: the weights do not fit the architecture; {first_line(error)}") from None


def _prefixes(weights: Mapping[str, Tensor], wanted: int) -> list[str]:
    """Prefixes of whole parts that enough names begin with to be a model of so many tensors; the commonest first."""
    counts: dict[str, int] = {}
    for name in weights:
        for prefix in accumulate(f"{part}." for part in name.split(".")[:-1]):
            counts[prefix] = counts.get(prefix, 0) + 1
    # Conversions split tensors into parts (queries, keys and values), and make one of parts.
    return sorted((prefix for prefix in counts if counts[prefix] * 3 >= wanted), key=lambda prefix: -counts[prefix])


def _attempt(
    prefix: str,
    weights: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    convert: Convert,
    leave_out: Callable[[str], bool],
) -> _Attempt:
    """Compare the part below a prefix with the model: converted, and where that does not fit as it is.

    Some conversions tell from a classifier whether they are needed, and would change what has the model's own names.
    """
    part = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    as_it_is = _compared(prefix, part, own, leave_out)
    try:
        converted = _compared(prefix, convert(dict(part)), own, leave_out)
    except Exception as error:
        # Written for files that fit: at others it fails in any way.
        said = f"stops at {error}" if isinstance(error, KeyError) else f"fails: {first_line(error)}"
        converted = replace(as_it_is, differences=as_it_is.differences and (f"{CONVERSION} {said}",))
    return converted if as_it_is.differences or not converted.differences else as_it_is


def _compared(
    prefix: str, given: Mapping[str, Tensor], own: Mapping[str, Tensor], leave_out: Callable[[str], bool]
) -> _Attempt:
    tensors = {name: value for name, value in given.items() if name in own or not leave_out(name)}
    shared = len(tensors.keys() & own.keys())
    return _Attempt(prefix=prefix, tensors=tensors, shared=shared, differences=tuple(_differences(tensors, own)))


def _differences(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    # torch fills these counters in; nothing reads them in evaluation.
    missing = [name for name in own if name not in tensors and not name.endswith("num_batches_tracked")]
    unknown = [name for name in tensors if name not in own]
    found = [f"the file lacks {_some(missing)}"] if missing else []
    found += [f"the model has no {_some(unknown)}"] if unknown else []
    for name, value in tensors.items():
        wanted = own.get(name, value)
        # torch itself takes the one number of a vector for a scalar.
        if value.shape != wanted.shape and not (wanted.ndim == 0 and value.shape == (1,)):
            found.append(f"{name} is {tuple(value.shape)} instead of {tuple(wanted.shape)}")
        elif value.is_floating_point() != wanted.is_floating_point() or value.is_complex() != wanted.is_complex():
            found.append(f"{name} holds {value.dtype} instead of {wanted.dtype}")
    return found


def _check_beside(prefixes: Sequence[str], weights: Mapping[str, Tensor], what: str) -> None:
    """Raise `UserError` where something stands beside the parts that fit which is neither a head nor a counter."""
    beside = [
        name
        for name, value in weights.items()
        if not name.startswith(tuple(prefixes)) and value.ndim and not _is_head(name, value)
    ]
    if beside:
        raise UserError(f"{what}: beside {prefixes[0]} the file holds {_some(beside)}; save the model alone")


def _is_head(name: str, value: Tensor) -> bool:
    """Whether a tensor belongs to a head by its name, or to what comes after a backbone in a sequence (`1.weight`)."""
    return value.ndim <= 2 and bool(_HEAD.search(name) or re.search(r"(^|\.)\d+\.(weight|bias)$", name))


def _equal(tensors: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> bool:
    return tensors.keys() == others.keys() and all(torch.equal(value, others[name]) for name, value in tensors.items())


def _misfit(attempt: _Attempt, weights: Mapping[str, Tensor], own: Mapping[str, Tensor], what: str) -> UserError:
    """One line: the first differences where most names agree, else names of both sides and whose they look like."""
    below = f" below {attempt.prefix}" if attempt.prefix else ""
    start = f"{what}: the weights{below} do not fit the architecture; "
    found = attempt.differences
    if attempt.shared * 2 >= len(own):
        more = f" (and {len(found) - 3} more differences)" if len(found) > 3 else ""
        return UserError(f"{start}{'; '.join(found[:3])}{more}")
    library = look_of(weights)
    looks = f", names as in {library}" if library else ""
    failed = f"; {found[0]}" if found[0].startswith(CONVERSION) else ""
    sides = f"the file has {_some(list(weights))}{looks}; the model has {_some(list(own))}"
    return ForeignNamesError(f"{start}{sides}{failed}")


def look_of(names: Mapping[str, Tensor] | Sequence[str]) -> str:
    """The library whose names these look like; empty where none is known."""
    return next((library for library, form in LIBRARIES.items() if any(re.search(form, name) for name in names)), "")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(name if len(name) <= 60 else f"{name[:57]}..." for name in names[:LISTED]) + more
