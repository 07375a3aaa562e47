"""The first lines of a csv file in; its dialect, header and columns out."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from clustering.config.sections import CsvSection
from clustering.errors import InputError

DELIMITERS = ",;\t|"
HEAD_RECORDS = 200  # from which the dialect is told
SWALLOWED_LINES = 3  # lines of a field that look like records: a quote was opened by mistake


@dataclass(frozen=True)
class Dialect:
    """How one file is written."""

    delimiter: str = ","
    quote: str | None = '"'
    escape: str | None = None
    comment: str | None = None
    carriage: bool = False  # lines end with a carriage return, some of them at least
    skip: int = 0  # lines before the first record
    width: int = 0  # fields of a record
    nulls: Collection[str] = ()  # unquoted cells of texts that mean none

    def rows(self, lines: Iterable[str]) -> Iterator[list[str]]:
        if self.quote is None:
            return csv.reader(lines, delimiter=self.delimiter, quoting=csv.QUOTE_NONE, escapechar=self.escape)
        return csv.reader(lines, delimiter=self.delimiter, quotechar=self.quote, escapechar=self.escape)


@dataclass
class Head:
    """What the first lines tell: the dialect, and the columns' names ('' without one)."""

    dialect: Dialect
    names: list[str]
    records: list[list[str]] = field(default_factory=list)

    def position(self, name: str) -> int | None:
        """Where a column stands: by its name, or by its number from 1 where none has that name.

        Raises: InputError for a name that stands twice.
        """
        at = [number for number, held in enumerate(self.names) if held == name]
        at = at or [number for number, held in enumerate(self.names) if held.strip() == name]
        if len(at) > 1:
            numbers = ", ".join(str(number + 1) for number in at[:10])
            raise InputError([f"column '{name}' stands {len(at)} times, as columns {numbers}; name one by its number"])
        if at:
            return at[0]
        if re.fullmatch(r"[1-9]\d{0,6}", name) and int(name) <= len(self.names):
            return int(name) - 1
        return None


def detect_dialect(text: str, whole: bool, kind: str, cfg: CsvSection, wanted: list[str]) -> Head | None:
    """Tell how a file is written from its first characters; None where there is not even a header.

    text : ends with a whole line, unless the file does not; whole : it is all of the file
    """
    if not text.strip("\0 \t\r\n"):
        return None
    carriage = re.search("\r(?!\n|$)", text) is not None
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n") if carriage else text.split("\n")
    lines = [line + "\n" for line in lines]
    if not whole and len(lines) > 1:
        lines.pop()
    skip, told = 0, None
    blank = 0
    while blank < len(lines) and not lines[blank].strip():
        blank += 1
    found = re.fullmatch(r'"?sep=(.)"?\s*', lines[blank]) if blank < len(lines) else None
    if found:
        told, skip = found[1], blank + 1
    heads = []
    for start in dict.fromkeys([skip, _after_comments(lines, skip, cfg.comment)]):
        for delimiter, quote in itertools.product(_delimiters(kind, cfg, told), _quotes(kind, cfg)):
            dialect = Dialect(delimiter, quote, cfg.escape, cfg.comment, carriage, nulls=cfg.nulls)
            heads.append(_head(lines, start, dialect, whole, cfg))
    known = [head for head in heads if head is not None]
    if not known:
        raise InputError(["its first lines are no header and records of csv. Set read.csv (delimiter, quote, header)"])
    chosen = max(known, key=lambda head: _score(head, wanted, cfg))  # the first of equals
    return _with_escape(chosen, lines, whole, cfg)


def _after_comments(lines: list[str], start: int, comment: str | None) -> int:
    """The first line that is no comment; without a set mark, lines at the top that begin with # may be comments."""
    at = start
    while at < len(lines) - 1 and (lines[at].startswith(comment or "#") or not lines[at].strip()):
        at += 1
    return at


def _delimiters(kind: str, cfg: CsvSection, told: str | None) -> list[str]:
    if cfg.delimiter or told:
        return [cfg.delimiter or told or ","]
    first = "\t" if kind == "tsv" else ","
    return [first, *(one for one in DELIMITERS if one != first)]


def _quotes(kind: str, cfg: CsvSection) -> list[str | None]:
    if cfg.quote:
        return [None if cfg.quote == "none" else cfg.quote]
    return [None, '"'] if kind == "tsv" else ['"']


def _head(lines: list[str], start: int, dialect: Dialect, whole: bool, cfg: CsvSection) -> Head | None:
    comment = dialect.comment
    kept = lines[start:]
    try:
        first: list[str] = []
        used = 0
        reader: Any = dialect.rows(kept)
        while not first:
            first, used = next(reader), reader.line_num
    except (StopIteration, csv.Error):
        return None
    records = _records(dialect, lines[start + used :], whole)
    if cfg.header == "first":
        names, skip = [name.lstrip("\ufeff") for name in first], start + used
        if comment is None and first[0].startswith("#") and start == 0:
            names[0] = names[0].lstrip("# ")
    else:
        records, skip = [first, *records], start
        names = [str(number + 1) for number in range(len(first))] if cfg.header == "none" else list(cfg.header)
    names = _with_surplus(names, records)
    return Head(Dialect(**{**asdict(dialect), "skip": skip, "width": len(names)}), names, records)


def _records(dialect: Dialect, lines: list[str], whole: bool) -> list[list[str]]:
    found: list[list[str]] = []
    comment = dialect.comment
    kept = (line for line in lines if not (comment and line.startswith(comment)))
    try:
        for row in itertools.islice(dialect.rows(kept), HEAD_RECORDS):
            if row and row != [""]:
                found.append(row)
    except csv.Error:
        pass
    return found if whole or len(found) < 2 else found[:-1]


def _with_surplus(names: list[str], records: list[list[str]]) -> list[str]:
    """The names of the fields that records have, where header and records differ by one.

    The header ends with an empty name; or each record ends with an empty field; or begins with an index without a
    name, as R and pandas write it: a count from 0 or 1. A comma within texts looks much like that, but a space follows.
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


def _score(head: Head, wanted: list[str], cfg: CsvSection) -> tuple[float, ...]:
    """How well a reading of the first lines fits: the wanted columns are there, and records have as many fields."""
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


def _with_escape(head: Head, lines: list[str], whole: bool, cfg: CsvSection) -> Head:
    """Quotes within fields may be escaped by a backslash rather than doubled: whichever fits more records."""
    dialect = head.dialect
    rest = lines[dialect.skip :]
    if cfg.escape or dialect.quote is None or not any("\\" + dialect.quote in line for line in rest):
        return head
    other = Dialect(**{**asdict(dialect), "escape": "\\"})
    records = _records(other, rest, whole)

    def sound(one: Dialect, rows: list[list[str]]) -> int:
        # Python's reader takes what follows a closing quote for a part of the field, so a quote there is counted, too.
        quote = one.quote or ""
        return sum(len(row) == one.width and sum(quote in cell for cell in row) == 0 for row in rows)

    fits = sum(len(row) == dialect.width for row in records)
    before = sum(len(row) == dialect.width for row in head.records)
    escaped = sum(line.count("\\" + dialect.quote) for line in rest)
    closing = sum(
        len(re.findall(rf"\\{re.escape(dialect.quote)}(?={re.escape(dialect.delimiter)}|\s*$)", line)) for line in rest
    )
    if fits > before or (fits == before and escaped > 2 * closing and not any('""' in line for line in rest)):
        return Head(other, head.names, records)
    return head
