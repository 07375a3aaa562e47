"""JSON in, one object a line, an array, or objects one after another; batches of wanted values out."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from clustering.errors import InputError
from clustering.sources.formats.issues import Issues, excerpt

HEAD_LINES = 1000  # whose keys are taken for those of the file
TAIL = 16  # characters at the end of what is read, where an error may only mean that more follows
BROKEN = (ValueError, RecursionError)
_BETWEEN = re.compile(r"[\s,\[\]\x1e]*")
_NEXT = re.compile(r"\n[\s,\[]*(?=\{)")
_AROUND = "\ufeff\x1e\0 \t\r"  # marks of Unicode and of RFC 7464, and what fills a block up
_MISSING = object()
Path = tuple[str, ...]


def _no_number(_: str) -> None:
    """NaN and Infinity say that there is no value."""


_lines = json.JSONDecoder(parse_constant=_no_number, strict=False)
_stream = json.JSONDecoder(parse_constant=_no_number)


def layout_of(text: str, whole: bool) -> str:
    """``lines`` where each line is an object, ``stream`` for an array or objects over several lines.

    text : the first characters of a file; whole : all of them
    """
    start = text.lstrip()
    lines = [line for line in start.split("\n") if line.strip()]
    if not whole and len(lines) > 1:
        lines.pop()
    values = [value_of(line) for line in lines[:HEAD_LINES]]
    if start.startswith("["):
        return "lines" if len(values) > 1 and isinstance(values[0], list) else "stream"
    if any(isinstance(value, dict) for value in values) or not start.startswith("{"):
        return "lines"
    found = objects(iter([(text, whole)]), len(text), Issues())
    return "stream" if next(found, None) is not None else "lines"


def value_of(line: str) -> Any:
    """The value that a line holds; None where it is broken."""
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


def records_of(blocks: Iterable[tuple[bytes, bool]], layout: str, longest: int, issues: Issues) -> Iterator[Any]:
    """The objects of a file; what is none is counted, the first with its line.

    blocks : UTF-8, and whether it is the last; longest : characters of a record
    Raises: InputError for a record that is too long.
    """
    if layout == "lines":
        return _objects_of_lines(blocks, longest, issues)
    return objects(((block.decode(), final) for block, final in blocks), longest, issues)


def _objects_of_lines(blocks: Iterable[tuple[bytes, bool]], longest: int, issues: Issues) -> Iterator[Any]:
    number = 0
    for number, line in enumerate(lines_of(blocks, longest), 1):
        if not line.strip():
            continue
        why = ""
        try:
            record = _parsed(line)
            if isinstance(record, dict):
                yield record
                continue
        except BROKEN as error:
            why = f"{error} in "
        issues.count(
            "malformed",
            1,
            f"line {number:,} is no JSON object: {why}{excerpt(line[:200])}" if issues.is_first("malformed") else "",
        )


def lines_of(blocks: Iterable[tuple[bytes, bool]], longest: int) -> Iterator[str]:
    """The lines of a file; none that is too long is held."""
    rest = b""
    for block, final in blocks:
        end, *lines = block.split(b"\n")
        rest += end
        if len(rest) > longest:
            raise InputError([f"a line is longer than {longest:,} characters. Write one record on each line."])
        if lines:
            yield rest.decode()
            for line in lines[:-1]:
                yield line.decode()
            rest = lines[-1]
        if final and rest:
            yield rest.decode()


def objects(blocks: Iterator[tuple[str, bool]], longest: int, issues: Issues) -> Iterator[Any]:
    """The objects of an array, or of values one after another, wherever lines end."""
    text, at, final, line = "", 0, False, 1
    asked = 0  # characters that must be there before another try
    while True:
        found = _BETWEEN.match(text, at)
        at = found.end() if found else at
        if not final and (at == len(text) or len(text) - at < asked):
            block, final = next(blocks, ("", True))
            line += text.count("\n", 0, at)
            text, at = text[at:] + block, 0
            continue
        if at == len(text):
            return
        try:
            value, end = _stream.raw_decode(text, at)
        except BROKEN as error:
            place = getattr(error, "pos", at)
            unfinished = place >= len(text) - TAIL or "Unterminated string" in str(error)
            if not final and unfinished:
                if len(text) - at > longest:
                    raise InputError([f"a record is longer than {longest:,} characters. Write smaller ones."]) from None
                asked = 2 * (len(text) - at)
                continue
            around = excerpt(text[at : at + 200])
            where = f"line {line + text.count(chr(10), 0, at):,} is no JSON object: {error} in {around}"
            issues.count("malformed", 1, where if issues.is_first("malformed") else "")
            further = _NEXT.search(text, at)
            while further is None and not final:
                block, final = next(blocks, ("", True))
                line += text.count("\n")
                text, at = text[-1:] + block, 0
                line -= text[:1] == "\n"
                further = _NEXT.search(text, at)
            if further is None:
                return
            at, asked = further.end(), 0
            continue
        asked = 0
        if isinstance(value, dict):
            yield value
        else:
            issues.count(
                "malformed",
                1,
                f"line {line + text.count(chr(10), 0, at):,} is no JSON object: {excerpt(str(value)[:200])}",
            )
        at = end


def path_of(name: str) -> Path:
    """The keys that lead to a value: ``data.title`` is the title within data, where no key has that name."""
    return tuple(name.split("."))


def pick(record: dict[str, Any], name: str, path: Path) -> Any:
    """A value of a record, or a mark that it has no such key."""
    value = record.get(name, _MISSING)
    if value is _MISSING and len(path) > 1:
        value = record
        for key in path:
            value = value.get(key, _MISSING) if isinstance(value, dict) else _MISSING
    return value


def has(record: dict[str, Any], name: str) -> bool:
    return pick(record, name, path_of(name)) is not _MISSING


def values_of(records: Iterable[dict[str, Any]], name: str) -> list[Any]:
    """What records have at a key, but for nothing."""
    found = (pick(record, name, path_of(name)) for record in records)
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
    records: Iterable[dict[str, Any]], texts: list[str], others: list[str], rows: int, most: int, issues: Issues
) -> Iterator[pa.Table]:
    """The wanted values of records: of ``texts`` as strings, of ``others`` with their types.

    rows, most : of a batch, and its characters
    """
    names = [*texts, *others]
    paths = [(name, path_of(name)) for name in names]
    n_texts = len(texts)
    held: list[list[Any]] = []
    size = 0
    for record in records:
        values = [pick(record, name, path) for name, path in paths]
        if all(value is _MISSING for value in values[:n_texts]):
            issues.count(
                "keyless",
                1,
                f"record with the keys {', '.join(map(repr, list(record)[:5]))}" if issues.is_first("keyless") else "",
            )
        values = [None if value is _MISSING else value for value in values]
        values[:n_texts] = [string_of(value) for value in values[:n_texts]]
        held.append(values)
        size += sum(len(value) for value in values if isinstance(value, str)) + 8
        if len(held) == rows or size > most:
            yield _table(held, names, n_texts)
            held, size = [], 0
    if held:
        yield _table(held, names, n_texts)


def _table(held: list[list[Any]], names: list[str], n_texts: int) -> pa.Table:
    columns = list(zip(*held, strict=True))
    return pa.table({
        name: pa.array(column, pa.string()) if at < n_texts else typed(column)
        for at, (name, column) in enumerate(zip(names, columns, strict=True))
    })  # fmt: skip


def string_of(value: Any) -> str | None:
    """A value as text; an object or list as JSON; a number that is none as nothing."""
    if value is None or (isinstance(value, float) and value - value != 0):
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    # A lone surrogate (legal in JSON escapes) has no UTF-8 form.
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def typed(values: Iterable[Any]) -> pa.Array:
    """Values of one kind with their type; of several kinds, lists and objects as strings."""
    values = list(values)
    kinds = {type(value) for value in values} - {type(None)}
    try:
        if kinds <= {bool} or kinds <= {int}:
            return pa.array(values, pa.bool_() if kinds == {bool} else pa.int64() if kinds else pa.null())
        if kinds <= {int, float} and all(abs(value) <= 1 << 53 for value in values if isinstance(value, int)):
            return pa.array([value if value is None else float(value) for value in values], pa.float64())
    except (OverflowError, pa.ArrowInvalid):
        pass  # a whole number beyond 64 bits stays one as a string
    return pa.array([string_of(value) for value in values], pa.string())
