"""The first lines of a csv file in; its dialect, header and columns out."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from clustering.config.sections import CsvSection
from clustering.errors import InputError
from clustering.sources.formats.column_types import column_number, find_column

DELIMITERS = ",;\t|"
NO_DELIMITER = (
    "\x1f"  # of a file without columns: the unit separator of ASCII, read as a space where it stands in a text
)
TABLE_LINES, SHOWN_LINE = 5, 10_000  # lines of the same number of fields look like a table; so many characters show it
HEAD_RECORDS = 200  # that show the dialect
SWALLOWED_LINES = 3  # so many lines of a field that look like records mean that its quote was opened by mistake


@dataclass(frozen=True)
class Dialect:
    """How one file is written."""

    delimiter: str = ","
    quote: str | None = '"'
    escape: str | None = None
    comment: str | None = None
    carriage: bool = False  # some lines at least end with a carriage return alone
    skip: int = 0  # lines before the first record
    width: int = 0  # fields of a record
    nulls: Collection[str] = ()  # unquoted cells of text columns that mean null

    def rows(self, lines: Iterable[str]) -> Iterator[list[str]]:
        quoting: Any = {"quoting": csv.QUOTE_NONE} if self.quote is None else {"quotechar": self.quote}
        return csv.reader(lines, delimiter=self.delimiter, escapechar=self.escape, **quoting)


@dataclass
class Head:
    """What the first lines show: the dialect, and the names of the columns ('' for one without)."""

    dialect: Dialect
    names: list[str]
    records: list[list[str]] = field(default_factory=list)

    def position(self, name: str) -> int | None:
        """The position of a column by its name, or by its number from 1 where no column has that name.

        Raises: InputError for a name that several columns have.
        """
        position = find_column(self.names, name)
        if position is None:
            position = find_column([other.strip() for other in self.names], name)
        return column_number(self.names, name) if position is None else position


def detect_dialect(text: str, complete: bool, kind: str, cfg: CsvSection, wanted: list[str]) -> Head | None:
    """Choose the reading of a file's first characters that fits best; None where there is not even a header.

    text : up to the end of a line
    complete : whether it is all of the file
    kind : csv or tsv
    wanted : names of columns that speak for a reading in which they are found
    """
    lines, carriage = _lines(text, complete)
    if not lines:
        return None
    skip, declared = 0, None
    blank = next((at for at, line in enumerate(lines) if line.strip()), len(lines))
    if found := re.fullmatch(r'"?sep=(.)"?\s*', "".join(lines[blank : blank + 1])):
        declared, skip = found[1], blank + 1
    heads = []
    for start in dict.fromkeys([skip, _after_comments(lines, skip, cfg.comment)]):
        for delimiter, quote in itertools.product(_delimiters(kind, cfg, declared), _quotes(kind, cfg)):
            dialect = Dialect(delimiter, quote, cfg.escape, cfg.comment, carriage, nulls=cfg.nulls)
            heads.append(_head(lines, start, dialect, complete, cfg))
    known = [head for head in heads if head is not None]
    if not known:
        raise InputError(["its first lines are no header and records of csv. Set read.csv (delimiter, quote, header)"])
    chosen = max(known, key=lambda head: _score(head, wanted))  # the first of those that fit equally
    return _with_escape(chosen, lines, complete, cfg)


def detect_lines(text: str, complete: bool, checked: bool) -> Head | None:
    """The reading of a file in which each line is a text, without quotes and columns; None where it is empty.

    text, complete : as above; checked : whether a file that looks like a table is refused
    """
    lines, carriage = _lines(text, complete)
    if not lines:
        return None
    some = [line for line in lines if line.strip()][:HEAD_RECORDS]
    for delimiter in DELIMITERS if checked else "":
        widths = {
            len(row) for row in csv.reader([line[:SHOWN_LINE].replace("\0", "") for line in some], delimiter=delimiter)
        }
        if len(some) >= TABLE_LINES and widths != {1} and len(widths) == 1:
            form = "tsv" if delimiter == "\t" else "csv"
            raise InputError([f"each of its first {len(some)} lines has {widths.pop()} fields with {delimiter!r} "
                              f"between them. read.format={form} reads such a table; read.format=txt takes each line "
                              f"as one text"])  # fmt: skip
    dialect = Dialect(NO_DELIMITER, quote=None, carriage=carriage, width=1)
    return Head(dialect, ["text"], [[line.rstrip("\r\n")] for line in some])


def _lines(text: str, complete: bool) -> tuple[list[str], bool]:
    """The whole lines of a text, each with a line feed, and whether some end with a carriage return alone.

    There are none in a text of nothing but white space.
    """
    if not text.strip("\0 \t\r\n"):
        return [], False
    carriage = re.search("\r(?!\n|$)", text) is not None
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n") if carriage else text.split("\n")
    lines = [line + "\n" for line in lines]
    if not complete and len(lines) > 1:
        lines.pop()
    return lines, carriage


def _after_comments(lines: list[str], start: int, comment: str | None) -> int:
    """The first line that is no comment; a comment begins with #, or with what read.csv.comment says."""
    at = start
    while at < len(lines) - 1 and (lines[at].startswith(comment or "#") or not lines[at].strip()):
        at += 1
    return at


def _delimiters(kind: str, cfg: CsvSection, declared: str | None) -> list[str]:
    if known := cfg.delimiter or declared:
        return [known]
    first = "\t" if kind == "tsv" else ","
    return [first, *(one for one in DELIMITERS if one != first)]


def _quotes(kind: str, cfg: CsvSection) -> list[str | None]:
    if cfg.quote:
        return [None if cfg.quote == "none" else cfg.quote]
    return [None, '"'] if kind == "tsv" else ['"']


def _head(lines: list[str], start: int, dialect: Dialect, complete: bool, cfg: CsvSection) -> Head | None:
    reader: Any = dialect.rows(lines[start:])
    try:
        first = next(row for row in reader if row)
    except (StopIteration, csv.Error):
        return None
    used = reader.line_num
    records = _records(dialect, lines[start + used :], complete)
    if cfg.header == "first":
        names, skip = [name.lstrip("\ufeff") for name in first], start + used
        if dialect.comment is None and first[0].startswith("#") and start == 0:
            names[0] = names[0].lstrip("# ")
    else:
        records, skip = [first, *records], start
        names = [str(number + 1) for number in range(len(first))] if cfg.header == "none" else list(cfg.header)
    names = _with_surplus(names, records)
    return Head(replace(dialect, skip=skip, width=len(names)), names, records)


def _records(dialect: Dialect, lines: list[str], complete: bool) -> list[list[str]]:
    found: list[list[str]] = []
    comment = dialect.comment
    kept = (line for line in lines if not (comment and line.startswith(comment)))
    try:
        for row in itertools.islice(dialect.rows(kept), HEAD_RECORDS):
            if row and row != [""]:
                found.append(row)
    except csv.Error:
        pass
    return found if complete or len(found) < 2 else found[:-1]


def _with_surplus(names: list[str], records: list[list[str]]) -> list[str]:
    """The names of the fields that records have, where header and records differ by one.

    The header ends with an empty name; or each record ends with an empty field, or begins with an index without a
    name, as R and pandas write it: a count from 0 or 1. A comma within texts looks like that, but a space follows it.
    """
    if records and len(names) > 1 and not names[-1].strip() and all(len(row) == len(names) - 1 for row in records):
        return names[:-1]
    if not records or any(len(row) != len(names) + 1 for row in records):
        return names
    if all(not row[-1].strip() for row in records):
        return [*names, ""]
    index = [row[0] for row in records]
    counts = any(index == [str(first + number) for number in range(len(index))] for first in (0, 1))
    spaced = any(cell.startswith(" ") for row in records for cell in row)
    return ["", *names] if counts and len(index) > 2 and not spaced else names


def _score(head: Head, wanted: list[str]) -> tuple[float, ...]:
    """How well a reading fits: it has the wanted columns, and its records have as many fields as its header."""
    there = 0
    for name in wanted:
        try:
            there += head.position(name) is not None
        except InputError:
            there += 1
    fits = sum(len(row) == head.dialect.width for row in head.records) / max(len(head.records), 1)
    if head.dialect.width == 1:
        fits *= 0.5
    return (there, fits if fits > 0.5 else 0, -head.dialect.skip if there else 0)


def _with_escape(head: Head, lines: list[str], complete: bool, cfg: CsvSection) -> Head:
    """The reading in which a backslash escapes quotes, if that fits more records than doubled quotes do."""
    dialect = head.dialect
    rest = lines[dialect.skip :]
    if cfg.escape or dialect.quote is None or not any("\\" + dialect.quote in line for line in rest):
        return head
    other = replace(dialect, escape="\\")
    records = _records(other, rest, complete)
    fits = sum(len(row) == dialect.width for row in records)
    before = sum(len(row) == dialect.width for row in head.records)
    escaped = sum(line.count("\\" + dialect.quote) for line in rest)
    closing = sum(
        len(re.findall(rf"\\{re.escape(dialect.quote)}(?={re.escape(dialect.delimiter)}|\s*$)", line)) for line in rest
    )
    if fits > before or (fits == before and escaped > 2 * closing and not any('""' in line for line in rest)):
        return Head(other, head.names, records)
    return head
