"""csv and tsv of a known dialect in, batches of wanted columns out; what is malformed is counted."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from clustering.errors import InputError
from clustering.sources.formats.dialects import SWALLOWED_LINES, Dialect
from clustering.sources.formats.issues import Issues, excerpt

TAIL_BYTES = 4096  # behind a field, in which the record ends and the next begins
MANY_LINES = 50  # of one field; a warning
WINDOW = 1 << 20  # bytes whose quotes are looked at in one go
csv.field_size_limit(1 << 30)


class Splitter:
    """Cut blocks of a file into whole records, and mend those whose quotes would swallow others.

    A quote opens a field only where the field begins, and closes it only where the field ends. One that is opened and
    not closed so, or closed after lines that look like records of their own, is a character like any other.
    """

    def __init__(self, dialect: Dialect, longest: int, issues: Issues) -> None:
        self.dialect, self.longest, self.issues = dialect, longest, issues
        self.quote = (dialect.quote or "").encode()
        self.escape = (dialect.escape or "").encode()
        self.delimiter = dialect.delimiter.encode()
        self.comment = (dialect.comment or "").encode()
        self.line = 1 + dialect.skip
        self.plain = re.compile(
            rb"(?:%s[\s\S]|[^%s\n])*" % (re.escape(self.escape) or b"(?!)", re.escape(self.delimiter))
        )

    def split(self, data: bytes, final: bool) -> tuple[list[bytes], bytes]:
        """Whole records in the form that pyarrow reads, in chunks, and the bytes of the next that is not whole yet.

        Raises: InputError for a record that is too long.
        """
        if final and data and not data.endswith(b"\n"):
            data += b"\n"
        cut = data.rfind(b"\n") + 1
        if self.comment:
            data, cut = self._without_comments(data, cut)
        if not self.quote or data.find(self.quote, 0, cut) < 0:
            chunks, rest = [data[:cut]], data[cut:]
        else:
            chunks, rest = self._mended(data, cut, final)
        done = data.count(b"\n", 0, len(data) - len(rest))
        if len(rest) > self.longest:
            raise InputError([f"line {self.line + done:,}: a record is longer than {self.longest:,} bytes; a quote "
                              f"that is never closed makes one of many"])  # fmt: skip
        self.line += done
        return [chunk for chunk in chunks if chunk], rest

    def _without_comments(self, data: bytes, cut: int) -> tuple[bytes, int]:
        lines = data[:cut].split(b"\n")
        kept = [b"" if line.startswith(self.comment) else line for line in lines]  # an empty line keeps the count
        body = b"\n".join(kept)
        return body + data[cut:], len(body)

    def _mended(self, data: bytes, cut: int, final: bool) -> tuple[list[bytes], bytes]:
        chunks: list[bytes] = []
        at = 0
        while 0 <= at < cut:
            end = cut if cut - at <= WINDOW else data.rfind(b"\n", at, at + WINDOW) + 1 or data.find(b"\n", at) + 1
            chunk, at, whole = self._window(data, at, end, final)
            chunks.append(chunk)
            if not whole:
                break
        return chunks, data[at:]

    def _window(self, data: bytes, at: int, cut: int, final: bool) -> tuple[bytes, int, bool]:
        """The records that begin in a window, where the next begins, and whether it can be read yet."""
        starts, odd = self._odd_lines(data[at:cut])
        out: list[bytes] = []
        for start in (starts[odd] + at).tolist():
            if start < at:
                continue  # within a record that is done
            end, mended = self._record(data, start, final)
            if end < 0:
                return b"".join([*out, data[at:start]]), start, False
            out += [data[at:start], data[start:end] if mended is None else mended]
            at = end
        return b"".join([*out, data[at:cut]]), max(at, cut), True

    def _odd_lines(self, data: bytes) -> tuple[Any, Any]:
        """Where lines start, and which have quotes that do not open and close whole fields within the line."""
        bytes_ = np.frombuffer(data, np.uint8)
        ends = np.flatnonzero(bytes_ == 10)
        starts = np.concatenate([[0], ends[:-1] + 1])
        quotes = np.flatnonzero(bytes_ == self.quote[0])
        odd = np.zeros(len(starts), np.bool_)
        if self.escape:
            before = bytes_[quotes - 1] == self.escape[0]
            before[:1] &= quotes[:1] > 0
            double = before & (bytes_[quotes - 2] == self.escape[0])
            odd[np.searchsorted(ends, quotes[double])] = True
            quotes = quotes[~before]
        line = np.searchsorted(ends, quotes)
        first = np.searchsorted(quotes, starts)
        counts = np.diff(np.append(first, len(quotes)))
        opens = (np.arange(len(quotes)) - first[line]) % 2 == 0
        previous, following = bytes_[quotes - 1], bytes_[quotes + 1]
        if len(quotes) and quotes[0] == 0:
            previous = np.concatenate([[10], previous[1:]])
        edge = (self.delimiter[0], 10, self.quote[0])
        wrong = np.where(opens, ~np.isin(previous, edge), ~np.isin(following, (*edge, 13)))
        odd[line[wrong]] = True
        odd |= counts % 2 == 1
        return starts, odd

    def _record(self, data: bytes, start: int, final: bool) -> tuple[int, bytes | None]:
        """Where the record that starts here ends (-1: not yet), and what stands for it where its quotes mislead."""
        fields: list[bytes] = []
        at, strays, wide = start, 0, 0
        while True:
            close = self._closing(data, at) if data.startswith(self.quote, at) else -2
            if close == -1 and not final and len(data) - at <= self.longest:
                return -1, None  # it may be closed in what comes
            if close >= 0 and (lines := data.count(b"\n", at, close)):
                if not final and len(data) <= close + TAIL_BYTES and data.count(b"\n", close) < 2:
                    return -1, None  # what follows tells whether it is a field
                if self._swallows(data[at:close], fields, data[close + 1 : close + 1 + TAIL_BYTES]):
                    close = -3
                wide = max(wide, lines)
            if close >= 0:
                fields.append(data[at : close + 1])
                at = close + 1
            else:
                found = self.plain.match(data, at)
                end = found.end() if found else at
                if end >= len(data) and not final:
                    return -1, None
                text = data[at:end].rstrip(b"\r") if data[end : end + 1] in (b"\n", b"") else data[at:end]
                strays += close != -2
                fields.append(self._quoted(text) if close != -2 else text)
                at = end
            if data.startswith(self.delimiter, at):
                at += len(self.delimiter)
                continue
            if data.startswith(b"\r", at):
                at += 1
            at += data.startswith(b"\n", at)
            break
        line = data[start : start + 200].split(b"\n")[0]
        if strays:
            where = (
                f"line {self.line + data.count(10, 0, start):,}: {excerpt(line)}"
                if self.issues.is_first("strays")
                else ""
            )
            self.issues.count("strays", strays, where)
        if wide >= MANY_LINES:
            where = (
                f"line {self.line + data.count(10, 0, start):,}: {excerpt(line)}"
                if self.issues.is_first("long")
                else ""
            )
            self.issues.count("long", 1, where)
        return at, self.delimiter.join(fields) + b"\n" if strays else None

    def _closing(self, data: bytes, at: int) -> int:
        """Where the quote that opens here is closed; -1 if no quote follows, -3 if one does that closes no field."""
        search = at + 1
        while (found := data.find(self.quote, search)) >= 0:
            if self.escape and self._escaped(data, found, at):
                search = found + 1
                continue
            after = data[found + 1 : found + 2]
            if after == self.quote:
                search = found + 2
                continue
            closes = after in (self.delimiter, b"\n", b"") or data.startswith(b"\r\n", found + 1)
            return found if closes else -3
        return -1

    def _escaped(self, data: bytes, found: int, at: int) -> bool:
        run = found
        while run - 1 > at and data[run - 1 : run] == self.escape:
            run -= 1
        return (found - run) % 2 == 1

    def _swallows(self, content: bytes, before: list[bytes], after: bytes) -> bool:
        """Whether the lines within a field look like records.

        They do where each has as many fields, the line that opens the field and the one that closes it among them, and
        a number where the record has one. They do not where they read as prose, with spaces behind the delimiters, or
        as a list that counts from 0 or 1.
        """
        first, *lines, last = content.split(b"\n")
        delimiters = self.dialect.width - 1
        if len(lines) < SWALLOWED_LINES or not delimiters:
            return False
        if any(line.count(self.delimiter) != delimiters for line in lines):
            return False
        tail, *following = after.split(b"\n", 1)
        beside = re.sub(rb"%b[^%b]*%b" % ((re.escape(self.quote),) * 3), b"", tail).count(self.delimiter)
        if len(before) + first.count(self.delimiter) != delimiters or last.count(self.delimiter) + beside != delimiters:
            return False
        spaced = sum(self.delimiter + b" " in line for line in lines)
        own = (self.delimiter + b" " in tail) or any(cell.startswith(b" ") for cell in before[1:])
        if 2 * spaced > len(lines) and not own:
            return False
        return not (before and before[0].isdigit()) or self._number_on(before[0], lines, b"".join(following))

    def _number_on(self, own: bytes, lines: list[bytes], following: bytes) -> bool:
        """Whether lines begin with numbers of their own, as records do, and not with those of a list."""
        numbers = [line.split(self.delimiter, 1)[0] for line in lines]
        if not all(number.isdigit() for number in numbers) or following.split(self.delimiter, 1)[0] in numbers:
            return False
        start = int(numbers[0][:18])
        counts = start < 2 and all(int(number[:18]) == start + at for at, number in enumerate(numbers))
        return not counts or int(own[:18]) + 1 == start

    def _quoted(self, text: bytes) -> bytes:
        if self.escape and self.escape != self.quote:
            text = text.replace(self.escape, self.escape * 2)
        return self.quote + text.replace(self.quote, self.quote * 2) + self.quote


def read_records(
    blocks: Iterable[tuple[bytes, bool]],
    dialect: Dialect,
    columns: dict[str, int],
    texts: Collection[str],
    longest: int,
    issues: Issues,
) -> Iterator[pa.Table]:
    """The wanted columns of a file as strings, some thousand records at a time.

    blocks : UTF-8, and whether it is the last; columns : the place of each wanted column; texts : those of them in
        which the dialect's ``nulls`` are none; longest : bytes of a record
    Raises: InputError for a record that is too long.
    """
    splitter = Splitter(dialect, longest, issues)
    header = b""
    skip, rest = dialect.skip, b""
    for block, final in _without_carriages(blocks) if dialect.carriage else blocks:
        data = rest + block if rest else block
        while skip and (end := data.find(b"\n")) >= 0:
            header, data, skip = data[:end].rstrip(b"\r"), data[end + 1 :], skip - 1
        if skip and not final:
            rest = data
            continue
        line = splitter.line
        chunks, rest = splitter.split(b"" if skip else data, final)
        for chunk in chunks:
            if header and header in chunk:
                chunk = _without_headers(chunk, header, line, issues)
            yield _parsed(chunk, dialect, columns, texts, line, issues)
            line += chunk.count(b"\n")


def _without_headers(data: bytes, header: bytes, line: int, issues: Issues) -> bytes:
    """Records without the lines that repeat the header, as where files were joined to one; they are counted."""
    again = re.compile(rb"^(?:\xef\xbb\xbf)?%b(?=\r?$)" % re.escape(header), re.M)
    first = again.search(data)
    if first is None:
        return data
    data, count = again.subn(b"", data)  # an empty line keeps the count
    issues.count("headers", count, f"line {line + data.count(10, 0, first.start()):,}")
    return data


def _without_carriages(blocks: Iterable[tuple[bytes, bool]]) -> Iterator[tuple[bytes, bool]]:
    """Blocks in which every line ends with a line feed."""
    held = b""
    for block, final in blocks:
        data = held + block
        held = b"\r" if data.endswith(b"\r") and not final else b""  # a line feed may follow
        yield data[: len(data) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n"), final


def _parsed(
    data: bytes, dialect: Dialect, columns: dict[str, int], texts: Collection[str], line: int, issues: Issues
) -> pa.Table:
    kept = data
    if dialect.escape == "\\" and r"\N" in dialect.nulls and rb"\N" in data:  # else it is read as N
        kept = _cell(dialect, [r"\N"]).sub(rb"\\\\N", data)
    table = _table(kept, dialect, columns, (), line, issues)
    marked = [
        name for name in texts if pc.any(pc.is_in(table[name], pa.array(list(dialect.nulls), pa.string()))).as_py()
    ]
    if not marked:
        return table
    places = {name: columns[name] for name in marked}
    found = _table(kept, dialect, places, dialect.nulls, line, Issues())  # it tells what is quoted
    if count := sum(found[name].null_count for name in marked):
        issues.count("nulls", count, _first_null(data, dialect, line) if issues.is_first("nulls") else "")
    return pa.table({name: found[name] if name in marked else table[name] for name in columns})


def _table(
    data: bytes, dialect: Dialect, columns: dict[str, int], nulls: Collection[str], line: int, issues: Issues
) -> pa.Table:
    """The columns as strings; nulls : unquoted cells that are none"""
    bad: list[Any] = []

    def aside(row: Any) -> str:
        bad.append(row)
        return "skip"

    names = [f"f{number}" for number in range(dialect.width)]
    wanted = list(dict.fromkeys(names[place] for place in columns.values()))
    table = pa.csv.read_csv(
        pa.BufferReader(data),
        read_options=pa.csv.ReadOptions(column_names=names, block_size=max(len(data) + 1, 1 << 16), use_threads=False),
        parse_options=pa.csv.ParseOptions(
            delimiter=dialect.delimiter, quote_char=dialect.quote or False, escape_char=dialect.escape or False,
            newlines_in_values=dialect.quote is not None, invalid_row_handler=aside,
        ),
        convert_options=pa.csv.ConvertOptions(
            include_columns=wanted, column_types=dict.fromkeys(wanted, pa.string()),  # 007 stays 007
            strings_can_be_null=bool(nulls), quoted_strings_can_be_null=False, null_values=list(nulls),
        ),
    )  # fmt: skip
    if bad:
        table = _with_harmless(table, bad, data, dialect, names, nulls, line, issues)
    return pa.table({name: table[names[place]] for name, place in columns.items()})


def _cell(dialect: Dialect, marks: Collection[str]) -> re.Pattern[bytes]:
    """What finds unquoted cells that hold one of some marks and nothing else."""
    edge = re.escape(dialect.delimiter.encode())
    words = b"|".join(re.escape(mark.encode()) for mark in marks)
    return re.compile(rb"(?:^|(?<=%b))(%b)(?=%b|\r?$)" % (edge, words, edge), re.M)


def _first_null(data: bytes, dialect: Dialect, line: int) -> str:
    found = _cell(dialect, dialect.nulls).search(data)
    return f"line {line + data.count(10, 0, found.start()):,}: {found[1].decode()}" if found else ""


def _with_harmless(
    table: pa.Table, bad: list[Any], data: bytes, dialect: Dialect, names: list[str], nulls: Collection[str], line: int,
    issues: Issues,
) -> pa.Table:  # fmt: skip
    """Put back the rows whose surplus fields are all empty; the others are counted, the first is quoted."""
    kept: list[list[str]] = []
    places: list[int] = []
    for row in bad:
        try:
            fields = next(dialect.rows(io.StringIO(row.text, newline="")), [])
        except csv.Error:
            fields = []
        if len(fields) > dialect.width and not any(cell.strip() for cell in fields[dialect.width :]):
            kept.append(fields)
            places.append(row.number - 1)
        else:
            where = ""
            if issues.is_first("malformed"):
                at = max((b"\n" + data).find(f"\n{row.text}".encode()), 0)
                where = (f"line {line + data.count(10, 0, at):,}: {row.actual_columns} fields where the header has "
                         f"{row.expected_columns}: {excerpt(row.text)}")  # fmt: skip
            issues.count("malformed", 1, where)
    if not kept:
        return table
    gone = {row.number - 1 for row in bad} - set(places)
    order = [number for number in range(len(table) + len(bad)) if number not in gone]
    sound = set(places)
    numbers = [number for number in order if number not in sound] + places
    cells = {name: [fields[int(name[1:])] for fields in kept] for name in table.schema.names}
    put = pa.table(
        {
            name: pa.array([None if cell in nulls else cell for cell in held], pa.string())
            for name, held in cells.items()
        }
    )
    return pa.concat_tables([table, put]).take(np.argsort(numbers, kind="stable"))
