"""Blocks of a csv file in; whole records out, with stray quotes repaired so that pyarrow reads them."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from clustering.errors import InputError
from clustering.kernels.topk import IntArray
from clustering.sources.formats.dialects import SWALLOWED_LINES, Dialect
from clustering.sources.formats.encodings import CutError
from clustering.sources.formats.issues import Issues, excerpt

TAIL_BYTES = 4096  # behind a quoted field: enough to see how its record ends and the next begins
MANY_LINES = 50  # in one field; a warning
WINDOW = 1 << 20  # bytes whose quotes are examined at once
UNCLOSED, STRAY = -1, -2  # instead of the position of a closing quote


class RecordSplitter:
    """Cut blocks of a file into whole records.

    Most lines have no quotes, or quotes that enclose whole fields. Those pass as they are; only records that begin on
    another line are scanned field by field.
    """

    def __init__(self, dialect: Dialect, max_bytes: int, issues: Issues) -> None:
        self.scanner = RecordScanner(dialect, max_bytes)
        self.max_bytes, self.issues = max_bytes, issues
        self.comment = (dialect.comment or "").encode()
        self.line = 1 + dialect.skip

    def split(self, data: bytes, final: bool) -> tuple[list[bytes], bytes]:
        """Whole records in chunks, and the bytes of the next record, which is not complete yet.

        Raises: InputError for a record that is too long.
        """
        if final and data and not data.endswith(b"\n"):
            data += b"\n"
        cut = data.rfind(b"\n") + 1
        if self.comment:  # an empty line in place of a comment keeps the count of lines
            lines = data[:cut].split(b"\n")
            body = b"\n".join(b"" if line.startswith(self.comment) else line for line in lines)
            data, cut = body + data[cut:], len(body)
        quote = self.scanner.quote
        if not quote or data.find(quote, 0, cut) < 0:
            chunks, rest = [data[:cut]], data[cut:]
        else:
            chunks, rest = self._repaired(data, cut, final)
        done = data.count(b"\n", 0, len(data) - len(rest))
        if len(rest) > self.max_bytes:
            raise InputError([f"line {self.line + done:,}: a record is longer than {self.max_bytes:,} bytes; a quote "
                              f"that is never closed makes one of many"])  # fmt: skip
        self.line += done
        return [chunk for chunk in chunks if chunk], rest

    def finish(self, rest: bytes, ahead: bytes, final: bool) -> bytes:
        """The last records of a piece of a file, which ``split`` has left.

        ahead : bytes behind the piece; final : whether the file ends with them
        Raises: CutError where the last record goes on behind the piece.
        """
        data = rest + ahead
        if final and not data.endswith(b"\n"):
            data += b"\n"
        chunk, at = self._window(data, 0, len(rest), final)
        if at != len(rest) or len(data) > self.max_bytes:
            raise CutError
        return chunk

    def _repaired(self, data: bytes, cut: int, final: bool) -> tuple[list[bytes], bytes]:
        chunks: list[bytes] = []
        at = 0
        while at < cut:
            end = cut if cut - at <= WINDOW else data.rfind(b"\n", at, at + WINDOW) + 1 or data.find(b"\n", at) + 1
            chunk, at = self._window(data, at, end, final)
            chunks.append(chunk)
            if at < end:
                break  # the record that begins there is not complete yet
        return chunks, data[at:]

    def _window(self, data: bytes, at: int, cut: int, final: bool) -> tuple[bytes, int]:
        """The whole records that begin in a window, and where the next one begins."""
        out: list[bytes] = []
        for start in (self.scanner.irregular_lines(data[at:cut]) + at).tolist():
            if start < at:
                continue  # within a record that is done
            record = self.scanner.scan(data, start, final)
            if record is None:
                return b"".join([*out, data[at:start]]), start
            self._count(record, data, start)
            out += [data[at:start], data[start : record.end] if record.repaired is None else record.repaired]
            at = record.end
        return b"".join([*out, data[at:cut]]), max(at, cut)

    def _count(self, record: ScannedRecord, data: bytes, start: int) -> None:
        def where() -> str:
            first_line = data[start : start + 200].split(b"\n")[0]
            return f"line {self.line + data.count(10, 0, start):,}: {excerpt(first_line)}"

        self.issues.count("strays", record.stray_quotes, where)
        self.issues.count("long", int(record.inner_lines >= MANY_LINES), where)


class ScannedRecord(NamedTuple):
    end: int  # where the next record begins
    repaired: bytes | None  # what to read in its place; None where its quotes are sound
    stray_quotes: int
    inner_lines: int  # line ends within its longest field


class RecordScanner:
    """Find where one record ends.

    A quote opens a field only where the field begins, and closes it only where the field ends. Any other quote is a
    character like the rest. So is one that opens a field whose lines look like records of their own.
    """

    def __init__(self, dialect: Dialect, max_bytes: int) -> None:
        self.width, self.max_bytes = dialect.width, max_bytes
        self.quote = (dialect.quote or "").encode()
        self.escape = (dialect.escape or "").encode()
        self.delimiter = dialect.delimiter.encode()
        self.unquoted_field = re.compile(
            rb"(?:%s[\s\S]|[^%s\n])*" % (re.escape(self.escape) or b"(?!)", re.escape(self.delimiter))
        )

    def irregular_lines(self, data: bytes) -> IntArray:
        """Where those lines start whose quotes do not open and close whole fields within the line."""
        chars = np.frombuffer(data, np.uint8)
        ends = np.flatnonzero(chars == 10)
        starts = np.concatenate([[0], ends[:-1] + 1])
        quotes = np.flatnonzero(chars == self.quote[0])
        irregular = np.zeros(len(starts), np.bool_)
        if self.escape:
            escaped = chars[quotes - 1] == self.escape[0]
            escaped[:1] &= quotes[:1] > 0
            twice = escaped & (chars[quotes - 2] == self.escape[0])
            irregular[np.searchsorted(ends, quotes[twice])] = True
            quotes = quotes[~escaped]
        line = np.searchsorted(ends, quotes)
        first = np.searchsorted(quotes, starts)
        counts = np.diff(np.append(first, len(quotes)))
        opens = (np.arange(len(quotes)) - first[line]) % 2 == 0
        before, after = chars[quotes - 1], chars[quotes + 1]
        if len(quotes) and quotes[0] == 0:
            before = np.concatenate([[10], before[1:]])
        edge = (self.delimiter[0], 10, self.quote[0])
        wrong = np.where(opens, ~np.isin(before, edge), ~np.isin(after, (*edge, 13)))
        irregular[line[wrong]] = True
        irregular |= counts % 2 == 1
        return starts[irregular]

    def scan(self, data: bytes, start: int, final: bool) -> ScannedRecord | None:
        """The record that starts here; None where only the next block tells where it ends."""
        fields: list[bytes] = []
        at, stray_quotes, inner_lines = start, 0, 0
        while True:
            quoted = data.startswith(self.quote, at)
            close = self._closing_quote(data, at) if quoted else STRAY
            if close == UNCLOSED and not final and len(data) - at <= self.max_bytes:
                return None
            if close >= 0 and (lines := data.count(b"\n", at, close)):
                if not final and len(data) <= close + TAIL_BYTES and data.count(b"\n", close) < 2:
                    return None  # what follows decides whether this is a field
                if self._looks_like_records(data[at:close], fields, data[close + 1 : close + 1 + TAIL_BYTES]):
                    close = STRAY
                inner_lines = max(inner_lines, lines)
            if close >= 0:
                end = close + 1
                fields.append(data[at:end])
            else:
                found = self.unquoted_field.match(data, at)
                end = found.end() if found else at
                if end >= len(data) and not final:
                    return None
                text = data[at:end].rstrip(b"\r") if data[end : end + 1] in (b"\n", b"") else data[at:end]
                fields.append(self._requoted(text) if quoted else text)
                stray_quotes += quoted
            at = end
            if data.startswith(self.delimiter, at):
                at += len(self.delimiter)
                continue
            at += data.startswith(b"\r", at)
            at += data.startswith(b"\n", at)
            repaired = self.delimiter.join(fields) + b"\n" if stray_quotes else None
            return ScannedRecord(at, repaired, stray_quotes, inner_lines)

    def _closing_quote(self, data: bytes, at: int) -> int:
        """Where the quote that opens here is closed; UNCLOSED if none follows, STRAY if the next closes no field."""
        search = at + 1
        while (found := data.find(self.quote, search)) >= 0:
            if self.escape and self._is_escaped(data, found, at):
                search = found + 1
                continue
            after = data[found + 1 : found + 2]
            if after == self.quote:
                search = found + 2
                continue
            closes = after in (self.delimiter, b"\n", b"") or data.startswith(b"\r\n", found + 1)
            return found if closes else STRAY
        return UNCLOSED

    def _is_escaped(self, data: bytes, quote: int, opening: int) -> bool:
        """Whether an odd number of escapes stands before a quote."""
        escapes = quote
        while escapes - 1 > opening and data[escapes - 1 : escapes] == self.escape:
            escapes -= 1
        return (quote - escapes) % 2 == 1

    def _looks_like_records(self, content: bytes, before: list[bytes], after: bytes) -> bool:
        """Whether the lines within a field look like records, so that its quote was opened by mistake.

        They do where each line has as many fields as a record, the first and the last together with what stands
        around the field, and begins with a number where the record does. They do not where they read as prose, with
        spaces behind the delimiters, or as a list that counts from 0 or 1.
        """
        first, *lines, last = content.split(b"\n")
        delimiters = self.width - 1
        if len(lines) < SWALLOWED_LINES or not delimiters:
            return False
        if any(line.count(self.delimiter) != delimiters for line in lines):
            return False
        tail, *following = after.split(b"\n", 1)
        behind = re.sub(rb"%b[^%b]*%b" % ((re.escape(self.quote),) * 3), b"", tail).count(self.delimiter)
        if len(before) + first.count(self.delimiter) != delimiters or last.count(self.delimiter) + behind != delimiters:
            return False
        spaced = sum(self.delimiter + b" " in line for line in lines)
        record_is_spaced = (self.delimiter + b" " in tail) or any(cell.startswith(b" ") for cell in before[1:])
        if 2 * spaced > len(lines) and not record_is_spaced:
            return False
        return not (before and before[0].isdigit()) or self._are_numbered(lines, before[0], b"".join(following))

    def _are_numbered(self, lines: list[bytes], record_number: bytes, following: bytes) -> bool:
        """Whether lines begin with numbers of their own, as records do, and not with those of a list."""
        numbers = [line.split(self.delimiter, 1)[0] for line in lines]
        if not all(number.isdigit() for number in numbers) or following.split(self.delimiter, 1)[0] in numbers:
            return False
        start = int(numbers[0][:18])
        is_list = start < 2 and all(int(number[:18]) == start + at for at, number in enumerate(numbers))
        return not is_list or int(record_number[:18]) + 1 == start

    def _requoted(self, text: bytes) -> bytes:
        if self.escape and self.escape != self.quote:
            text = text.replace(self.escape, self.escape * 2)
        return self.quote + text.replace(self.quote, self.quote * 2) + self.quote
