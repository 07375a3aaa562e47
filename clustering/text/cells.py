"""Columns of any type in; strings as people read them out, without a Python object for each value where one can be."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

STRING = pa.large_string()  # whose chunks have no limit of 2 GiB
FIRST_DAY, STOP_DAY = -719_162, 2_932_897  # since 1970: the years 1 to 9999
DAY_S = 86_400
MOST = (1 << 63) - 1
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
# No zeros after the seconds, and the zone as Python writes it.
AS_PYTHON = ((r"\.0+(Z|[+-]\d{4})?$", r"\1"), ("Z$", "+00:00"), (r":(\d\d[.\d]*[+-]\d\d)(\d\d)$", r":\1:\2"))
# As in kernels/printable; a string of Arrow has no surrogates.
SPACES = r"[\t\n\v\f\r\x{85}\x{2028}\x{2029}]+"
CONTROLS = (
    r"[\x{0}-\x{8}\x{b}-\x{1f}\x{7f}-\x{84}\x{86}-\x{9f}\x{61c}\x{202a}-\x{202e}\x{2066}-\x{2069}\x{fffe}\x{ffff}]"
)


def shown_strings(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Every value as a string, of any type and size: null stays null.

    Times are as in ISO 8601 with a space; one outside of the years 1 to 9999 is its number, with the unit. Lists,
    structs and maps are JSON. Bytes that are no UTF-8 are hexadecimal.
    """
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return pa.concat_arrays([pa.array([], STRING), *map(_shown, chunks)])


def one_line_strings(strings: pa.Array, most: int) -> pa.Array:
    """As ``printable.one_line`` for each. strings, and what is returned : large_string"""
    lines = pc.replace_substring_regex(strings, SPACES, " ")
    return cut_strings(pc.utf8_trim_whitespace(pc.replace_substring_regex(lines, CONTROLS, "\ufffd")), most)


def printable_strings(strings: pa.Array) -> pa.Array:
    """As ``printable.printable`` for each, with one character at a line's end. strings : large_string"""
    lines = pc.replace_substring(strings, "\r\n", "\n")
    return pc.replace_substring_regex(lines, CONTROLS, "\ufffd")


def cut_strings(strings: pa.Array, most: int) -> pa.Array:
    """Longer strings end with an ellipsis. strings : large_string; most : characters of each"""
    long = pc.greater(pc.utf8_length(strings), most)
    if not pc.any(long).as_py():
        return strings
    return pc.if_else(long, _followed(pc.utf8_slice_codeunits(strings, 0, most - 1), "…"), strings)


def joined_strings(strings: pa.Array, end: str) -> bytes:
    """All of them in UTF-8, with ``end`` between them; null is empty. strings : large_string"""
    if not len(strings):
        return b""
    whole = _followed(pc.fill_null(strings, ""), end)
    first, stop = np.frombuffer(whole.buffers()[1], np.int64)[[whole.offset, whole.offset + len(whole)]]
    return bytes(memoryview(whole.buffers()[2])[first : stop - len(end.encode())])


def _shown(array: pa.Array) -> pa.Array:
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return _of_values(array) if kind.extension_name == "arrow.uuid" else _shown(array.storage)
    if pa.types.is_dictionary(kind):
        return _shown(array.dictionary).take(array.indices)
    if pa.types.is_nested(kind) and not pa.types.is_union(kind):
        return pa.array(_json(array), STRING, mask=array.is_null().to_numpy(zero_copy_only=False))
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_time(kind):
        return _times(array)
    if pa.types.is_duration(kind):
        return _of_values(array.view(pa.int64()), lambda count: _duration(count, PER_SECOND[kind.unit]))
    try:
        return array.cast(STRING)
    except pa.ArrowInvalid:  # bytes that are no UTF-8
        return _of_values(array, lambda value: _utf8(value) or value.hex())
    except pa.ArrowNotImplementedError:
        return _of_values(array)


def _of_values(array: pa.Array, shown: Callable[[Any], str] = str) -> pa.Array:
    return pa.array([None if value is None else shown(value) for value in array.to_pylist()], STRING)


def _times(array: pa.Array) -> pa.Array:
    """Dates and times. Python does not hold all of them, and Arrow writes wrong dates for some that it does not."""
    kind = array.type
    days = pa.types.is_date32(kind)
    numbers = array.view(pa.int32() if days or pa.types.is_time32(kind) else pa.int64())
    unit = "days" if days else "ms" if pa.types.is_date64(kind) else kind.unit
    per_day = 1 if days else DAY_S * PER_SECOND[unit]
    first, stop = (0, per_day) if pa.types.is_time(kind) else (FIRST_DAY * per_day, STOP_DAY * per_day)
    good = pc.and_(pc.greater_equal(numbers, max(first, -MOST)), pc.less(numbers, min(stop, MOST)))
    since = "" if pa.types.is_time(kind) else " since 1970"
    held = pc.if_else(good, array, pa.scalar(None, kind))
    try:
        strings = held.cast(STRING)
    except pa.ArrowInvalid:  # a time zone that is not known here
        strings = held.cast(pa.timestamp(kind.unit, "UTC")).cast(STRING)
    for pattern, short in AS_PYTHON:
        strings = pc.replace_substring_regex(strings, pattern, short)
    if pc.all(good, min_count=0).as_py():
        return strings
    return pc.if_else(good, strings, _followed(numbers.cast(STRING), f" {unit}{since}"))


def _followed(strings: pa.Array, end: str) -> pa.Array:
    return pc.binary_join_element_wise(strings, pa.scalar(end, STRING), pa.scalar("", STRING))


def _duration(count: int, per_second: int) -> str:
    """Days, hours, minutes and seconds. count : of the parts of which a second has ``per_second``"""
    seconds, part = divmod(abs(count), per_second)
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // DAY_S
    shown = f"{hours % 24}:{minutes % 60:02}:{seconds % 60:02}"
    if part:
        shown += f".{part:0{len(str(per_second)) - 1}}"
    if days:
        shown = f"{days} day{'s' * (days > 1)}, {shown}"
    return f"-{shown}" if count < 0 else shown


def _utf8(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _json(array: pa.Array) -> list[str]:
    """Each value as JSON. A struct may have two fields of one name, of which Python makes no dictionary."""
    kind = array.type
    valid = array.is_valid().to_pylist()
    if isinstance(kind, pa.BaseExtensionType):
        return _json(array.storage) if pa.types.is_nested(kind.storage_type) else _quoted(array)
    if pa.types.is_struct(kind):
        names = [json.dumps(field.name, ensure_ascii=False) for field in kind]
        columns = [_json(array.field(at)) for at in range(kind.num_fields)]
        lines = zip(*columns, strict=True) if columns else ((),) * len(array)
        found = [f"{{{', '.join(map(': '.join, zip(names, line, strict=True)))}}}" for line in lines]
    elif pa.types.is_map(kind):
        keys, items = shown_strings(array.keys).to_pylist(), _json(array.items)
        pairs = [f"{json.dumps(key, ensure_ascii=False)}: {item}" for key, item in zip(keys, items, strict=True)]
        found = [f"{{{', '.join(own)}}}" for own in _in_lists(array, pairs)]
    elif pa.types.is_nested(kind) and not pa.types.is_union(kind):
        found = [f"[{', '.join(own)}]" for own in _in_lists(array, _json(array.values))]
    elif pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        finite = (pc.is_finite(array) if pa.types.is_floating(kind) else array.is_valid()).to_pylist()
        strings = array.cast(STRING).to_pylist()
        found = [one if good else json.dumps(one) for one, good in zip(strings, finite, strict=True)]
    else:
        found = _quoted(array)
    return [one if use else "null" for one, use in zip(found, valid, strict=True)]


def _quoted(array: pa.Array) -> list[str]:
    return [json.dumps(one, ensure_ascii=False) for one in _shown(array).to_pylist()]


def _in_lists(array: pa.Array, items: list[str]) -> Iterator[list[str]]:
    """The items of each list. items : of all of ``array.values``, also those before its first list"""
    if pa.types.is_fixed_size_list(array.type):
        size = array.type.list_size
        yield from (items[size * at : size * (at + 1)] for at in range(array.offset, array.offset + len(array)))
    elif pa.types.is_list_view(array.type) or pa.types.is_large_list_view(array.type):
        for first, size in zip(array.offsets.to_pylist(), array.sizes.to_pylist(), strict=True):
            yield items[first : first + size]
    else:
        for first, stop in itertools.pairwise(array.offsets.to_pylist()):
            yield items[first:stop]
