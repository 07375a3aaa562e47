"""members/ of a run in; the records that map.html shows out, as arrays and strings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clustering.kernels.topk import IntArray
from clustering.runs.directory import RunDir
from clustering.runs.index import read_index
from clustering.runs.parts import group_parts
from clustering.runs.storage import read_schema, read_table
from clustering.schema import Figures
from clustering.text.cells import STRING, cut_strings, one_line_strings, printable_strings, shown_strings

Map = Callable[..., Iterator[Any]]  # yields ``work(*args)`` of each call, in their order
NO_TIME, NO_VALUE = 2**32 - 1, 65_535
SOURCES = 65_000  # by which the page can filter; the rarest of more are one
KEPT_VALUES = 1_000  # likewise of a column of read.keep; one with more values is filtered by its words or its range
TEXT_CHARACTERS, CELL_CHARACTERS = 2_000, 300
OTHERS = "(others)"
ENDS = "[\x1e\x1f]"  # of strings in the page


@dataclass
class MapRecords:
    """The records of the points of the page, those of a point one after the other.

    counts : of each point; copies : of each in the run, None where the page has all of them
    arrays, cells : columns of numbers, and of strings, of which text_id is the first
    kinds : what the page knows of each column but text_id
    texts : the own text of each that differs from its point's, null for the others; None where there is none
    """

    counts: NDArray[np.uint32]
    copies: NDArray[np.uint32] | None
    arrays: dict[str, NDArray[Any]]
    cells: dict[str, pa.Array]
    kinds: list[Figures]
    texts: pa.Array | None


def collect_records(
    run: RunDir, rows: IntArray, position: IntArray, most: int, task_texts: int, most_tasks: int, mapped: Map
) -> MapRecords:
    """The records of some rows, read by tasks.

    rows : ascending; position : in the page, of each
    most : records of the page; of more, each point has its first ones
    """
    members = run / "members"
    groups = [group.names for group in group_parts(members, task_texts, most_tasks)]
    copies = None
    shares: Iterator[NDArray[np.int32] | None] = (None for _ in groups)
    if read_index(members).rows > most:
        counted = list(mapped(_count_records, ((run, names, rows) for names in groups)))
        of_row = np.zeros(rows.size, np.int64)
        for at, count in counted:
            of_row[at] += count
        each = _share(of_row, most)
        if each < of_row.max(initial=0):
            copies = np.empty(rows.size, np.uint32)
            copies[position] = of_row
            shares = _left(each, rows.size, counted)
    calls = ((run, names, rows, share) for names, share in zip(groups, shares, strict=True))
    table = pa.concat_tables(mapped(_read_records, calls))
    point = position[table["row"].to_numpy()]
    order = np.argsort(point, kind="stable")
    counts = np.bincount(point, minlength=position.size).astype(np.uint32)
    texts = _combined(table["text"]).take(pa.array(order)) if "text" in table.column_names else None
    texts = None if texts is None or texts.null_count == len(texts) else texts
    table = table.select([name for name in table.column_names if name != "text"])
    return MapRecords(counts, copies, *_columns(table, order, _column_types(run)), texts)


def _column_types(run: RunDir) -> dict[str, pa.DataType]:
    """Of the values of the columns of members/, by name."""
    layout = read_schema(run / "members" / read_index(run / "members").names[0])
    kinds = {field.name: field.type for field in layout}
    return {name: kind.value_type if pa.types.is_dictionary(kind) else kind for name, kind in kinds.items()}


def _share(counts: IntArray, most: int) -> int:
    """The records that each point may have, so that there are ``most`` at most; one at least. counts : of each"""
    each = max(int(counts.max(initial=1)), 1)
    while each > 1 and np.minimum(counts, each).sum() > most:
        each //= 2
    return each


def _left(
    each: int, n_rows: int, counted: list[tuple[NDArray[np.int32], NDArray[np.int32]]]
) -> Iterator[NDArray[np.int32]]:
    """For each group, how many records every row may still have of it. counted : of ``_count_records`` of the groups"""
    left = np.full(n_rows, each, np.int32)
    for at, count in counted:
        yield left.copy()
        left[at] = np.maximum(left[at] - count, 0)


def _held(rows: IntArray, row: IntArray) -> tuple[IntArray, NDArray[np.bool_]]:
    """Where each row stands in ``rows``, which ascend, and whether it does."""
    at = np.minimum(np.searchsorted(rows, row), rows.size - 1)
    return at, rows[at] == row


def _count_records(run: RunDir, names: list[str], rows: IntArray) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """How many records some parts of members/ have of some rows: the positions of these in ``rows``, and the counts."""
    found = np.concatenate([read_table(run / "members" / name, columns=["row"])["row"].to_numpy() for name in names])
    at, held = _held(rows, found)
    distinct, counts = np.unique(at[held], return_counts=True)
    return distinct.astype(np.int32), counts.astype(np.int32)


def _read_records(run: RunDir, names: list[str], rows: IntArray, share: NDArray[np.int32] | None = None) -> pa.Table:
    """The records of some parts of members/ whose text is one of some rows, as the page shows them.

    rows : ascending; column ``row`` of the result counts in them
    share : the first records that each row may have; None: all
    """
    found = []
    seen = np.zeros(rows.size if share is not None else 0, np.int32)
    for part in names:
        table = read_table(run / "members" / part)
        at, held = _held(rows, table["row"].to_numpy())
        if share is not None:
            own = np.flatnonzero(held)
            order = own[np.argsort(at[own], kind="stable")]
            rank = np.arange(order.size) - np.searchsorted(at[order], at[order])
            held[order] = rank + seen[at[order]] < share[at[order]]
            np.add.at(seen, at[own], 1)
        if not held.all():
            table, at = table.filter(pa.array(held)), at[held]
        columns = {name: _as_shown(table[name], name) for name in table.column_names if name != "row"}
        found.append(pa.table({"row": at.astype(np.int32), **columns}))
    return pa.concat_tables(found)


def _as_shown(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray | pa.Array:
    """A column of members/ as the page has it: short strings, so that few bytes leave the task; times as they are.

    People copy ids and follow links, so these stay as they are.
    """
    if name == "time":
        return column
    strings = shown_strings(column)
    if name == "text":
        return cut_strings(printable_strings(strings), TEXT_CHARACTERS)
    if name in ("text_id", "link"):
        return pc.replace_substring_regex(strings, ENDS, "\ufffd")
    return one_line_strings(strings, CELL_CHARACTERS)


def _columns(
    table: pa.Table, order: IntArray, types: dict[str, pa.DataType]
) -> tuple[dict[str, NDArray[Any]], dict[str, pa.Array], list[Figures]]:
    """The arrays, strings and kinds of all columns, one column after the other.

    table : of ``_read_records``; order : of its lines in the page; types : of the columns in the run
    """
    indices = pa.array(order)
    arrays: dict[str, NDArray[Any]] = {}
    cells: dict[str, pa.Array] = {}
    kinds: list[Figures] = []
    for name in ["text_id", *(name for name in table.column_names if name not in ("row", "text_id"))]:
        column = _combined(table[name]).take(indices)
        table = table.drop_columns(name)
        if name == "text_id":
            cells[name] = column
            continue
        if name == "time" and column.null_count == len(column):
            continue  # the page would show a time that no record has
        if name == "time":
            arrays[name], facts = _times(column)
        elif name == "link":
            cells[name], facts = column, {"kind": "link"}
        else:
            source = name == "source"
            nested = pa.types.is_nested(types[name])
            codes, values = _categories(column, 0 if nested else SOURCES if source else KEPT_VALUES, source)
            if codes is None:
                cells[name], facts = column, {"kind": "text"}
            else:
                arrays[name], facts = codes, {"kind": "category", "values": values}
            facts |= _range(column, types[name])
        kinds.append({"name": name, **facts})
    return arrays, cells, kinds


def _combined(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _times(column: pa.Array) -> tuple[NDArray[np.uint32], Figures]:
    """Steps since the first time, NO_TIME for none; first (seconds since 1970) and step (in seconds) for the page."""
    micros = column.cast(pa.timestamp("us", "UTC")).cast(pa.int64())
    known = micros.is_valid().to_numpy(zero_copy_only=False)
    values = pc.fill_null(micros, 0).to_numpy() // 1_000_000
    first, last = (int(values[known].min()), int(values[known].max())) if known.any() else (0, 0)
    step = (last - first) // (NO_TIME - 1) + 1
    steps = np.where(known, (values - first) // step, NO_TIME).astype(np.uint32)
    return steps, {"kind": "time", "first": first, "last": last, "step": step}


def _range(column: pa.Array, kind: pa.DataType) -> Figures:
    """The least and the most of numbers, that the page filters by; nothing for others. column : as people see it"""
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        return {}
    numbers = column.cast(pa.float64())
    ends = pc.min_max(numbers.filter(pc.is_finite(numbers))).as_py()
    return {} if ends["min"] is None else {"least": ends["min"], "most": ends["max"]}


def _categories(column: pa.Array, most: int, fold: bool) -> tuple[NDArray[np.uint16] | None, list[str]]:
    """A number for each string, the most frequent first, NO_VALUE for none; None for a column with too many values.

    column : as people see it, so that what looks alike is one; fold : the rarest values of too many become one
    """
    coded = pc.if_else(pc.equal(column, ""), pa.scalar(None, STRING), column).dictionary_encode()
    if len(coded.dictionary) > most and not fold:
        return None, []
    shown = coded.dictionary.to_pylist()
    codes = pc.fill_null(coded.indices, -1).to_numpy(zero_copy_only=False)
    counts = np.bincount(codes[codes >= 0], minlength=len(shown))
    ranked = sorted(range(len(shown)), key=lambda code: (-counts[code], shown[code]))
    number = np.full(len(shown) + 1, NO_VALUE, np.uint16)  # the last one is taken for no value
    number[ranked] = np.minimum(np.arange(len(shown)), most)
    values = [shown[code] for code in ranked[:most]]
    return number[codes], values + [OTHERS] * (len(ranked) > most)
