"""Parquet in; batches of wanted columns out, within bounds whatever a file says of itself."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clustering.errors import InputError
from clustering.runs.storage import has_extension_types
from clustering.sources.formats.column_types import column_number, find_column, plain
from clustering.sources.formats.issues import Issues

DENSE_BYTES = 1 << 30  # of a batch in the worst case, where equal values cannot be read as one
UNPACKED_BYTES = 4 << 30  # of the wanted columns of a row group; of a Parquet file within gzip, on disk
FOOTER_BYTES = 32 << 20  # of a Parquet file; a crafted footer takes 240 times its size in memory
# Types of pyarrow itself. Another type may be registered by a library that runs what its bytes say.
KNOWN_EXTENSIONS = ("arrow.uuid", "arrow.json", "arrow.bool8", "arrow.opaque", "arrow.fixed_shape_tensor")
Position = tuple[int, list[str]]  # of a column: its number among those of the top, and the path within it


@dataclass(frozen=True)
class Limits:
    rows: int  # of a batch
    batch_bytes: int  # of a batch's values, written out
    value_bytes: int


def open_table(source: Any) -> pq.ParquetFile:
    """Raises: InputError for a footer that is too long to be parsed, and for types that may run code."""
    size = source.seek(0, io.SEEK_END)
    source.seek(max(0, size - 8))
    tail = source.read(8)
    footer_bytes = int.from_bytes(tail[:4], "little")
    if tail[4:] == b"PAR1" and footer_bytes > FOOTER_BYTES:
        raise InputError(
            [f"its footer takes {footer_bytes:,} bytes; at most {FOOTER_BYTES:,} are read. Write larger row groups."]
        )
    if tail[4:] == b"PAR1" and has_extension_types(source):
        source.seek(max(0, size - 8 - footer_bytes))
        _check_extensions(source.read(footer_bytes))
    source.seek(0)
    return pq.ParquetFile(source)


def _check_extensions(footer: bytes) -> None:
    """Refuse extension types that are not pyarrow's own: reading one may run code that the file holds.

    The schema is searched as bytes, because parsing it already creates the types.
    Raises: InputError
    """
    found = re.findall(rb"ARROW:schema.{0,12}?([A-Za-z0-9+/]{16,}={0,2})", footer, re.DOTALL)
    names = set()
    for encoded in found:
        raw = base64.b64decode(encoded[: len(encoded) // 4 * 4])
        for match in re.finditer(rb"(?<=\0)[\w-]+(?:\.[\w-]+)+(?=\0)", raw):  # behind its length, whose last byte is 0
            if raw[max(0, match.start() - 4) : match.start()] == len(match[0]).to_bytes(4, "little"):
                names.add(match[0].decode())
    unknown = sorted(names - set(KNOWN_EXTENSIONS))
    if unknown or not names or footer.count(b"ARROW:schema") != 1:
        shown = ", ".join(unknown[:5]) or "of an unknown name"
        raise InputError([f"it holds a column of an Arrow extension type ({shown}), which may run code when it is "
                          f"read. Write plain columns: strings, numbers, dates"])  # fmt: skip


class ColumnIndex:
    """Finds the columns of a schema by name."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self.names = list(schema.names)

    def position(self, name: str) -> Position | None:
        """The position of a column by its name, its path (``data.title``), or its number from 1.

        Raises: InputError for a name that several columns have.
        """
        if (top := find_column(self.names, name)) is not None:
            return top, []
        first, *path = name.split(".")
        if path and self.names.count(first) == 1:
            top = self.names.index(first)
            kind = self.schema.field(top).type
            for key in path:
                if not pa.types.is_struct(kind) or kind.get_field_index(key) < 0:
                    return None
                kind = kind.field(key).type
            return top, path
        number = column_number(self.names, name)
        return None if number is None else (number, [])

    def type_of(self, position: Position) -> pa.DataType:
        kind = self.schema.field(position[0]).type
        for key in position[1]:
            kind = kind.field(key).type
        return kind

    def paths(self) -> list[str]:
        """The names of all columns, with those within structs."""
        found = []
        for column in self.schema:
            found.append(column.name)
            if pa.types.is_struct(column.type):
                found += [f"{column.name}.{inner.name}" for inner in column.type]
        return found


def is_text(kind: pa.DataType) -> bool:
    """Whether values of a type can be texts or ids."""
    if isinstance(kind, pa.BaseExtensionType):
        return kind.extension_name in ("arrow.uuid", "arrow.json")
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return not (pa.types.is_nested(kind) or pa.types.is_interval(kind))


def is_uuid(kind: pa.DataType) -> bool:
    return isinstance(kind, pa.BaseExtensionType) and kind.extension_name == "arrow.uuid"


def count_rows(source: Any, groups: list[int] | None) -> int:
    """Rows of some row groups; of all where ``groups`` is None."""
    meta = open_table(source).metadata
    return sum(meta.row_group(group).num_rows for group in _row_groups(meta, groups))


def _row_groups(meta: pq.FileMetaData, groups: list[int] | None) -> list[int]:
    return list(range(meta.num_row_groups)) if groups is None else groups


def read_row_groups(
    source: Any, groups: list[int] | None, positions: dict[str, Position], texts: list[str], limits: Limits,
    errors: str, issues: Issues,
) -> Iterator[pa.Table]:  # fmt: skip
    """The wanted columns of some row groups: of ``texts`` as strings, of the others with their types.

    positions : of the wanted columns, as ``ColumnIndex.position`` returns them
    errors : strict or replace, for bytes that are not UTF-8
    Raises: InputError for a value or a row group that is too large, and for a text that is not UTF-8.
    """
    table = open_table(source)
    names = table.schema_arrow.names
    dotted = {name: ".".join([names[at], *path]) for name, (at, path) in positions.items()}
    number = 0
    for batch in _batches(table, source, groups, sorted(set(dotted.values())), limits.rows):
        columns = {}
        for name, (at, path) in positions.items():
            namesakes = names[:at].count(names[at])  # columns before it with the same name
            found = [n for n, other in enumerate(batch.schema.names) if other == names[at]]
            column = batch.column(found[namesakes] if len(found) > namesakes else found[0])
            for key in path:
                column = pc.struct_field(column, key)
            columns[name] = _no_view(column)
        for part in _slices(columns, len(batch), limits):
            yield pa.table({
                name: _text(column, name, number, errors, issues) if name in texts else _validated(column, name, number)
                for name, column in part.items()
            })  # fmt: skip
            number += len(next(iter(part.values())))


def _batches(
    table: pq.ParquetFile, source: Any, groups: list[int] | None, wanted: list[str], rows: int
) -> Iterator[pa.RecordBatch]:
    """Batches of bounded size, though a hundred bytes of Parquet can hold a long string a million times."""
    meta = table.metadata
    groups = _row_groups(meta, groups)
    leaves: dict[str, list[int]] = {name: [] for name in wanted}
    for at in range(meta.num_columns):
        path = meta.schema.column(at).path
        for name in wanted:
            if path == name or path.startswith(name + "."):
                leaves[name].append(at)
    # Equal strings can be read as one, but hashing them costs a third of the speed: only where they are long.
    single = [name for name in wanted if len(leaves[name]) == 1 and meta.schema.column(leaves[name][0]).path == name]
    compact = pq.ParquetFile(source, metadata=meta, read_dictionary=single, buffer_size=1 << 20)
    dictionary_columns: set[str] = set()
    most = rows
    for group in groups:
        info = meta.row_group(group)
        if info.total_byte_size * most <= DENSE_BYTES:
            continue
        # A record first: a broken footer is an error there, but pyarrow aborts in the metadata of its columns.
        try:
            first: Any = next(compact.iter_batches(1, row_groups=[group], columns=wanted), None)
        except OSError:  # delta encodings have no dictionary; any other error is raised below, too
            first = next(table.iter_batches(1, row_groups=[group], columns=wanted), None)
        chunks = [(name, info.column(at)) for name in wanted for at in leaves[name]] if first else []
        unpacked = sum(chunk.total_uncompressed_size for _, chunk in chunks)
        if unpacked > UNPACKED_BYTES:
            raise InputError([f"row group {group} unpacks to {unpacked:,} bytes of {', '.join(wanted)}; at most "
                              f"{UNPACKED_BYTES:,} are read. Write smaller row groups."])  # fmt: skip
        for name, chunk in chunks:
            codes = set(chunk.encodings)
            column = _leaf(first, name) if name in single else pa.nulls(1)
            has_dictionary = pa.types.is_dictionary(column.type) and not any("DELTA" in code for code in codes)
            if has_dictionary:  # any batch has the whole dictionary
                longest = pc.max(pc.binary_length(column.dictionary)).as_py() or 0
            elif chunk.physical_type != "BYTE_ARRAY":
                longest = meta.schema.column(leaves[name][0]).length if name in single else 8
            else:  # DELTA_BYTE_ARRAY repeats the start of the string before
                repeats = codes & {"PLAIN_DICTIONARY", "RLE_DICTIONARY", "DELTA_BYTE_ARRAY"}
                longest = chunk.total_uncompressed_size if repeats else 0
            if longest * rows > DENSE_BYTES:
                if has_dictionary and name in first.schema.names:  # pyarrow joins none within structs
                    dictionary_columns.add(name)
                else:
                    most = max(1, min(most, DENSE_BYTES // longest))
    table = pq.ParquetFile(source, metadata=meta, read_dictionary=list(dictionary_columns))
    return table.iter_batches(most, row_groups=groups, columns=wanted)  # type: ignore[no-any-return]


def _leaf(batch: pa.RecordBatch, name: str) -> pa.Array:
    """A column of a batch by its name, or by the path within structs."""
    if name in batch.schema.names:
        return batch.column(name)
    top, *path = name.split(".")
    return pc.struct_field(batch.column(top), path)


def _no_view(column: pa.Array) -> pa.Array:
    """pyarrow has few functions for view types."""
    if pa.types.is_string_view(column.type):
        return column.cast(pa.large_string())
    return column.cast(pa.large_binary()) if pa.types.is_binary_view(column.type) else column


def _slices(columns: dict[str, pa.Array], rows: int, limits: Limits) -> Iterator[dict[str, pa.Array]]:
    """Slices of a batch, small enough that their values, each written out, stay within the limit."""
    sizes = np.zeros(rows, np.int64)
    for name, column in columns.items():
        in_dictionary = pa.types.is_dictionary(column.type)
        values = column.dictionary if in_dictionary else column
        if not _is_bytes(values.type):
            if pa.types.is_nested(values.type):
                sizes += values.nbytes // max(rows, 1)
            continue
        lengths = pc.binary_length(values)
        longest = pc.max(lengths).as_py() or 0
        if longest > limits.value_bytes:
            raise InputError([f"column '{name}' holds a value of {longest:,} bytes; at most {limits.value_bytes:,} "
                              f"are read. Shorten it."])  # fmt: skip
        if longest * rows > limits.batch_bytes // len(columns):  # else any lengths fit
            sizes += np.asarray(pc.fill_null(lengths.take(column.indices) if in_dictionary else lengths, 0))
    start = 0
    while start < rows:
        count = max(1, int(np.searchsorted(np.cumsum(sizes[start:]), limits.batch_bytes, "right")))
        yield {name: column.slice(start, count) for name, column in columns.items()}
        start += count


def _is_bytes(kind: pa.DataType) -> bool:
    types = pa.types
    tests = (types.is_string, types.is_large_string, types.is_string_view, types.is_binary, types.is_large_binary,
             types.is_fixed_size_binary)  # fmt: skip
    return any(test(kind) for test in tests)


def _validated(column: pa.Array, name: str, number: int) -> pa.Array:
    """A column that is carried along. Raises: InputError for strings that are not UTF-8."""
    array = plain(column)
    try:
        array.validate(full=True)
    except pa.ArrowInvalid as error:
        words = " ".join(str(error).split())[:200]
        raise InputError(
            [f"column '{name}', from record {number + 1:,} on: {words}; leave it out of read.keep"]
        ) from None
    return array


def _text(column: pa.Array, name: str, number: int, errors: str, issues: Issues) -> pa.Array:
    """A column as strings; NaN and infinity are null."""
    array = plain(column)
    if pa.types.is_floating(array.type):
        array = pc.if_else(pc.is_finite(array), array, None)
    try:
        if pa.types.is_string(array.type):
            array.validate(full=True)  # what a file calls a string may hold any bytes
        return array.cast(pa.string())
    except pa.ArrowInvalid:
        if not _is_bytes(array.type):
            raise
    array = array.cast(pa.binary())
    values: list[str | None] = []
    for at, value in enumerate(array.to_pylist(), number + 1):
        try:
            values.append(value if value is None else value.decode())
        except UnicodeDecodeError as error:
            byte = f"byte {error.start:,} of the value is not UTF-8 (0x{value[error.start]:02x})"
            where = f"record {at:,}: column '{name}', {byte}"
            if errors == "strict":
                raise InputError([f"{where}; read.errors=replace puts U+FFFD in the place of such bytes"]) from None
            values.append(value.decode("utf-8", "replace"))
            issues.count("replaced", values[-1].count("\ufffd") if values[-1] else 1, where)
    return pa.array(values, pa.string())
