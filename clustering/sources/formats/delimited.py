"""csv and tsv of a known dialect in; batches of wanted columns out, malformed records counted."""

from __future__ import annotations

import csv
import io
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from clustering.sources.formats.dialects import NO_DELIMITER, Dialect
from clustering.sources.formats.issues import Issues, excerpt
from clustering.sources.formats.record_splitter import RecordSplitter

csv.field_size_limit(1 << 30)
_LINE_MARK = re.compile(rb"^\xef\xbb\xbf", re.M)  # a byte order mark within a file that was joined of several


def read_records(
    blocks: Iterable[tuple[bytes, bool]], dialect: Dialect, columns: dict[str, int], texts: Collection[str],
    max_bytes: int, issues: Issues, header: bytes = b"", ahead: Callable[[], tuple[bytes, bool]] | None = None,
) -> Iterator[pa.Table]:  # fmt: skip
    """The wanted columns of a file as strings, some thousand records at a time.

    blocks : UTF-8, each with whether it is the last
    columns : the position of each wanted column, from 0
    texts : those columns in which a cell that is one of the dialect's ``nulls`` is null
    max_bytes : of a record
    header : the line that names the columns, where it does not stand among the skipped ones
    ahead : the bytes behind a piece of a file, see ``RecordSplitter.finish``
    Raises: InputError for a record that is too long; CutError for a piece whose last record goes on behind it.
    """
    splitter = RecordSplitter(dialect, max_bytes, issues)
    skip, rest = dialect.skip, b""
    for block, final in _with_line_feeds(blocks) if dialect.carriage else blocks:
        data = rest + block if rest else block
        while skip and (end := data.find(b"\n")) >= 0:
            header, data, skip = data[:end].rstrip(b"\r"), data[end + 1 :], skip - 1
        if skip and not final:
            rest = data
            continue
        line = splitter.line
        chunks, rest = splitter.split(b"" if skip else data, final)
        for chunk in chunks:
            yield _parsed(chunk, line, dialect, header, columns, texts, issues)
            line += chunk.count(b"\n")
    if rest and ahead:
        yield _parsed(splitter.finish(rest, *ahead()), splitter.line, dialect, header, columns, texts, issues)


def _parsed(
    chunk: bytes, line: int, dialect: Dialect, header: bytes, columns: dict[str, int], texts: Collection[str],
    issues: Issues,
) -> pa.Table:  # fmt: skip
    if dialect.delimiter == NO_DELIMITER:
        chunk = _LINE_MARK.sub(b"", chunk).replace(NO_DELIMITER.encode(), b" ")
    if header and header in chunk:
        chunk = _without_headers(chunk, header, line, issues)
    return _Chunk(chunk, line, dialect).parse(columns, texts, issues)


def _with_line_feeds(blocks: Iterable[tuple[bytes, bool]]) -> Iterator[tuple[bytes, bool]]:
    """Blocks in which every line ends with a line feed."""
    rest = b""
    for block, final in blocks:
        data = rest + block
        rest = b"\r" if data.endswith(b"\r") and not final else b""  # a line feed may follow
        yield data[: len(data) - len(rest)].replace(b"\r\n", b"\n").replace(b"\r", b"\n"), final


def _without_headers(data: bytes, header: bytes, line: int, issues: Issues) -> bytes:
    """Records without the lines that repeat the header, as where files were joined to one; they are counted."""
    repeated = re.compile(rb"^(?:\xef\xbb\xbf)?%b(?=\r?$)" % re.escape(header), re.M)
    first = repeated.search(data)
    if first is None:
        return data
    data, count = repeated.subn(b"", data)  # an empty line keeps the count of lines
    issues.count("headers", count, f"line {line + data.count(10, 0, first.start()):,}")
    return data


@dataclass(frozen=True)
class _Chunk:
    """Whole records, the line of the file that they begin on, and how they are written."""

    data: bytes
    line: int
    dialect: Dialect

    def parse(self, columns: dict[str, int], texts: Collection[str], issues: Issues) -> pa.Table:
        """The wanted columns as strings; pyarrow is asked again, for nulls, only where some cell may be one."""
        dialect, readable = self.dialect, self
        if dialect.escape == "\\" and r"\N" in dialect.nulls and rb"\N" in self.data:  # pyarrow would read N
            readable = replace(self, data=_unquoted_cell(dialect, [r"\N"]).sub(rb"\\\\N", self.data))
        table = readable.table(columns, (), issues)
        nulls = pa.array(list(dialect.nulls), pa.string())
        with_nulls = [name for name in texts if pc.any(pc.is_in(table[name], nulls)).as_py()]
        if not with_nulls:
            return table
        # pyarrow knows which of these cells are quoted and thus texts.
        found = readable.table({name: columns[name] for name in with_nulls}, dialect.nulls, Issues())
        issues.count("nulls", sum(found[name].null_count for name in with_nulls), self._first_null)
        return pa.table({name: found[name] if name in with_nulls else table[name] for name in columns})

    def table(self, columns: dict[str, int], nulls: Collection[str], issues: Issues) -> pa.Table:
        """The columns as strings; an unquoted cell that is one of ``nulls`` is null."""
        invalid: list[Any] = []

        def skip(row: Any) -> str:
            invalid.append(row)
            return "skip"

        dialect = self.dialect
        names = [f"f{number}" for number in range(dialect.width)]
        wanted = list(dict.fromkeys(names[position] for position in columns.values()))
        data = self.data
        if data.startswith(BOM_UTF8):  # of the first cell, as where files were joined; pyarrow leaves one out
            data = BOM_UTF8 + data
        block_size = max(len(data) + 1, 1 << 16)
        table = pa.csv.read_csv(
            pa.BufferReader(data),
            read_options=pa.csv.ReadOptions(column_names=names, block_size=block_size, use_threads=False),
            parse_options=pa.csv.ParseOptions(
                delimiter=dialect.delimiter, quote_char=dialect.quote or False, escape_char=dialect.escape or False,
                newlines_in_values=dialect.quote is not None, invalid_row_handler=skip,
            ),
            convert_options=pa.csv.ConvertOptions(
                include_columns=wanted, column_types=dict.fromkeys(wanted, pa.string()),  # 007 stays 007
                strings_can_be_null=bool(nulls), quoted_strings_can_be_null=False, null_values=list(nulls),
            ),
        )  # fmt: skip
        if invalid:
            table = self._with_surplus_empty(table, invalid, nulls, issues)
        return pa.table({name: table[names[position]] for name, position in columns.items()})

    def _with_surplus_empty(
        self, table: pa.Table, invalid: list[Any], nulls: Collection[str], issues: Issues
    ) -> pa.Table:
        """Put back the rows whose surplus fields are all empty; count the others as malformed."""
        width = self.dialect.width
        sound: dict[int, list[str]] = {}
        for row in invalid:
            try:
                fields = next(self.dialect.rows(io.StringIO(row.text, newline="")), [])
            except csv.Error:
                fields = []
            if len(fields) > width and not any(cell.strip() for cell in fields[width:]):
                sound[row.number - 1] = fields
            else:
                issues.count("malformed", 1, partial(self._malformed, row))
        if not sound:
            return table
        dropped = {row.number - 1 for row in invalid} - sound.keys()
        in_table = [n for n in range(len(table) + len(invalid)) if n not in dropped and n not in sound]
        cells = {name: [fields[int(name[1:])] for fields in sound.values()] for name in table.schema.names}
        put_back = pa.table({
            name: pa.array([None if cell in nulls else cell for cell in column], pa.string())
            for name, column in cells.items()
        })  # fmt: skip
        order = np.argsort([*in_table, *sound], kind="stable")
        return pa.concat_tables([table, put_back]).take(order)

    def _malformed(self, row: Any) -> str:
        at = max((b"\n" + self.data).find(f"\n{row.text}".encode()), 0)
        return (f"line {self.line + self.data.count(10, 0, at):,}: {row.actual_columns} fields where the header has "
                f"{row.expected_columns}: {excerpt(row.text)}")  # fmt: skip

    def _first_null(self) -> str:
        found = _unquoted_cell(self.dialect, self.dialect.nulls).search(self.data)
        return f"line {self.line + self.data.count(10, 0, found.start()):,}: {found[1].decode()}" if found else ""


def _unquoted_cell(dialect: Dialect, values: Collection[str]) -> re.Pattern[bytes]:
    """A pattern of unquoted cells that hold one of some values and nothing else."""
    edge = re.escape(dialect.delimiter.encode())
    words = b"|".join(re.escape(value.encode()) for value in values)
    return re.compile(rb"(?:^|(?<=%b))(%b)(?=%b|\r?$)" % (edge, words, edge), re.M)
