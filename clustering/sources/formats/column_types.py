"""Columns as each file has them in; columns of one type for all files out, and times in UTC; columns by name."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clustering.errors import InputError
from clustering.sources.formats.worded_times import worded_time
from clustering.text.cells import shown_strings

TIME = pa.timestamp("us", "UTC")
INTEGER = r"^(?:0|-?[1-9][0-9]{0,17})$"  # written as Python would write it
NUMBER = r"^-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,2})?$"  # that a float holds
LARGEST_EXACT = 1 << 53  # a float holds every integer up to here
INTEGER_DIGITS = 20
SECONDS = {"s": 1, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
FIRST_S = -62_135_596_800  # 1 January 1
FIRST_EPOCH_S = 1e8  # March 1973: smaller numbers are days of a month, of a spreadsheet, or seconds of a film
LAST_S = 253_402_300_800  # 1 January 10000: a larger number counts milliseconds or less
SPACES = r"[\s\p{Z}\x{200e}\x{200f}]+"  # browsers write marks of direction into dates, too
_COMPACT = re.compile(
    r"(?:19|20)\d\d(?:(?:0[1-9]|1[0-2])(?:(?:0[1-9]|[12]\d|3[01])(?:(?:[01]\d|2[0-3])[0-5]\d[0-5]\d)?)?)?"
)


def find_column(names: list[str], name: str) -> int | None:
    """The position of a name. Raises: InputError where it stands twice"""
    at = [number for number, other in enumerate(names) if other == name]
    if len(at) > 1:
        numbers = ", ".join(str(number + 1) for number in at[:10])
        raise InputError([f"column '{name}' stands {len(at)} times, as columns {numbers}; name one by its number"])
    return at[0] if at else None


def column_number(names: list[str], name: str) -> int | None:
    """The position of a column that is named by its number from 1."""
    return int(name) - 1 if re.fullmatch(r"[1-9]\d{0,6}", name) and int(name) <= len(names) else None


def plain(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """A column in a type that every reader of Parquet knows: no dictionaries, views or extensions."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        if kind.extension_name == "arrow.uuid":
            return pa.array(
                [None if one is None else str(uuid.UUID(bytes=one)) for one in array.storage.to_pylist()], pa.string()
            )
        return plain(array.storage)
    if pa.types.is_dictionary(kind):
        return plain(array.cast(kind.value_type))
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return array.cast(pa.string())
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return array.cast(pa.binary())
    if pa.types.is_float16(kind):
        return array.cast(pa.float32())
    return array


def infer_integers(column: pa.Array) -> pa.Array:
    """A column of a csv file: integers where all values are such, else strings; an empty value is null."""
    column = pc.if_else(pc.equal(column, ""), None, column)
    if column.null_count == len(column):
        return pa.nulls(len(column))
    return column.cast(pa.int64()) if _all_match(column, INTEGER) else column


def all_numeric(column: pa.Array) -> bool:
    """Whether all strings of a column are numbers."""
    return _all_match(column, NUMBER)


def _all_match(column: pa.Array, pattern: str) -> bool:
    first = next((value for value in column.slice(0, 64).to_pylist() if value is not None), None)
    if first is not None and not re.match(pattern, first):
        return False  # the first value decides for most columns
    return bool(pc.all(pc.match_substring_regex(column, pattern), min_count=0).as_py())


def common_type(kinds: Iterable[pa.DataType], ids: bool = False) -> pa.DataType:
    """The type that holds the values of all; string where no other does. ids : integers stay exact"""
    distinct = list(dict.fromkeys(kind for kind in kinds if not pa.types.is_null(kind)))
    if not distinct:
        return pa.string()
    if ids and len({pa.types.is_floating(kind) for kind in distinct}) > 1:
        return pa.string()
    try:
        schemas = [pa.schema([("one", kind)]) for kind in distinct]
        found = pa.unify_schemas(schemas, promote_options="permissive").field("one").type
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        return pa.string()
    if all(_holds(found, kind) for kind in distinct):
        return found
    # Nanoseconds reach only from 1677 to 2262, so their last digits go.
    return pa.timestamp("us", found.tz) if pa.types.is_timestamp(found) else pa.string()


def has_mixed_types(kinds: Iterable[pa.DataType], common: pa.DataType) -> bool:
    """Whether a common type is string only because types differ."""
    return pa.types.is_string(common) and not all(pa.types.is_string(kind) or pa.types.is_null(kind) for kind in kinds)


def concat_tables(tables: list[pa.Table]) -> tuple[pa.Table, set[str]]:
    """One table of several, its columns in common types; and the columns that are strings only because types differ."""
    kinds = {name: [table.schema.field(name).type for table in tables] for name in tables[0].schema.names}
    common = {name: common_type(types, ids=True) for name, types in kinds.items()}
    cast = [pa.table({name: as_type(table[name], kind) for name, kind in common.items()}) for table in tables]
    return pa.concat_tables(cast), {name for name, kind in common.items() if has_mixed_types(kinds[name], kind)}


def _holds(wide: pa.DataType, kind: pa.DataType) -> bool:
    """Whether the common type that Arrow finds holds each value of one of the types; it does not always.

    A float counts as one that holds integers: ``has_large_integers`` finds the exceptions.
    """
    if wide == kind or pa.types.is_null(kind):
        return True
    if pa.types.is_list(wide) and pa.types.is_list(kind):
        return _holds_within(wide.value_type, kind.value_type)
    if pa.types.is_struct(wide) and pa.types.is_struct(kind):
        return all(_holds_within(wide.field(held.name).type, held.type) for held in kind)
    if pa.types.is_integer(wide):
        signs = pa.types.is_signed_integer(wide), pa.types.is_signed_integer(kind)
        return not signs[1] or signs[0] if wide.bit_width > kind.bit_width else signs[0] == signs[1]
    if pa.types.is_decimal(wide) and pa.types.is_integer(kind):
        return bool(wide.precision - wide.scale >= INTEGER_DIGITS)
    if pa.types.is_floating(wide) and pa.types.is_decimal(kind):
        return False
    if pa.types.is_timestamp(wide) or pa.types.is_duration(wide):
        return bool(wide.unit != "ns")
    return not pa.types.is_nested(wide)


def _holds_within(wide: pa.DataType, kind: pa.DataType) -> bool:
    return _holds(wide, kind) and not (pa.types.is_floating(wide) and pa.types.is_integer(kind))


def has_large_integers(column: pa.Array) -> bool:
    """Whether a column holds integers that a float does not hold."""
    if not pa.types.is_integer(column.type) or column.type.bit_width < 64:
        return False
    ends = pc.min_max(column).as_py()
    return any(value is not None and abs(value) > LARGEST_EXACT for value in ends.values())


def as_type(column: pa.Array | pa.ChunkedArray, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    """A column cast to a type that ``common_type`` has returned; what has no strings of its own, as Python shows it."""
    if column.type == kind:
        return column
    if pa.types.is_timestamp(kind) and pa.types.is_timestamp(column.type) and column.type.unit == "ns":
        return column.cast(kind, safe=False)
    try:
        return column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        if not pa.types.is_string(kind):
            raise
    try:
        strings = pa.array([None if value is None else str(value) for value in column.to_pylist()], kind)
    except (OverflowError, ValueError):  # a time that Python does not hold, or a struct with two fields of one name
        strings = shown_strings(column).cast(kind)
    return strings if isinstance(column, pa.Array) else pa.chunked_array([strings])


def parse_times(column: pa.Array) -> tuple[pa.Array, int, str]:
    """A column as times. A time without a zone is in UTC.

    column : dates, times of any unit and zone, ISO 8601, RFC 5322, D.M.YYYY, English dates with the month in letters,
        seconds or milliseconds of the epoch (also as strings), YYYY, YYYYMM, YYYYMMDD and YYYYMMDDhhmmss
    Returns: timestamps in microseconds UTC, null for a value that is no time; how many these are; the first of them.
    """
    kind = column.type
    if pa.types.is_timestamp(kind):
        found = _cast(column, TIME if kind.tz else pa.timestamp("us"))
    elif pa.types.is_date(kind):
        found = _cast(column, pa.timestamp("us"))
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        found = _of_numbers(column)
    elif pa.types.is_string(kind):
        found = _of_strings(column)
    elif pa.types.is_binary(kind) and (strings := decoded(column)) is not None:
        return parse_times(strings)
    else:
        found = pa.nulls(len(column), TIME)
    found = found.cast(pa.timestamp("us")).cast(TIME) if found.type != TIME else found
    lost = pc.and_(pc.is_null(found), pc.is_valid(column))
    lost = pc.and_(lost, pc.not_equal(column, "")) if pa.types.is_string(kind) else lost
    lost = pc.fill_null(lost, False)
    count = pc.sum(lost).as_py() or 0
    return found, count, _shown(column.filter(lost)[0]) if count else ""


def small_times(column: pa.Array, times: pa.Array) -> int:
    """How many times come of numbers that are hardly seconds since 1970. times : of ``parse_times``"""
    try:
        seconds = column.cast(pa.float64(), safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return 0
    as_read = pc.divide(times.cast(pa.int64()).cast(pa.float64()), 1e6)
    small = pc.and_(pc.less(pc.abs(seconds), FIRST_EPOCH_S), pc.less(pc.abs(pc.subtract(as_read, seconds)), 1))
    return pc.sum(small).as_py() or 0


def _shown(value: pa.Scalar) -> str:
    try:
        return repr(value.as_py())[:60]
    except (OverflowError, ValueError):  # Python has no such time
        return "time outside of the years 1 to 9999"


def _cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """A column of days or times in microseconds; null outside of the years 1 to 9999."""
    days = pa.types.is_date32(column.type)
    unit = 86_400 if days else 1e-3 if pa.types.is_date64(column.type) else SECONDS[column.type.unit]
    numbers = (column.cast(pa.int32()) if days else column).cast(pa.int64())
    seconds = pc.multiply(numbers.cast(pa.float64(), safe=False), float(unit))
    good = pc.and_(pc.greater_equal(seconds, FIRST_S), pc.less(seconds, LAST_S))
    return pc.if_else(good, column, None).cast(kind, safe=False)


def _of_numbers(column: pa.Array) -> pa.Array:
    values = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    integers = values == np.floor(values)
    compact = integers & np.any(
        [(values >= 1900 * unit) & (values < 2100 * unit) for unit in (1, 1e2, 1e4, 1e10)], axis=0
    )
    size = np.abs(values)
    with np.errstate(invalid="ignore", over="ignore"):
        unit = np.select(
            [size < LAST_S, size < LAST_S * 1e3, size < LAST_S * 1e6, size < LAST_S * 1e9], [1e6, 1e3, 1, 1e-3], np.nan
        )
        micros = values * unit
        good = (micros >= FIRST_S * 1e6) & (micros < LAST_S * 1e6)
        found = pa.array(np.where(good, micros, 0).astype(np.int64), mask=~good).cast(TIME)
    written = [f"{value:.0f}" if use else "" for value, use in zip(values, compact, strict=True)]
    named = np.array([bool(_COMPACT.fullmatch(text)) for text in written], bool)
    if not named.any():
        return found
    full = [text + "0101000000"[len(text) - 4 :] if use else "" for text, use in zip(written, named, strict=True)]
    days = [f"{t[:4]}-{t[4:6]}-{t[6:8]}T{t[8:10]}:{t[10:12]}:{t[12:]}" if t else None for t in full]
    return pc.if_else(pa.array(named), _iso(pa.array(days, pa.string())), found)  # 30 February is null


def _iso(column: pa.Array) -> pa.Array:
    import pandas as pd  # takes half a second, which only a column of times needs

    plain_zone = pc.replace_substring_regex(column, r"(\d) ?(?:UTC|GMT)$", r"\1Z")  # as BigQuery writes times
    parsed = pd.to_datetime(
        pd.Series(plain_zone.to_pylist(), dtype=object), format="ISO8601", utc=True, errors="coerce"
    )
    return _cast(pa.Array.from_pandas(parsed), TIME)


def _of_strings(column: pa.Array) -> pa.Array:
    spaced = pc.replace_substring_regex(column, SPACES, " ")
    coded = pc.utf8_trim_whitespace(spaced).dictionary_encode()
    distinct = pc.replace_substring_regex(coded.dictionary, r"^(\d\d?)\.(\d\d?)\.(\d{4})\b,?", r"\3-\2-\1")
    numeric = pc.match_substring_regex(distinct, r"^[+-]?[0-9]{5,19}(?:\.[0-9]*)?$")
    numbers = pc.if_else(numeric, distinct, None)
    dated = pc.match_substring_regex(distinct, "^[0-9]")  # pandas reads "now", too
    found = _iso(pc.if_else(pc.and_not(dated, numeric), distinct, None))
    if pc.any(numeric).as_py():
        found = pc.coalesce(_of_numbers(numbers.cast(pa.float64())), found)
    left = np.flatnonzero(pc.is_null(found).to_numpy(zero_copy_only=False))
    if len(left):
        values = found.cast(pa.int64()).to_pylist()
        for at in left.tolist():
            micros = worded_time(distinct[at].as_py() or "")
            if micros is not None and FIRST_S <= micros / 1e6 < LAST_S:
                values[at] = micros
        found = pa.array(values, pa.int64()).cast(TIME)
    return found.take(coded.indices)


def decoded(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray | None:
    """A column of bytes as strings; None where some are not UTF-8."""
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        return None
