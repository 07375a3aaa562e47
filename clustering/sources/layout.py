"""One input file in; how it is written, and where its wanted columns are, out; its first records show both."""

from __future__ import annotations

import itertools
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from clustering.config.sections import ReadSection
from clustering.errors import InputError
from clustering.sources.batches import RECORD_BYTES, other_names, text_names
from clustering.sources.files import FORMATS, InputFile, filesystem, hive_partitions, takes_txt
from clustering.sources.formats import dialects, jsonlines, parquet
from clustering.sources.formats.encodings import Decoder
from clustering.sources.formats.issues import Issues
from clustering.sources.opening import UNREADABLE, archive_member, open_file, open_parquet, read_blocks, short_reason

HEAD_BYTES = 1 << 18  # of a text file, which show its layout; more where a line is longer
BLANK = b"\0 \t\r\n"  # before the first line of a file
MAX_CARRIED = 1000  # columns that `read.keep: all` takes


@dataclass
class DetectedFile:
    """A file with its layout, or with the problems that its head shows."""

    file: InputFile
    problems: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)  # all that it has; a name twice where two have it
    empty: bool = False
    unseen: list[str] = field(default_factory=list)  # wanted keys of a JSON file that may follow what was searched
    searched_bytes: int = 0  # for those keys
    listed_bytes: int = 0  # of a JSON file, whose keys `read.keep: all` takes; 0: all of it
    header: list[str] = field(default_factory=list)  # the first line, where text columns go by number all the same

    def has(self, name: str) -> bool:
        """Whether it has a column, or may have it beyond what was searched."""
        return self.file.layout["positions"].get(name) is not None

    def lacks(self, name: str) -> bool:
        return not self.has(name) or name in self.unseen

    def searched(self, names: list[str]) -> str:
        """How much was searched for some names, in words; nothing where it is all."""
        return f" in its first {self.searched_bytes:,} bytes" if {*names} & {*self.unseen} else ""


def detect_layout(file: InputFile, cfg: ReadSection, max_search_bytes: int) -> DetectedFile:
    """How a file is written and which columns it has; what is wrong becomes a problem, not an exception.

    max_search_bytes : of a JSON file, in which a key is sought that its first records lack
    """
    try:
        file = _with_member_format(file)
        if file.size == 0 and file.format:
            return _empty(file)
        if file.format == "parquet":
            return _detect_parquet(file, cfg)
        text, complete = _read_head(file, cfg)
        return (
            _detect_json(file, cfg, text, complete, max_search_bytes)
            if file.format == "jsonl"
            else _detect_csv(file, cfg, text, complete)
        )
    except InputError as error:
        return DetectedFile(file, [f"{file.uri}: {problem}" for problem in error.problems])
    except (*UNREADABLE, ValueError) as error:
        kind = f"{file.format} ({file.compression})" if file.compression else file.format
        return DetectedFile(file, [f"{file.uri} cannot be read as {kind}: {short_reason(error, file)}"])


def _with_member_format(file: InputFile) -> InputFile:
    """A zip with the format of the file in it."""
    if file.compression != "zip":
        return file
    files, named = filesystem(file.pattern)
    with files.open_input_file(file.path) as source, zipfile.ZipFile(source) as archive:
        name = archive_member(archive)
    form = file.format or FORMATS.get(name.rpartition(".")[2].lower(), "")
    if form == "txt" and not file.format and not takes_txt(file.pattern, named == file.path, None):
        raise InputError([f"it is a zip of {name!r}, which in a folder may be a README. Name the zip itself in "
                          f"read.paths, set read.format=txt, or leave it out with a narrower read.paths"])  # fmt: skip
    if not form:
        raise InputError(
            [f"it is a zip of {name!r}, whose suffix is none of {', '.join(FORMATS)}; read.format names it"]
        )
    return replace(file, format=form)


def _empty(file: InputFile) -> DetectedFile:
    return DetectedFile(replace(file, layout={"positions": {}}), empty=True)


def _detected(file: InputFile, positions: dict[str, Any], columns: list[str], **layout: Any) -> DetectedFile:
    """A file with its layout; what it lacks may stand in the names of its folders."""
    constants = hive_partitions(file.path)
    for name, position in positions.items():
        if position is None and name in constants:
            positions[name] = "constant"
    layout = {"positions": positions, "constants": constants, **layout}
    return DetectedFile(
        replace(file, layout=layout), columns=[*columns, *(name for name in constants if name not in columns)]
    )


def _wanted(cfg: ReadSection, own: list[str]) -> list[str]:
    """The names of wanted columns; own : those that ``read.keep: all`` takes, a few more than it may at most"""
    named = [*text_names(cfg), *other_names(cfg)]
    kept = own[: MAX_CARRIED + len(named)] if cfg.keep == ("all",) else cfg.keep
    return list(dict.fromkeys([*named, *kept]))


def _text_and_id(cfg: ReadSection) -> list[str]:
    return [*text_names(cfg), *([cfg.id_column] if cfg.id_column else [])]


def _detect_csv(file: InputFile, cfg: ReadSection, text: str, complete: bool) -> DetectedFile:
    if file.format == "txt":
        if cfg.format is None and jsonlines.looks_like_json(text):
            raise InputError(["it holds JSON. read.format=jsonl reads it as such; read.format=txt takes each line as "
                              "one text"])  # fmt: skip
        head = dialects.detect_lines(text, complete, checked=cfg.format is None)
    else:
        head = dialects.detect_dialect(text, complete, file.format, cfg.csv, _wanted(cfg, []))
    if head is None:
        return _empty(file)
    names = [name or str(number) for number, name in enumerate(head.names, 1)]
    positions = {name: head.position(name) for name in _wanted(cfg, names)}
    _check_widths(head, cfg)
    detected = _detected(file, positions, names, dialect=asdict(head.dialect))
    found = [(name, at) for name in text_names(cfg) if isinstance(at := positions[name], int)]
    if (
        file.format != "txt"
        and cfg.csv.header == "first"
        and any(head.names[at].strip() not in ("", name) for name, at in found)
    ):
        detected.header = head.names
    return detected


def _check_widths(head: dialects.Head, cfg: ReadSection) -> None:
    """Raises: InputError when most of the first records do not have the fields of the header."""
    width, count = head.dialect.width, len(head.records)
    bad = [row for row in head.records if len(row) < width or any(cell.strip() for cell in row[width:])]
    if count < 4 or 2 * len(bad) <= count or cfg.bad_lines == "skip":
        return
    names, cells = (", ".join(repr(one[:30]) for one in row[:6]) for row in (head.names, bad[0]))
    raise InputError([f"{len(bad)} of the first {count} records do not have the {width} fields of the header "
                      f"({names}); one has {len(bad[0])}: {cells}. Set read.csv (delimiter, quote, escape, header), or "
                      f"read.bad_lines=skip"])  # fmt: skip


def _detect_json(file: InputFile, cfg: ReadSection, text: str, complete: bool, max_search_bytes: int) -> DetectedFile:
    if not text.strip():
        return _empty(file)
    style, issues = jsonlines.detect_style(text, complete), Issues()
    head = text if complete or style != "lines" else text[: text.rfind("\n") + 1] or text
    records = jsonlines.records_of([(head.encode("utf-8", "replace"), True)], style, RECORD_BYTES, issues)
    first_records = list(itertools.islice(records, jsonlines.HEAD_LINES))
    keys = jsonlines.keys_of(first_records)
    for name in _text_and_id(cfg):
        _check_plain(name, jsonlines.values_of(first_records, name))
    if not keys and issues.counts["malformed"] and (complete or style == "lines"):
        raise ValueError(f"no line holds a JSON object; {issues.example('malformed')}")
    top, listed_bytes = [key for key in keys if "." not in key], 0
    if cfg.keep == ("all",) and not (complete and len(first_records) < jsonlines.HEAD_LINES):
        further, listed_bytes = _top_keys(file, style, max_search_bytes)
        top = list(dict.fromkeys([*top, *further]))
    wanted, constants = _wanted(cfg, top), hive_partitions(file.path)
    positions: dict[str, Any] = {
        name: 0 if name in keys or name in top or _goes_deeper(name, keys) else None for name in wanted
    }
    unseen = [name for name, position in positions.items() if position is None and name not in constants]
    searched_bytes = 0
    if unseen:
        seen, searched_bytes = _search_keys(file, unseen, style, max_search_bytes)
        positions.update(dict.fromkeys(unseen if searched_bytes else seen, 0))
        unseen = [name for name in unseen if searched_bytes and name not in seen]
    columns = top if cfg.keep == ("all",) else [*top, *(key for key in keys if "." in key)]
    return replace(_detected(file, positions, columns, style=style), unseen=unseen, searched_bytes=searched_bytes,
                   listed_bytes=listed_bytes)  # fmt: skip


def _check_plain(name: str, values: list[Any]) -> None:
    """Raises: InputError for a text or id column whose first values are all objects or lists."""
    if not values or not all(isinstance(value, (dict, list)) for value in values):
        return
    inner = next((key for value in values if isinstance(value, dict) for key in value), None)
    if inner is None:
        raise InputError([f"column '{name}' holds lists; a text or id column holds strings or numbers"])
    raise InputError([f"column '{name}' holds objects; name a key within them ({f'{name}.{inner}'!r}), or write one "
                      f"record on each line (in pandas to_json(orient='records', lines=True))"])  # fmt: skip


def _goes_deeper(name: str, keys: list[str]) -> bool:
    """Whether a path goes deeper than ``keys_of``, which notes two levels."""
    parts = name.split(".")
    return len(parts) > 2 and ".".join(parts[:2]) in keys


def _search_keys(file: InputFile, names: list[str], style: str, max_bytes: int) -> tuple[list[str], int]:
    """Those keys that some record of a JSON file has, though its first records lack them.

    Returns: the keys, and how many bytes were searched if that is not all of the file, else 0.
    """
    words = {name: f'"{name.rpartition(".")[2]}"' for name in names}
    found: set[str] = set()
    scan = _Scan(file, max_bytes)
    if style != "lines":
        records = jsonlines.records_of(scan.blocks(), style, RECORD_BYTES, Issues())
    else:
        lines = jsonlines.lines_of(scan.blocks(), RECORD_BYTES)
        records = (jsonlines.value_of(line) for line in lines if any(word in line for word in words.values()))
    for record in records:
        found |= {name for name in words if isinstance(record, dict) and jsonlines.has(record, name)}
        if len(found) == len(names):
            break
    return [name for name in names if name in found], 0 if len(found) == len(names) else scan.cut_bytes


def _top_keys(file: InputFile, style: str, max_bytes: int) -> tuple[list[str], int]:
    """The keys of the records of a JSON file, and how many bytes were searched if that is not all of it, else 0."""
    scan, keys = _Scan(file, max_bytes), dict[str, None]()
    for record in jsonlines.records_of(scan.blocks(), style, RECORD_BYTES, Issues()):
        keys.update(dict.fromkeys(record))
    return [key for key in keys if "." not in key], scan.cut_bytes


class _Scan:
    """Reads a JSON file, up to some bytes."""

    def __init__(self, file: InputFile, max_bytes: int) -> None:
        self.file, self.max_bytes = file, max_bytes
        self.cut_bytes = 0  # that were read, where that is not all

    def blocks(self) -> Iterator[tuple[bytes, bool]]:
        """The blocks, each with whether it is the last of the file."""
        searched = 0
        for block, final in read_blocks(self.file, Decoder(None, "replace", Issues())):
            searched += len(block)
            self.cut_bytes = 0 if final else searched
            yield block, final
            if searched >= self.max_bytes:
                break


def _detect_parquet(file: InputFile, cfg: ReadSection) -> DetectedFile:
    columns = parquet.ColumnIndex(parquet.open_table(open_parquet(file)).schema_arrow)
    positions: dict[str, Any] = {name: columns.position(name) for name in _wanted(cfg, columns.names)}
    for name in _text_and_id(cfg):
        if positions[name] is not None and not parquet.is_text(kind := columns.type_of(positions[name])):
            raise InputError([f"column '{name}' holds {kind}; a text or id column holds strings or numbers"])
    names = columns.names if cfg.keep == ("all",) else columns.paths()
    at = positions[cfg.id_column] if cfg.id_column else None
    return _detected(file, positions, names, uuids=at is not None and parquet.is_uuid(columns.type_of(at)))


def _read_head(file: InputFile, cfg: ReadSection) -> tuple[str, bool]:
    """The first characters of a text file, up to the end of a line, and whether that is all of it."""
    found, least = bytearray(), HEAD_BYTES
    decoder = Decoder(cfg.csv.encoding if file.format != "jsonl" else None, "replace", Issues())
    complete = False
    with open_file(file) as stream:
        while not complete:
            too_long = len(found) > 2 * RECORD_BYTES
            if too_long or len(found) >= least:
                if _shows_layout(found, file.format, too_long):
                    break
                least = 2 * len(found)
            if too_long:
                raise InputError([_too_long(found, file.format)])
            block = stream.read(HEAD_BYTES)
            complete = len(block) < HEAD_BYTES and not stream.read(1) if block else True
            if not complete and len(block) < HEAD_BYTES:
                raise OSError("it changed while it was read")
            found += decoder(block, complete)
    return found.decode("utf-8", "replace"), complete


def _shows_layout(head: bytearray, form: str, too_long: bool) -> bool:
    """Whether the first bytes of a file hold a whole line; of a list in JSON, a whole value.

    too_long : for a line, so that values in JSON may follow each other on one
    """
    start = head.lstrip(BLANK)
    if form == "jsonl" and (too_long or start.startswith(b"[")):
        return jsonlines.holds_value(start.decode("utf-8", "replace"))
    return b"\n" in start or b"\r" in start


def _too_long(head: bytearray, form: str) -> str:
    start = head.lstrip(BLANK)
    if not start:
        return f"its first {len(head):,} bytes hold nothing but white space. Take them out of it."
    if form == "jsonl" and start.startswith(b"["):
        return f"a record is longer than {RECORD_BYTES:,} characters. Write smaller ones."
    if form in ("jsonl", "txt"):
        return f"a line is longer than {RECORD_BYTES:,} characters. Write one record on each line."
    return f"a record is longer than {RECORD_BYTES:,} bytes; a quote that is never closed makes one of many"
