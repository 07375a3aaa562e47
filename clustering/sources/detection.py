"""read.paths in; the files of the input, each with how it is written and where its columns stand, out."""

from __future__ import annotations

import itertools
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from clustering.config.sections import ReadSection
from clustering.errors import ConfigError, InputError
from clustering.runs.object_store import PATIENCE_S, is_local
from clustering.sources.batches import RECORD_BYTES, other_names, text_names
from clustering.sources.files import (
    DETECTION_THREADS,
    FORMATS,
    SHOWN,
    InputFile,
    Inputs,
    filesystem,
    hive_partitions,
    resolve_paths,
    unread_warning,
)
from clustering.sources.formats import dialects, jsonlines, parquet
from clustering.sources.formats.encodings import Decoder
from clustering.sources.formats.issues import Issues
from clustering.sources.opening import UNREADABLE, archive_member, open_file, open_parquet, read_blocks, short_reason

HEAD_BYTES = 1 << 18  # of a text file, from which its layout is told; more where a line is longer
SCAN_BYTES = 256 << 20  # of all JSON files that are searched for keys that their first records lack
SCAN_LEAST = 4 << 20  # of each
WIDEST = 1000  # columns that `read.keep: all` takes


@dataclass
class _FileLayout:
    """What one file has shown."""

    file: InputFile
    problems: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)  # those that it has
    empty: bool = False
    unseen: list[str] = field(default_factory=list)  # wanted keys of a JSON file that may come after what was looked at
    searched: int = 0  # bytes that were looked at for them
    header: list[str] = field(default_factory=list)  # the first line, where text columns go by number all the same


def find_files(
    cfg: ReadSection, exclude: Callable[[str], bool] = lambda _: False, patience_s: float = PATIENCE_S
) -> Inputs:
    """Resolve paths, globs, directories and URIs to files, and look into each for its layout and its wanted columns.

    exclude : says of a file's URI whether it is no input, such as an artefact of the run itself
    patience_s : how long a bucket that fails is waited for when the files are read; here it is not
    Returns: the files in the order of ``paths``, each path's files by name; a file named twice is read once.
    Raises: ConfigError that lists every problem: nothing found, unknown format, not decodable, a column that no file
        has, a text column of a kind that is no text.
    """
    problems: list[str] = []
    files, unread = resolve_paths(cfg, exclude, problems)
    with ThreadPoolExecutor(1 if all(is_local(file.pattern) for file in files) else DETECTION_THREADS) as pool:
        most = max(SCAN_LEAST, SCAN_BYTES // max(len(files), 1))
        looks = list(pool.map(lambda file: _look_into(file, cfg, most), files))
    problems += [problem for look in looks for problem in look.problems]
    full = [look for look in looks if not look.empty and not look.problems]
    problems += _without_header(full, cfg)
    all_kept = cfg.keep == ("all",)
    keep = tuple(dict.fromkeys(name for look in full for name in look.columns if name)) if all_kept else cfg.keep
    if all_kept:
        taken = {*cfg.text_columns, *other_names(cfg)}
        keep = tuple(name for name in keep if name not in taken)
    if len(keep) > WIDEST:
        problems.append(
            f"read.keep means {len(keep):,} columns; at most {WIDEST:,} are carried. Name those that you need."
        )
    warnings = unread_warning(unread)
    if full:
        missing, told = _missing(full, cfg)
        problems += missing
        warnings += told
    if problems:
        raise ConfigError(problems)
    return Inputs([replace(look.file, patience_s=patience_s) for look in looks], keep, warnings)


def _missing(looks: list[_FileLayout], cfg: ReadSection) -> tuple[list[str], list[str]]:
    """Columns that no file has, which is an error; and the warnings for the files that lack what others have."""
    wanted = [*text_names(cfg), *other_names(cfg, () if cfg.keep == ("all",) else cfg.keep)]
    nowhere = [name for name in wanted if all(_lacking(look, name) for look in looks)]
    if cfg.bad_lines == "skip":
        nowhere = [name for name in nowhere if not any(name in look.unseen for look in looks)]
    problems = [_lacks(look, nowhere) for look in looks[:SHOWN] if nowhere]
    if len(looks) > SHOWN and nowhere:
        problems.append(f"{len(looks) - SHOWN:,} more files have no column {_listed(nowhere)} either")
    warnings = []
    if headed := [look for look in looks if look.header]:
        cells = ", ".join(repr(name[:30]) for name in headed[0].header[:6])
        warnings.append(f"The first line of {len(headed):,} files is taken for a header, though read.text_columns goes "
                        f"by number (read.csv.header=none makes it a record); the first: {headed[0].file.uri}, "
                        f"{cells}.")  # fmt: skip
    for name in wanted:
        lacking = [
            f"{look.file.uri}{_looked_at(look, [name])}"
            for look in looks
            if name not in nowhere and _lacking(look, name)
        ]
        if lacking:
            more = f" and {len(lacking) - SHOWN:,} more" if len(lacking) > SHOWN else ""
            warnings.append(
                f"{len(lacking):,} of {len(looks):,} files have no column '{name}': {', '.join(lacking[:SHOWN])}{more}."
            )
    return problems, warnings


def _lacking(look: _FileLayout, name: str) -> bool:
    return look.file.layout["positions"].get(name) is None or name in look.unseen


def _looked_at(look: _FileLayout, names: list[str]) -> str:
    """How much was searched where it is not all."""
    return f" in its first {look.searched:,} bytes" if {*names} & {*look.unseen} else ""


def _without_header(looks: list[_FileLayout], cfg: ReadSection) -> list[str]:
    """Why files are refused whose first line, a record by all that is known, would be taken for a header.

    They are as wide as a csv file that has a text column and have the same delimiter, but none of the names of one.
    """
    if cfg.csv.header != "first" or cfg.bad_lines == "skip":
        return []
    tables = [look for look in looks if "dialect" in look.file.layout]
    named = {_shape(look): look for look in reversed(tables) if _has_text(look, cfg)}
    lacking = [
        (look, other)
        for look in tables
        if (other := named.get(_shape(look))) and not _has_text(look, cfg) and not _names(look) & _names(other)
    ]
    found = [
        f"{look.file.uri} has as many columns as {other.file.uri}, but no header with such names; its first line is "
        f"{', '.join(repr(name[:30]) for name in look.columns[:6])}. Join the files to one, or write the header into "
        f"each; read.bad_lines=skip leaves the records of such files out"
        for look, other in lacking[:SHOWN]
    ]
    more = [f"{len(lacking) - SHOWN:,} more files have no such header either"] if len(lacking) > SHOWN else []
    return found + more


def _shape(look: _FileLayout) -> tuple[str, int]:
    dialect = look.file.layout["dialect"]
    return dialect["delimiter"], dialect["width"]


def _names(look: _FileLayout) -> set[str]:
    """The names that a file's own first line gives."""
    return {name for name in look.columns if not name.isdigit()} - {*look.file.layout["constants"]}


def _has_text(look: _FileLayout, cfg: ReadSection) -> bool:
    return any(look.file.layout["positions"].get(name) is not None for name in text_names(cfg))


def _lacks(look: _FileLayout, names: list[str]) -> str:
    columns = look.columns
    some = ", ".join(repr(name[:60]) for name in columns[:50]) + (", ..." if len(columns) > 50 else "")
    where = _looked_at(look, names)
    more = " If it comes later, read.bad_lines=skip reads on." if where else ""
    return (
        f"{look.file.uri} has no column {_listed(names)}{where}; its columns are {some or 'none'}. Set "
        f"read.text_columns and read.id_column.{more}"
    )


def _listed(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _look_into(file: InputFile, cfg: ReadSection, most: int) -> _FileLayout:
    """How a file is written, which columns it has, and the problems that its head shows.

    most : bytes of a JSON file in which a key is sought
    """
    try:
        file = _member_format(file)
        if file.size == 0 and file.format:
            return _FileLayout(replace(file, layout={"positions": {}}), empty=True)
        if file.format == "jsonl":
            return _look_json(file, cfg, most)
        return {"csv": _look_csv, "tsv": _look_csv, "parquet": _look_parquet}[file.format](file, cfg)
    except InputError as error:
        return _FileLayout(file, [f"{file.uri}: {problem}" for problem in error.problems])
    except (*UNREADABLE, ValueError) as error:
        return _FileLayout(file, [f"{file.uri} cannot be read as {_kind(file)}: {short_reason(error, file)}"])


def _kind(file: InputFile) -> str:
    return f"{file.format}{f' ({file.compression})' if file.compression else ''}"


def _member_format(file: InputFile) -> InputFile:
    if file.compression != "zip":
        return file
    with filesystem(file.pattern)[0].open_input_file(file.path) as source, zipfile.ZipFile(source) as archive:
        name = archive_member(archive)
    suffix = name.rpartition(".")[2].lower()
    form = file.format or FORMATS.get(suffix, "")
    if not form:
        raise InputError(
            [f"it is a zip of {name!r}, whose suffix is none of {', '.join(FORMATS)}; read.format names it"]
        )
    return replace(file, format=form)


def _look_csv(file: InputFile, cfg: ReadSection) -> _FileLayout:
    wanted = [*text_names(cfg), *other_names(cfg, cfg.keep)]
    text, whole = _head(file, cfg)
    head = dialects.detect_dialect(text, whole, file.format, cfg.csv, wanted)
    if head is None:
        return _FileLayout(replace(file, layout={"positions": {}}), empty=True)
    names = [name or str(number) for number, name in enumerate(head.names, 1)]
    if cfg.keep == ("all",):
        wanted = (
            [*dict.fromkeys([*text_names(cfg), *other_names(cfg), *names])] if len(names) <= WIDEST else names[:WIDEST]
        )
    constants = hive_partitions(file.name)
    places: dict[str, Any] = {}
    for name in wanted:
        if name == "all" and cfg.keep == ("all",):
            continue
        places[name] = head.place(name)
    columns = list(dict.fromkeys([*names, *constants]))
    layout = {"dialect": asdict(head.dialect), "positions": _with_constants(places, constants), "constants": constants}
    _check_widths(head, cfg)
    numbered = cfg.csv.header == "first" and any(
        (place := places[name]) is not None and head.names[place].strip() not in ("", name) for name in text_names(cfg)
    )
    return _FileLayout(replace(file, layout=layout), columns=columns, header=head.names if numbered else [])


def _check_widths(head: dialects.Head, cfg: ReadSection) -> None:
    """Raises: InputError when most of the first records do not have the fields of the header."""
    width, count = head.dialect.width, len(head.records)
    bad = [row for row in head.records if len(row) < width or any(cell.strip() for cell in row[width:])]
    if count < 4 or 2 * len(bad) <= count or cfg.bad_lines == "skip":
        return
    names, cells = (", ".join(repr(one[:30]) for one in row[:6]) for row in (head.names, bad[0]))
    raise InputError([f"{len(bad)} of the first {count} records have not the {width} fields of the header ({names}) "
                      f"but, for one, {len(bad[0])}: {cells}. Set read.csv (delimiter, quote, escape, header), or "
                      f"read.bad_lines=skip"])  # fmt: skip


def _with_constants(places: dict[str, Any], constants: dict[str, str]) -> dict[str, Any]:
    return {name: place if place is not None or name not in constants else "constant" for name, place in places.items()}


def _look_json(file: InputFile, cfg: ReadSection, most: int) -> _FileLayout:
    text, whole = _head(file, cfg)
    if not text.strip():
        return _FileLayout(replace(file, layout={"positions": {}}), empty=True)
    layout = jsonlines.detect_style(text, whole)
    issues = Issues()
    head = text if whole else text[: text.rfind("\n") + 1] or text
    blocks = [(head.encode("utf-8", "replace"), True)]
    records = list(
        itertools.islice(jsonlines.records_of(iter(blocks), layout, RECORD_BYTES, issues), jsonlines.HEAD_LINES)
    )
    keys = jsonlines.keys_of(records)
    for name in [*text_names(cfg), *([cfg.id_column] if cfg.id_column else [])]:
        _check_plain(name, jsonlines.values_of(records, name))
    if not keys and issues.counts["malformed"]:
        if whole or layout == "lines":
            raise ValueError(f"no line holds a JSON object; {issues.example('malformed')}")
        keys = []
    constants = hive_partitions(file.name)
    kept = () if cfg.keep == ("all",) else cfg.keep
    wanted = [*text_names(cfg), *other_names(cfg, kept)]
    if cfg.keep == ("all",):
        wanted = list(dict.fromkeys([*wanted, *(key for key in keys if "." not in key)]))
    places: dict[str, Any] = {name: 0 if name in keys or _reaches(name, keys) else None for name in wanted}
    unseen = [name for name, place in places.items() if place is None and name not in constants]
    searched = 0
    if unseen:
        seen, searched = _search(file, unseen, layout, most)
        places.update(dict.fromkeys(unseen if searched else seen, 0))
        unseen = [name for name in unseen if searched and name not in seen]
    columns = [*(key for key in keys if "." not in key), *(key for key in keys if "." in key), *constants]
    found = {"style": layout, "positions": _with_constants(places, constants), "constants": constants}
    return _FileLayout(
        replace(file, layout=found),
        columns=list(dict.fromkeys(columns))
        if cfg.keep != ("all",)
        else [*(key for key in keys if "." not in key), *constants],
        unseen=unseen,
        searched=searched,
    )


def _check_plain(name: str, values: list[Any]) -> None:
    """Raises: InputError for a text or id column whose first values are all objects or lists."""
    if not values or not all(isinstance(value, (dict, list)) for value in values):
        return
    inner = next((key for value in values if isinstance(value, dict) for key in value), None)
    if inner is None:
        raise InputError([f"column '{name}' holds lists; a text or id column holds strings or numbers"])
    raise InputError([f"column '{name}' holds objects; name a key within them ({f'{name}.{inner}'!r}), or write one "
                      f"record on each line (in pandas to_json(orient='records', lines=True))"])  # fmt: skip


def _reaches(name: str, keys: list[str]) -> bool:
    """Whether a path goes deeper than the keys that were noted."""
    parts = name.split(".")
    return len(parts) > 2 and ".".join(parts[:2]) in keys


def _search(file: InputFile, names: list[str], layout: str, most: int) -> tuple[list[str], int]:
    """Those keys that some record of a JSON file has, though its first records lack them.

    most : bytes that are looked at, about
    Returns: the keys, and how many bytes were looked at if that is not all of the file, else 0.
    """
    words = {name: f'"{name.rpartition(".")[2]}"' for name in names}
    found: set[str] = set()
    looked, whole = 0, False

    def blocks() -> Iterator[tuple[bytes, bool]]:
        nonlocal looked, whole
        for block, final in read_blocks(file, Decoder(None, "replace", Issues())):
            looked, whole = looked + len(block), final
            yield block, final
            if looked >= most:
                break

    if layout == "stream":
        records = jsonlines.records_of(blocks(), layout, RECORD_BYTES, Issues())
    else:
        lines = jsonlines.lines_of(blocks(), RECORD_BYTES)
        records = (jsonlines.value_of(line) for line in lines if any(word in line for word in words.values()))
    for record in records:
        found |= {name for name in words if isinstance(record, dict) and jsonlines.has(record, name)}
        if len(found) == len(names):
            break
    return [name for name in names if name in found], 0 if whole or len(found) == len(names) else looked


def _look_parquet(file: InputFile, cfg: ReadSection) -> _FileLayout:
    table = parquet.open_table(open_parquet(file))
    columns = parquet.ColumnIndex(table.schema_arrow)
    constants = hive_partitions(file.name)
    kept = tuple(dict.fromkeys(columns.names)) if cfg.keep == ("all",) else cfg.keep
    if len(set(columns.names)) < len(columns.names) and cfg.keep == ("all",):
        doubled = next(name for name in columns.names if columns.names.count(name) > 1)
        columns.position(doubled)
    places: dict[str, Any] = {}
    for name in [*text_names(cfg), *other_names(cfg, kept[:WIDEST])]:
        places[name] = columns.position(name)
    for name in [*text_names(cfg), *([cfg.id_column] if cfg.id_column else [])]:
        if places[name] is not None and not parquet.is_text(kind := columns.type_of(places[name])):
            raise InputError([f"column '{name}' holds {kind}; a text or id column holds strings or numbers"])
    layout = {"positions": _with_constants(places, constants), "constants": constants}
    names = columns.names if cfg.keep == ("all",) else columns.paths()
    return _FileLayout(replace(file, layout=layout), columns=list(dict.fromkeys([*names, *constants])))


def _head(file: InputFile, cfg: ReadSection) -> tuple[str, bool]:
    """The first characters of a text file, up to the end of a line, and whether they are all."""
    held: list[bytes] = []
    size = 0
    decoder = Decoder(cfg.csv.encoding if file.format != "jsonl" else None, "replace", Issues())
    whole = False
    with open_file(file) as stream:
        while not whole and (size < HEAD_BYTES or not any(b"\n" in one or b"\r" in one for one in held)):
            if size > 2 * RECORD_BYTES:
                unit = "line" if file.format == "jsonl" else "record"
                words = ("characters. Write one record on each line." if file.format == "jsonl" else
                         "bytes; a quote that is never closed makes one of many")  # fmt: skip
                raise InputError([f"a {unit} is longer than {RECORD_BYTES:,} {words}"])
            block = stream.read(HEAD_BYTES)
            whole = len(block) < HEAD_BYTES and not stream.read(1) if block else True
            if not whole and len(block) < HEAD_BYTES:
                raise OSError("it changed while it was read")
            held.append(decoder(block, whole))
            size += len(block)
    return b"".join(held).decode("utf-8", "replace"), whole
