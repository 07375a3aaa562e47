"""JSON in, one object a line, an array, or values one after another; batches of wanted values out."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator
from functools import partial
from json.decoder import scanstring  # type: ignore[attr-defined]
from json.scanner import py_make_scanner  # type: ignore[attr-defined]
from typing import Any

import pyarrow as pa

from clustering.errors import InputError
from clustering.sources.formats.issues import Issues, excerpt
from clustering.text.cleaning import encodable

HEAD_LINES = 1000  # the keys of these lines are taken for those of the file
TAIL = 16  # characters at the end of a block: an error there may only mean that more follows
CUT = 1 << 15  # characters before a value; the json module counts the lines in them for every error, even a handled one
BROKEN = (ValueError, RecursionError)
OPENING = {"stream": "{", "strings": '"'}
_AROUND = "\ufeff\x1e\0 \t\r"  # byte order marks, separators of RFC 7464, and what fills up a block
_BESIDE = _AROUND + "\n\f\v\xa0,[]"
_SPACE = re.escape(_BESIDE)
_BETWEEN = re.compile(rf"[{_SPACE}]*")
# Where the next value begins behind a malformed one: behind one that begins as a value does, and behind anything else.
# The group is its first character; without it nothing begins there, and no run of spaces is walked twice.
_NEXT = {
    "stream": (re.compile(rf"[}}\n][{_SPACE}]*({{)?"), re.compile(r"({)")),
    "strings": (re.compile(rf"(?:\"\s*,|\n)[{_SPACE}]*(\")?"), re.compile(rf"[,\n][{_SPACE}]*(\")?")),
}
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"?', re.S)
_MISSING = object()


def _null(_: str) -> None:
    """NaN and Infinity mean that there is no value."""


def _string_of_line(text: str, start: int, _: bool) -> tuple[str, int]:
    """Scan a string in which control characters may stand, but no line feed. Raises: JSONDecodeError"""
    try:
        value, end = scanstring(text, start, False)
        feed = text.find("\n", start, end)
    except json.JSONDecodeError as error:
        feed = text.find("\n", start) if error.msg.startswith("Unterminated") else -1
        if feed < 0:
            raise
    if feed >= 0:
        raise json.JSONDecodeError("Invalid control character at", text, feed)
    return value, end


_lines = json.JSONDecoder(parse_constant=_null, strict=False)
_stream = json.JSONDecoder(parse_constant=_null)
# Slower; a line feed in a string would hide that a quote is missing.
_lenient: Any = json.JSONDecoder(parse_constant=_null, strict=False)
_lenient.parse_string = _string_of_line
_lenient.scan_once = py_make_scanner(_lenient)


def _value_at(text: str, at: int) -> tuple[Any, int]:
    """A value within a text, and where it ends. Raises: ValueError, RecursionError"""
    try:
        return _stream.raw_decode(text, at)
    except json.JSONDecodeError as error:
        if not error.msg.startswith("Invalid control character") or text[error.pos : error.pos + 1] == "\n":
            raise
    found: tuple[Any, int] = _lenient.raw_decode(text, at)
    return found


def detect_style(text: str, complete: bool) -> str:
    """``lines`` where each line is an object, ``stream`` for an array or objects over several lines.

    ``strings`` is a list of texts, or one a line: each is a record whose only key is text.

    text : the first characters of a file; complete : whether they are all of it
    """
    start = text.lstrip()
    lines = [line for line in start.split("\n") if line.strip()]
    if not complete and len(lines) > 1:
        lines.pop()
    values = [value_of(line) for line in lines[:HEAD_LINES]]
    if start.startswith("["):
        if len(values) > 1 and isinstance(values[0], list):
            return "lines"
        return "strings" if re.match(r"\[\s*(?:null\s*,\s*)*\"", start) else "stream"
    if re.match(r"(?:null\s+)*\"", start):
        return "strings"
    if any(isinstance(value, dict) for value in values) or not start.startswith("{"):
        return "lines"
    objects = _objects_of_stream(iter([(text, complete)]), len(text), Issues())
    return "stream" if next(objects, None) is not None else "lines"


def holds_value(text: str) -> bool:
    """Whether a whole value stands at the beginning of a list, or of values one after another."""
    try:
        found = _BETWEEN.match(text)
        return _value_at(text, found.end() if found else 0)[1] < len(text)
    except BROKEN:
        return False


def looks_like_json(text: str) -> bool:
    """Whether a text begins with a whole object, or with a list of objects or strings."""
    start = text.lstrip()
    try:
        if re.match(r"\{\s*[\"}]", start):
            return isinstance(_value_at(start, 0)[0], dict)
        if found := re.match(r"\[\s*(?=[{\"])", start):
            end = _value_at(start, found.end())[1]
            return re.compile(r"\s*(?:,\s*[\[{\"n]|\]\s*?(?:\n|$))").match(start, end) is not None
    except BROKEN:
        pass
    return False


def value_of(line: str) -> Any:
    """The value that a line holds; None where it is malformed."""
    try:
        return _parsed(line)
    except BROKEN:
        return None


def _parsed(line: str) -> Any:
    """Raises: ValueError, RecursionError"""
    try:
        return _lines.decode(line)
    except ValueError:
        bare = line.strip(_AROUND)
        if bare == line:
            raise
        return _lines.decode(bare)


def records_of(blocks: Iterable[tuple[bytes, bool]], style: str, max_length: int, issues: Issues) -> Iterator[Any]:
    """The objects of a file; anything else is counted as malformed.

    blocks : UTF-8, each with whether it is the last
    style : as ``detect_style`` returns it
    max_length : of a record, in characters
    Raises: InputError for a record that is too long.
    """
    if style == "lines":
        return _objects_of_lines(blocks, max_length, issues)
    return _objects_of_stream(((block.decode(), final) for block, final in blocks), max_length, issues, style)


def _no_object(reason: str, line: int, text: str = "", at: int = 0) -> str:
    """line : of the beginning of the text; at : where in it the value stands"""
    return f"line {line + text.count(chr(10), 0, at):,} is no JSON object: {reason}"


def _why(error: Exception, start: int) -> str:
    """What is wrong with a value that begins at ``start``, to be followed by an excerpt; the line is told elsewhere."""
    if not isinstance(error, json.JSONDecodeError):
        return f"{error} in "
    return f"{error.msg.removesuffix(' at')}, character {error.pos - start + 1:,} of "


def _objects_of_lines(blocks: Iterable[tuple[bytes, bool]], max_length: int, issues: Issues) -> Iterator[Any]:
    for number, line in enumerate(lines_of(blocks, max_length), 1):
        if not line.strip():
            continue
        reason = ""
        try:
            record = _parsed(line)
            if isinstance(record, dict):
                yield record
                continue
        except BROKEN as error:
            reason = _why(error, 0)
        issues.count("malformed", 1, partial(_no_object, reason + excerpt(line[:200]), number))


def lines_of(blocks: Iterable[tuple[bytes, bool]], max_length: int) -> Iterator[str]:
    """The lines of a file. Raises: InputError before it holds a line that is too long."""
    rest = b""
    for block, final in blocks:
        end, *lines = block.split(b"\n")
        rest += end
        if len(rest) > max_length:
            raise InputError([f"a line is longer than {max_length:,} characters. Write one record on each line."])
        if lines:
            yield rest.decode()
            for line in lines[:-1]:
                yield line.decode()
            rest = lines[-1]
        if final and rest:
            yield rest.decode()


def _objects_of_stream(
    blocks: Iterator[tuple[str, bool]], max_length: int, issues: Issues, style: str = "stream"
) -> Iterator[Any]:
    """The objects of an array, or of values one after another, wherever lines end."""
    text, at, final, line = "", 0, False, 1
    needed = 0  # characters that must be there before the next try
    while True:
        found = _BETWEEN.match(text, at)
        at = found.end() if found else at
        if not final and (at == len(text) or len(text) - at < needed):
            block, final = next(blocks, ("", True))
            line += text.count("\n", 0, at)
            text, at = text[at:] + block, 0
            continue
        if at > CUT:
            line += text.count("\n", 0, at)
            text, at = text[at:], 0
        if at == len(text):
            return
        try:
            value, end = _value_at(text, at)
        except BROKEN as error:
            position = getattr(error, "pos", at)
            unfinished = position >= len(text) - TAIL or "Unterminated string" in str(error)
            if not final and unfinished:
                if len(text) - at > max_length:
                    raise InputError(
                        [f"a record is longer than {max_length:,} characters. Write smaller ones."]
                    ) from None
                needed = 2 * (len(text) - at)
                continue
            reason = _why(error, at) + excerpt(text[at : at + 200])
            issues.count("malformed", 1, partial(_no_object, reason, line, text, at))
            begins = text.startswith(OPENING[style], at)
            pattern = _NEXT[style][0 if begins else 1]
            if style == "stream" and position > at and text.startswith("{", position):
                at, needed = position, 0  # the value before lacks its closing bracket
                continue
            at = _doubtful(text, at, position) if begins else at
            further = _next_value(pattern, text, at)
            while further < 0 and not final:
                block, final = next(blocks, ("", True))
                kept = max(at, len(text.rstrip(_BESIDE)) - 1)
                line += text.count("\n", 0, kept)
                text, at = text[kept:] + block, 0
                further = _next_value(pattern, text, at)
            if further < 0:
                return
            at, needed = further, 0
            continue
        needed = 0
        if style == "strings" and (value is None or isinstance(value, str)):
            yield {"text": value}
        elif style == "stream" and isinstance(value, dict):
            yield value
        else:
            issues.count("malformed", 1, partial(_no_object, excerpt(str(value)[:200]), line, text, at))
        at = end


def _next_value(pattern: re.Pattern[str], text: str, at: int) -> int:
    """Where the next value begins; -1 for none."""
    return next((found.start(1) for found in pattern.finditer(text, at) if found[1]), -1)


def _doubtful(text: str, at: int, position: int) -> int:
    """From where the end of a malformed value is sought: the error's position, or the string that stands before it.

    A string that lacks a quote goes on to the next one, which may be that of another value.
    """
    start = end = position
    for string in _STRING.finditer(text, at, position):
        start, end = string.span()
    return max(position if text[end:position].strip() else start, at + 1)


def _pick(record: dict[str, Any], name: str) -> Any:
    """The value at a key, or at a path where no key has that name: ``data.title`` is the title within data.

    Returns: _MISSING where the record has neither.
    """
    value = record.get(name, _MISSING)
    if value is _MISSING and "." in name:
        value = record
        for key in name.split("."):
            value = value.get(key, _MISSING) if isinstance(value, dict) else _MISSING
    return value


def has(record: dict[str, Any], name: str) -> bool:
    return _pick(record, name) is not _MISSING


def values_of(records: Iterable[dict[str, Any]], name: str) -> list[Any]:
    """The values that records have at a key, without nulls."""
    found = (_pick(record, name) for record in records)
    return [value for value in found if value is not _MISSING and value is not None]


def keys_of(records: Iterable[dict[str, Any]]) -> list[str]:
    """The keys of the first records, nested ones as paths."""
    keys: dict[str, None] = {}
    for record in itertools.islice(records, HEAD_LINES):
        for key, value in record.items():
            keys[key] = None
            if isinstance(value, dict):
                keys.update(dict.fromkeys(f"{key}.{inner}" for inner in value if isinstance(inner, str)))
    return list(keys)


def read_values(
    records: Iterable[dict[str, Any]],
    texts: list[str],
    others: list[str],
    max_rows: int,
    max_length: int,
    issues: Issues,
) -> Iterator[pa.Table]:
    """The wanted values of records: of ``texts`` as strings, of ``others`` with their types.

    max_rows, max_length : of a batch; the length in characters
    """
    names = [*texts, *others]
    n_texts = len(texts)
    rows: list[list[Any]] = []
    size = 0
    for record in records:
        values = [_pick(record, name) for name in names]
        if all(value is _MISSING for value in values[:n_texts]):
            issues.count("keyless", 1, partial(_keys_words, record))
        values = [None if value is _MISSING else value for value in values]
        values[:n_texts] = [string_of(value) for value in values[:n_texts]]
        rows.append(values)
        size += sum(len(value) for value in values if isinstance(value, str)) + 8
        if len(rows) == max_rows or size > max_length:
            yield _table(rows, names, n_texts)
            rows, size = [], 0
    if rows:
        yield _table(rows, names, n_texts)


def _keys_words(record: dict[str, Any]) -> str:
    return f"record with the keys {', '.join(map(repr, list(record)[:5]))}"


def _table(rows: list[list[Any]], names: list[str], n_texts: int) -> pa.Table:
    columns = list(zip(*rows, strict=True))
    return pa.table({
        name: pa.array(column, pa.string()) if at < n_texts else typed_array(column)
        for at, (name, column) in enumerate(zip(names, columns, strict=True))
    })  # fmt: skip


def string_of(value: Any) -> str | None:
    """A value as text: an object or list as JSON, NaN and infinity as None."""
    if value is None or (isinstance(value, float) and value - value != 0):
        return None
    return encodable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def typed_array(values: Iterable[Any]) -> pa.Array:
    """Values of one kind as that type; of several kinds, and lists and objects, as strings."""
    values = list(values)
    kinds = {type(value) for value in values} - {type(None)}
    try:
        if kinds <= {bool} or kinds <= {int}:
            return pa.array(values, pa.bool_() if kinds == {bool} else pa.int64() if kinds else pa.null())
        if kinds <= {int, float} and all(abs(value) <= 1 << 53 for value in values if isinstance(value, int)):
            return pa.array([value if value is None else float(value) for value in values], pa.float64())
    except (OverflowError, pa.ArrowInvalid):
        pass  # an integer beyond 64 bits becomes a string
    return pa.array([string_of(value) for value in values], pa.string())
