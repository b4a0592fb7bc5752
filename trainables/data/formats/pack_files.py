"""What a pack's files are called, and what is wrong with what they say of themselves.

Nothing that a pack says is taken at its word: every value is looked at before memory is taken for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

PACK_FORMAT = 2
DESCRIPTION, INDEX = "pack.json", "index.arrow"
POOLS = ("", "train", "test")
"""A row's pool by its number in the index: serves every role, source domains only, the test domain only."""
MAX_SIDE = 2**20
"""Pixels; no image format of ours has longer sides."""
_SHA256 = re.compile("[0-9a-f]{64}")


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"shard-{number:05d}.arrow"


def index_schema() -> Any:
    """Columns of the index and their types."""
    import pyarrow as pa

    whole_numbers = {name: pa.int64() for name in ("label", "size", "width", "height", "shard", "offset", "length")}
    return pa.schema({"path": pa.large_string(), **whole_numbers, "pool": pa.int8(), "sha256": pa.large_string()})


def numbers(batch: Any, name: str, kind: type[np.generic] = np.int64) -> npt.NDArray[Any]:
    """A column without nulls as an array on the same memory (pyarrow's own `to_numpy` imports pandas first)."""
    column = batch.column(name)
    if not len(column):
        return np.empty(0, kind)
    return np.frombuffer(column.buffers()[1], kind, len(column), column.offset * np.dtype(kind).itemsize)


def description_problem(content: Mapping[str, Any]) -> str:
    """What is wrong with what a pack of this format says of itself, in words; empty where nothing is."""
    for name, (is_right, wanted) in _DESCRIPTION_VALUES.items():
        if name not in content:
            return f"{DESCRIPTION} has no {name!r}"
        if not is_right(content[name]):
            return f"{DESCRIPTION} has {cut(content[name])} as {name!r}; it is {wanted}"
    if len(content["files"]) != content["num_shards"] + 1:
        return f"{DESCRIPTION} names {len(content['files']):,} files for {content['num_shards']:,} shards and the index"
    unknown = set(content["files"]) - {INDEX, *map(shard_name, range(content["num_shards"]))}
    return f"{DESCRIPTION} names the file {cut(min(unknown))}, which no pack has" if unknown else ""


def index_problem(batch: Any, description: Mapping[str, Any]) -> str:
    """What is wrong with a pack's index, in words, by its description; empty where nothing is."""
    import pyarrow as pa

    for field in index_schema():
        places = batch.schema.get_all_field_indices(field.name)
        if len(places) != 1:
            return f"{INDEX} has {len(places) or 'no'} column{'s' * bool(places)} {field.name}"
        if batch.schema.field(places[0]).type != field.type:
            return f"the column {field.name} of {INDEX} is {batch.schema.field(places[0]).type} instead of {field.type}"
    if (said := sum(description["domains"].values())) != batch.num_rows:
        return f"{DESCRIPTION} says {said:,} images, {INDEX} has {batch.num_rows:,}"
    try:
        batch.validate()
        if batch.get_total_buffer_size() > description["files"][INDEX]["size"]:
            return f"{INDEX} says that it holds more than its own size"
        batch.validate(full=True)
    except pa.ArrowInvalid as error:
        return f"{INDEX}: {' '.join(str(error).split())}"
    for field in index_schema():
        if batch.column(field.name).null_count:
            return f"the column {field.name} of {INDEX} has empty places"
    return next(_wrong_rows(batch, description), "")


def _wrong_rows(batch: Any, description: Mapping[str, Any]) -> Iterator[str]:
    """The first wrong value of each column."""
    import pyarrow.compute as pc

    column = {name: numbers(batch, name) for name in ("label", "size", "width", "height", "shard", "offset", "length")}
    column["pool"] = numbers(batch, "pool", np.int8)
    limits = {
        "pool": (0, len(POOLS) - 1),
        "label": (0, len(description["class_names"]) - 1),
        "shard": (0, description["num_shards"] - 1),
        "width": (1, MAX_SIDE),
        "height": (1, MAX_SIDE),
        "size": (0, np.iinfo(np.int64).max),
    }
    for name, (least, most) in limits.items():
        yield from _first(column[name], (column[name] < least) | (column[name] > most), name, f"{least} to {most:,}")
    if bool(column["pool"].any()) != description["has_pools"]:
        yield f"{DESCRIPTION} says has_pools {description['has_pools']}, {INDEX} says otherwise"
    files = description["files"]
    sizes = np.array([files[shard_name(number)]["size"] for number in range(description["num_shards"])], np.int64)
    room = sizes[column["shard"]]
    length, offset = column["length"], column["offset"]
    yield from _first(length, (length < 1) | (length > room), "length", "1 to the size of its shard")
    # Not offset + length, which may be beyond any number.
    yield from _first(offset, (offset < 0) | (offset > room - length), "offset", "inside its shard")
    if description["encoding"] == "pixels":
        yield from _first(length, length != 3 * column["width"] * column["height"], "length", "3 bytes a pixel")
    else:
        yield from _first(length, length != column["size"], "length", "the image's size")
    if not pc.all(pc.equal(pc.binary_length(batch.column("sha256")), 64)).as_py():
        yield f"the column sha256 of {INDEX} holds what is no SHA-256"
    start, paths = 0, batch.column("path")
    for domain, count in description["domains"].items():
        if not pc.all(pc.starts_with(paths.slice(start, count), f"{domain}/")).as_py():
            yield f"{INDEX} has paths of other domains among those of {domain}"
        start += count


def _first(values: npt.NDArray[Any], wrong: npt.NDArray[np.bool_], name: str, allowed: str) -> Iterator[str]:
    if wrong.any():
        row = int(wrong.argmax())
        yield f"{INDEX} says {name} {values[row]} for image {row:,}; it is {allowed}"


def cut(value: Any) -> str:
    """A value as it stands in one line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _is_count(value: Any, *, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**62


def _are_domains(value: Any) -> bool:
    are_counts = isinstance(value, dict) and all(_is_count(count, least=1) for count in value.values())
    return are_counts and _are_names(list(value))


def _are_names(value: Any) -> bool:
    if not isinstance(value, list) or not value or not all(isinstance(name, str) and name for name in value):
        return False
    try:
        in_order: list[str] = sorted(set(value), key=str.encode)
    except UnicodeEncodeError:
        return False
    return value == in_order


def _are_files(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(facts, dict) and _is_count(facts.get("size")) and _is_digest(facts.get("sha256"))
        for facts in value.values()
    )


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _is_switch(value: Any) -> bool:
    return isinstance(value, bool)


_DESCRIPTION_VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "domains": (_are_domains, "the number of images, 1 or more, by domain, in byte order"),
    "class_names": (_are_names, "a list of names in byte order"),
    "encoding": (lambda value: value in ("stored", "pixels"), "stored or pixels"),
    "manifest": (_is_digest, "a SHA-256"),
    "packed_from": (_is_digest, "a SHA-256"),
    "is_reencoded": (_is_switch, "true or false"),
    "has_pools": (_is_switch, "true or false"),
    "num_shards": (lambda value: _is_count(value, least=1), "a number of 1 or more"),
    "files": (_are_files, "size and SHA-256 by file"),
}
