"""An input file whose layout is known in, batches of its wanted columns out."""

from __future__ import annotations

import io
import lzma
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from clustering.config.sections import ReadSection
from clustering.errors import InputError
from clustering.runs.storage import RetryingFile
from clustering.sources.files import InputFile, filesystem
from clustering.sources.formats import delimited, dialects, jsonlines, parquet
from clustering.sources.formats.column_types import infer_integers
from clustering.sources.formats.encodings import Decoder
from clustering.sources.formats.issues import Issues

BLOCK_BYTES = 4 << 20  # of a text file that are looked at in one go
# What a file may make a worker hold.
RECORD_BYTES = 16 << 20  # the longest record of a csv file, line of a JSON Lines file, value of a Parquet file
BATCH_BYTES = 64 << 20  # of values held as Python strings
# And on disk: records out of a packed file may pass one of these, not both. A million copies of one title are honest
# and pack 1000 to 1, but headlines pack 2 to 10 times.
EXPANDED_BYTES = 1 << 30
EXPANSION_RATIO = 200  # of the records' bytes to the file's
RECORD_COST = 64  # bytes that a record takes in records/ besides its text: its id and digests
UNREADABLE = (
    OSError, UnicodeError, pa.ArrowException, LookupError, EOFError, lzma.LZMAError, zlib.error, zipfile.BadZipFile,
    RuntimeError, NotImplementedError,
)  # fmt: skip


@dataclass(frozen=True)
class ReadTask:
    """What one worker call reads: some files, or some row groups of one Parquet file."""

    files: list[dict[str, Any]] = field(default_factory=list)
    row_groups: list[int] | None = None
    first_record: int = 0


def text_names(cfg: ReadSection) -> list[str]:
    return list(dict.fromkeys(cfg.text_columns))


def other_names(cfg: ReadSection, keep: tuple[str, ...] = ()) -> list[str]:
    """The wanted columns besides the texts, in the types that they have."""
    named = (cfg.id_column, cfg.time_column, cfg.source_column, cfg.link_column, *keep)
    return list(dict.fromkeys(name for name in named if name))


def archive_member(archive: zipfile.ZipFile) -> str:
    """The name of the only file in an archive.

    Raises: InputError when there are several, or none.
    """
    names = [
        info.filename
        for info in archive.infolist()
        if not (info.is_dir() or info.filename.startswith("__MACOSX/") or info.filename.split("/")[-1].startswith("."))
    ]
    if len(names) != 1:
        shown = ", ".join(map(repr, names[:5]))
        raise InputError([f"it is a zip of {len(names)} files ({shown}); unpack it, and name the files that you mean"])
    return names[0]


def _source(file: InputFile) -> Any:
    """The bytes of a file as they lie there, at any place."""
    return RetryingFile(file.remote) if file.remote else filesystem(file.pattern)[0].open_input_file(file.path)


def open_file(file: InputFile) -> Any:
    """The unpacked bytes of a file, as a stream."""
    if file.compression == "zip":
        archive = zipfile.ZipFile(_source(file))
        return archive.open(archive_member(archive))
    if file.compression == "xz":
        return lzma.open(_source(file))
    if file.remote:
        stream = io.BufferedReader(RetryingFile(file.remote), BLOCK_BYTES)
        return pa.CompressedInputStream(pa.PythonFile(stream, "r"), file.compression) if file.compression else stream
    return filesystem(file.pattern)[0].open_input_stream(file.path, compression=file.compression)


def blocks_of(file: InputFile, decoder: Decoder) -> Iterator[tuple[bytes, bool]]:
    """A text file as UTF-8, a block at a time, and whether it is the last."""
    with open_file(file) as stream:
        while block := stream.read(BLOCK_BYTES):
            yield decoder(block), False
    yield decoder(b"", True), True


def parquet_source(file: InputFile) -> Any:
    """A Parquet file that can be read anywhere; a packed one is unpacked to the disk, up to a bound."""
    if not file.compression:
        return _source(file)
    source: Any = tempfile.TemporaryFile()  # noqa: SIM115 - it is there as long as somebody reads from it
    with open_file(file) as stream:
        while chunk := stream.read(1 << 20):
            if source.tell() + len(chunk) > parquet.UNPACKED_BYTES:
                raise InputError(
                    [
                        f"it unpacks to more than {parquet.UNPACKED_BYTES:,} bytes. Take it out of its "
                        f"{file.compression}."
                    ]
                )
            source.write(chunk)
    return source


def short_reason(error: BaseException, file: InputFile | None = None) -> str:
    """An error of a library in words."""
    compression = file.compression if file is not None else None
    words = " ".join(str(error).split())[:300] or type(error).__name__
    if compression and any(
        hint in words for hint in ("incorrect header check", "Not a gzipped file", "Invalid data stream")
    ):
        return f"it is not {compression}, or something else follows its {compression}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return words


def read_batches(
    file: InputFile, task: ReadTask, cfg: ReadSection, keep: tuple[str, ...], rows: int, issues: Issues
) -> Iterator[pa.Table]:
    """The wanted columns of a file, some thousand records at a time: texts as strings, the others with their types.

    Raises: InputError for what passes a bound, as a packed file out of which far more comes than went in.
    """
    texts, others = text_names(cfg), other_names(cfg, keep)
    places = file.layout["places"]
    without = file.format != "jsonl" and places and all(places.get(name) is None for name in texts)
    records = unpacked = 0
    for table in _values(file, task, cfg, texts, others, rows, issues):
        if without:  # of JSON, the records are counted one by one
            issues.count("keyless", len(table), "the first record")
        if file.compression:
            records += len(table)
            unpacked += table.nbytes + RECORD_COST * len(table)
            if unpacked > max(EXPANDED_BYTES, EXPANSION_RATIO * file.size):
                raise InputError([f"{records:,} records of {unpacked:,} bytes have come out of its {file.size:,} bytes "
                                  f"of {file.compression}, more than {EXPANSION_RATIO} times as much. If it is sound, "
                                  f"unpack it and name the unpacked file."])  # fmt: skip
        yield _completed(table, texts, others, file.layout["constants"])


def _values(
    file: InputFile, task: ReadTask, cfg: ReadSection, texts: list[str], others: list[str], rows: int, issues: Issues
) -> Iterator[pa.Table]:
    places = {name: place for name, place in file.layout["places"].items() if place not in (None, "constant")}
    own = {name: place for name, place in places.items() if name in texts or name in others}
    own_texts, own_others = ([name for name in names if name in own] for names in (texts, others))
    if not file.layout.get("places"):
        return
    if file.format == "parquet":
        source = parquet_source(file)
        if not own:
            count = parquet.open_table(source).metadata
            groups = range(count.num_row_groups) if task.row_groups is None else task.row_groups
            for group in groups:
                yield from _nothing(count.row_group(group).num_rows, rows)
            return
        bounds = {"rows": rows, "batch": BATCH_BYTES, "record": RECORD_BYTES}
        at = {name: (place[0], list(place[1])) for name, place in own.items()}
        yield from parquet.read_row_groups(source, task.row_groups, at, own_texts, bounds, cfg.errors, issues)
        return
    decoder = Decoder(cfg.csv.encoding if file.format != "jsonl" else None, cfg.errors, issues)
    blocks = blocks_of(file, decoder)
    if file.format == "jsonl":
        found = jsonlines.records_of(blocks, file.layout["style"], RECORD_BYTES, issues)
        yield from jsonlines.read_values(found, texts, own_others, rows, BATCH_BYTES, issues)
        return
    dialect = dialects.Dialect(**file.layout["dialect"])
    counted = own or {"": 0}
    for table in delimited.read_records(blocks, dialect, counted, own_texts, RECORD_BYTES, issues):
        for start in range(0, len(table), rows):
            part = table.slice(start, rows)
            columns = {name: part[name] for name in own_texts} | {
                name: infer_integers(part[name].combine_chunks()) for name in own_others if name not in texts
            }
            yield pa.table(columns) if columns else next(_nothing(len(part), rows))


def _nothing(count: int, rows: int) -> Iterator[pa.Table]:
    """As many records without a column."""
    for start in range(0, count, rows):
        yield pa.table({"": pa.nulls(min(rows, count - start))})


def _completed(table: pa.Table, texts: list[str], others: list[str], constants: dict[str, str]) -> pa.Table:
    """The table with every wanted column; a file that lacks one has nothing there, or what its folder says."""
    columns = {}
    for name in [*texts, *others]:
        if name in table.schema.names:
            columns[name] = table[name]
        elif name in constants:
            values = pa.array([constants[name]] * len(table), pa.string())
            columns[name] = values if name in texts else infer_integers(values)
        else:
            columns[name] = pa.nulls(len(table), pa.string() if name in texts else pa.null())
    return pa.table(columns)


def lines_problem(records: int, issues: Issues, cfg: ReadSection) -> list[str]:
    """Why an input of which too many lines are malformed is refused."""
    bad = issues.counts["malformed"]
    if cfg.bad_lines == "skip" or bad * 100 <= records + bad:
        return []
    return [
        f"{bad:,} of {records + bad:,} records are malformed; the first: {issues.example('malformed')}. Mend the "
        f"input, set read.csv (delimiter, quote, escape) or read.format, or leave such records out with "
        f"read.bad_lines=skip"
    ]
