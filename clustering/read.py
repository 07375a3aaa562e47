"""Files in; texts/ (one row for each distinct text) and members/ (one line for each record) out."""

from __future__ import annotations

import csv
import fnmatch
import io
import itertools
import json
import posixpath
import tempfile
import time
import unicodedata
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.fs
import pyarrow.parquet as pq

from clustering import schema
from clustering.config import ReadSection
from clustering.errors import ConfigError, InputError
from clustering.kernels.copies import fold_copies
from clustering.parts import Item, map_parts, on_worker
from clustering.rundir import Figures, RunDir, names_of, part_name, parts, write_table
from clustering.storage import filesystem_of, has_extensions, load_array, read_schema, read_table, whole

RECORDS_PER_PART = 8192
PIECE_BYTES = 32 << 20  # files are read in pieces of about this size: small files together, Parquet by row groups
JSONL_HEAD = 1000  # lines of a JSON Lines file that are searched for keys before any work
# What a file may make a worker hold.
RECORD_BYTES = 16 << 20  # the longest record of a csv file, line of a JSON Lines file, value of a Parquet file
BATCH_BYTES = 64 << 20  # of values held as Python strings
DENSE_BYTES = 1 << 30  # of a Parquet batch, at the worst, where equal values cannot be read as one
UNPACKED_BYTES = 4 << 30  # of the wanted columns of a row group; of a Parquet file within gzip, on disk
FOOTER_BYTES = 32 << 20  # of a Parquet file; a crafted footer takes 240 times its size in memory
# And on disk: records out of gzip may pass one of these, not both. A million copies of one title are honest and pack
# 1000 to 1, but headlines pack 2 to 10 times.
GZIP_BYTES = 1 << 30
GZIP_RATIO = 200  # of the records' bytes to the file's
RECORD_COST = 64  # bytes that a record takes in records/ besides its text: its id and digests
UNREADABLE = (OSError, UnicodeDecodeError, pa.ArrowException, LookupError)
FORMATS = {"csv": "csv", "tsv": "tsv", "jsonl": "jsonl", "ndjson": "jsonl", "parquet": "parquet", "pq": "parquet"}
Record = tuple[str, list[str | None]]  # the id it has where no column gives one, and its wanted values
_SPOOL = pa.schema(
    [
        ("text_id", pa.string()),
        ("text", pa.string()),
        ("place", pa.int32()),  # of the record within its part, empty ones counted
        ("digest", pa.binary(16)),
        ("id_digest", pa.binary(16)),
    ]
)


@dataclass(frozen=True)
class InputFile:
    """One file of the input, as found before any work."""

    path: str  # as the filesystem names it
    uri: str  # as a user would write it, with the options of the store it lies in
    name: str  # short, for ids: the path below the folder that all files share
    format: str  # csv, tsv, jsonl or parquet
    gzipped: bool
    size: int  # bytes
    changed: str  # time of the last change, for the run's fingerprint
    given: str  # the item of ``paths`` that found it, which names its filesystem


@dataclass(frozen=True)
class Piece:
    """What one worker call reads: some files, or some row groups of one Parquet file."""

    files: list[dict[str, Any]] = field(default_factory=list)
    row_groups: list[int] | None = None
    first_record: int = 0


def find_files(cfg: ReadSection, left_out: Callable[[str], bool] = lambda _: False) -> list[InputFile]:
    """Resolve paths, globs, directories and URIs to files, and look into each for the columns it must have.

    left_out : says of a file's URI whether it is no input, such as an artefact of the run itself
    Returns: the files in the order of ``paths``, each path's files by name; a file named twice is read once.
    Raises: ConfigError that lists every problem: nothing found, unknown format, missing columns, not decodable.
    """
    problems: list[str] = []
    found: dict[str, InputFile] = {}
    if not cfg.paths:
        problems.append("read.paths is empty; name files, globs, directories or URIs, or give a read.collection")
    for path in cfg.paths:
        files = _resolve(path, problems)
        inputs = [file for file in files if not left_out(file.uri)]
        if files and not inputs:
            problems.append(f"read.paths: {path} finds nothing but artefacts of the run itself")
        for file in inputs:
            found.setdefault(file.uri, file)
    for file in found.values():
        problems += _look_into(file, cfg)
    if problems:
        raise ConfigError(problems)
    rooted = ["/" + file.path.lstrip("/") for file in found.values()]
    shared = posixpath.commonpath([posixpath.dirname(path) for path in rooted])
    return [
        replace(file, name=posixpath.relpath(path, shared)) for path, file in zip(rooted, found.values(), strict=True)
    ]


def _filesystem(path: str) -> tuple[pa.fs.FileSystem, str]:
    if "://" in path:
        return filesystem_of(path)
    return pa.fs.LocalFileSystem(), posixpath.abspath(posixpath.expanduser(path))


def _uri(path: str, given: str) -> str:
    """How a user would write a path of the filesystem that ``given`` names; a local one without file://."""
    if "://" not in given or given.startswith("file://"):
        return path
    scheme, authority, _, query, _ = urlsplit(given)
    return f"{scheme}://{authority if path.startswith('/') else ''}{path}{'?' + query if query else ''}"


def _resolve(given: str, problems: list[str]) -> list[InputFile]:
    try:
        filesystem, path = _filesystem(given)
        magic = [at for at, part in enumerate(path.split("/")) if any(c in part for c in "*?[")]
        if magic and filesystem.get_file_info(path).type == pa.fs.FileType.File:
            magic = []
        if magic:
            base = "/".join(path.split("/")[: magic[0]]) or "/"
            listed = filesystem.get_file_info(pa.fs.FileSelector(base, recursive=True, allow_not_found=True))
            infos = [info for info in listed if _matches(info.path, path) and not _hidden(info.path, base)]
        else:
            info = filesystem.get_file_info(path)
            infos = [info]
            if info.type == pa.fs.FileType.Directory:
                listed = filesystem.get_file_info(pa.fs.FileSelector(path, recursive=True))
                infos = [info for info in listed if not _hidden(info.path, path)]
            elif info.type == pa.fs.FileType.NotFound:
                problems.append(f"read.paths: no such file: {given}")
                return []
    except (OSError, ValueError) as error:
        problems.append(f"read.paths: cannot look for {given}: {error}")
        return []
    named = not magic and len(infos) == 1 and infos[0].path == path  # a file that the user named himself
    files = []
    for info in sorted(infos, key=lambda info: info.path):
        if info.type != pa.fs.FileType.File or (info.base_name.startswith(".") and not named):
            continue
        stem, gzipped = (info.base_name[:-3], True) if info.base_name.endswith(".gz") else (info.base_name, False)
        kind = FORMATS.get(stem.rpartition(".")[2].lower())
        if kind is not None:
            uri, changed = _uri(info.path, given), str(info.mtime_ns)
            files.append(InputFile(info.path, uri, info.path, kind, gzipped, info.size or 0, changed, given))
        elif named:
            problems.append(f"read.paths: {given} is none of {', '.join(FORMATS)} (each also .gz)")
    if not files and not named:
        kind = "the glob matches no" if magic else "the directory holds no"
        problems.append(f"read.paths: {kind} csv, tsv, jsonl or parquet file: {given}")
    return files


def _hidden(path: str, base: str) -> bool:
    return any(part.startswith(".") for part in path[len(base) :].split("/"))


def _matches(path: str, pattern: str) -> bool:
    """A glob where * stays within a folder and ** crosses folders."""
    return _match_parts(path.split("/"), pattern.split("/"))


def _match_parts(path: list[str], pattern: list[str]) -> bool:
    if not pattern:
        return not path
    if pattern[0] == "**":
        return any(_match_parts(path[skip:], pattern[1:]) for skip in range(len(path) + 1))
    return bool(path) and fnmatch.fnmatchcase(path[0], pattern[0]) and _match_parts(path[1:], pattern[1:])


def _wanted(cfg: ReadSection) -> list[str]:
    return [*cfg.text_columns, *([cfg.id_column] if cfg.id_column else [])]


def _look_into(file: InputFile, cfg: ReadSection) -> list[str]:
    """Problems that the head of a file shows: columns that are not there, bytes that are not what the name says."""
    try:
        columns = _columns(file, list(dict.fromkeys(_wanted(cfg))))
    except InputError as error:
        return [f"{file.uri}: {problem}" for problem in error.problems]
    except (*UNREADABLE, ValueError) as error:
        return [
            f"{file.uri} cannot be read as {file.format}{' (gzip)' if file.gzipped else ''} in UTF-8: {_brief(error)}"
        ]
    if columns is None:  # an empty file has no records, which is no mistake
        return []
    missing = [name for name in _wanted(cfg) if name not in columns]
    if not missing:
        return []
    some = ", ".join(repr(name[:60]) for name in columns[:50]) + (", ..." if len(columns) > 50 else "")
    return [
        f"{file.uri} has no column {', '.join(repr(name) for name in missing)}; its columns are "
        f"{some}. Set read.text_columns and read.id_column."
    ]


def _columns(file: InputFile, wanted: list[str]) -> list[str] | None:
    if file.format == "parquet":
        return list(pq.ParquetFile(_parquet_source(file)).schema_arrow.names)
    with _open(file) as stream:
        if file.format == "jsonl":
            return _keys_of(_lines(stream, 2 * RECORD_BYTES))
        if not io.TextIOWrapper(stream, encoding="utf-8-sig").read(1):
            return None
    try:  # only what is wanted: pyarrow takes kilobytes for each column that it converts
        return list(next(_csv_batches(file, wanted, pa.binary(), Counter())).schema.names)
    except KeyError:
        with _open(file) as stream:
            head = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="").read(1 << 16)
        lines = io.StringIO(head.replace("\0", ""), newline="")
        tabs = file.format == "tsv"
        rows = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE) if tabs else csv.reader(lines)
        return next(filter(None, rows), [])


def _lines(stream: Any, most: float = float("inf")) -> Iterator[str]:
    """The lines of a JSON Lines file, or of about its first ``most`` characters; none that is too long is held."""
    text = io.TextIOWrapper(stream, encoding="utf-8-sig")
    rest = ""
    while most > 0 and (block := text.read(1 << 16)):
        end, *lines = block.split("\n")
        rest += end  # grows in place
        if len(rest) > RECORD_BYTES:
            raise InputError([f"a line is longer than {RECORD_BYTES:,} characters. Write one record on each line."])
        if lines:
            yield from (rest, *lines[:-1])
            rest = lines[-1]
        most -= len(block)
    yield rest


def _keys_of(lines: Iterable[str]) -> list[str] | None:
    """The keys of the first records of a JSON Lines file; a broken line among sound ones is counted while reading."""
    keys: dict[str, None] = {}
    reason = ""
    for line in itertools.islice((line for line in lines if line.strip()), JSONL_HEAD):
        try:
            record = json.loads(line)
            keys.update(dict.fromkeys(record.keys()))
        except (ValueError, RecursionError, AttributeError) as error:
            reason = reason or f"{error} in {line.strip()[:60]!r}"
    if not keys and reason:
        raise ValueError(f"no line holds a JSON object; {reason}")
    return list(keys) or None


def _open(file: InputFile) -> Any:
    filesystem, _ = _filesystem(file.given)
    # Not Python's gzip: pyarrow reads csv files ahead on a thread of its own, and where that is within Python when the
    # process ends, the process aborts.
    return filesystem.open_input_stream(file.path, compression="gzip" if file.gzipped else None)


def _parquet_source(file: InputFile) -> Any:
    if file.gzipped:
        source: Any = tempfile.TemporaryFile()  # noqa: SIM115 - it is there as long as somebody reads from it
        with _open(file) as stream:
            while chunk := stream.read(1 << 20):
                if source.tell() + len(chunk) > UNPACKED_BYTES:
                    raise InputError([f"it unpacks to more than {UNPACKED_BYTES:,} bytes. Take it out of its gzip."])
                source.write(chunk)
    else:
        filesystem, _ = _filesystem(file.given)
        source = filesystem.open_input_file(file.path)
    source.seek(max(0, source.seek(0, io.SEEK_END) - 8))
    tail = source.read(8)
    footer_bytes = int.from_bytes(tail[:4], "little")
    if tail[4:] == b"PAR1" and footer_bytes > FOOTER_BYTES:
        raise InputError(
            [f"its footer takes {footer_bytes:,} bytes; at most {FOOTER_BYTES:,} are read. Write larger row groups."]
        )
    if tail[4:] == b"PAR1" and has_extensions(source):
        raise InputError(
            ["it holds a column of an Arrow extension type, which may run code when it is read. Write plain columns."]
        )
    return source


def _csv_batches(
    file: InputFile, wanted: list[str], kind: pa.DataType, malformed: Counter[str]
) -> Iterator[pa.RecordBatch]:
    """The batches of a csv file, before them one without rows, which has the columns."""

    def skip(row: Any) -> str:
        malformed["rows"] += 1
        return "skip"

    tabs = file.format == "tsv"
    held, reader = weakref.ref(skip), None
    with _open(file) as stream:
        try:
            reader = pa.csv.open_csv(
                stream,
                read_options=pa.csv.ReadOptions(block_size=RECORD_BYTES, use_threads=False),
                parse_options=pa.csv.ParseOptions(
                    delimiter="\t" if tabs else ",",
                    # A quote in tab-separated values is a character like any other; taken for a quote, a stray one
                    # would swallow all records up to the next.
                    quote_char=False if tabs else '"',
                    newlines_in_values=not tabs,
                    invalid_row_handler=skip,
                ),
                convert_options=pa.csv.ConvertOptions(
                    include_columns=wanted,
                    column_types=dict.fromkeys(wanted, kind),  # 007 stays 007
                    strings_can_be_null=False,
                ),
            )
            yield pa.RecordBatch.from_pylist([], reader.schema)
            yield from reader
        finally:
            # The thread on which pyarrow reads ahead drops the handler a moment after the reader has gone, and if the
            # process ends within that moment, it aborts.
            del skip, reader
            end = time.monotonic() + 5
            while held() and time.monotonic() < end:
                time.sleep(0.001)


def _brief(error: BaseException) -> str:
    if "straddling object" in str(error):
        return f"a record is longer than {RECORD_BYTES:,} bytes; a quote that is never closed makes one of many"
    if "incorrect header check" in str(error):
        return "it is not gzip, or something else follows its gzip"
    return " ".join(str(error).split())[:300]


def _batches(
    file: InputFile, piece: Piece, wanted: list[str], malformed: Counter[str]
) -> Iterator[dict[str, list[Any]]]:
    """Columns of a file as Python values, some thousand records at a time.

    Raises: InputError for gzip out of which comes far more than goes in.
    """
    records = unpacked = 0
    for batch in _values(file, piece, list(dict.fromkeys(wanted)), malformed):
        if file.gzipped:
            count = len(batch[wanted[0]])
            records += count
            unpacked += _size(batch) + RECORD_COST * count
            if unpacked > max(GZIP_BYTES, GZIP_RATIO * file.size):
                raise InputError([f"{records:,} records of {unpacked:,} bytes have come out of its {file.size:,} bytes "
                                  f"of gzip, more than {GZIP_RATIO} times as much. If it is sound, unpack it with "
                                  f"gunzip and name the unpacked file."])  # fmt: skip
        yield batch


def _size(batch: dict[str, list[Any]]) -> int:
    """Characters of all values."""
    return sum(sum(map(len, filter(None, column))) for column in batch.values())


def _values(
    file: InputFile, piece: Piece, wanted: list[str], malformed: Counter[str]
) -> Iterator[dict[str, list[Any]]]:
    if file.format == "parquet":
        for batch in _parquet_batches(_parquet_source(file), piece.row_groups, wanted):
            yield from _strings(batch)
        return
    with _open(file) as stream:
        if file.format == "jsonl":
            held: dict[str, list[Any]] = {name: [] for name in wanted}
            held_size = 0
            for line in _lines(stream):
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                    values = [_scalar(record.get(name)) for name in wanted]
                except (ValueError, RecursionError, AttributeError):
                    malformed["rows"] += 1
                    continue
                for name, value in zip(wanted, values, strict=True):
                    held[name].append(value)
                held_size += len(line)
                if len(held[wanted[0]]) == RECORDS_PER_PART or held_size > BATCH_BYTES:
                    yield held
                    held, held_size = {name: [] for name in wanted}, 0
            if held[wanted[0]]:
                yield held
        elif stream.read(1):
            for batch in _csv_batches(file, wanted, pa.string(), malformed):
                for start in range(0, len(batch), RECORDS_PER_PART):
                    yield batch.slice(start, RECORDS_PER_PART).to_pydict()


def _parquet_batches(source: Any, groups: list[int] | None, wanted: list[str]) -> Iterator[pa.RecordBatch]:
    """Batches of bounded size, though a hundred bytes of Parquet can say a long string a million times."""
    table = pq.ParquetFile(source)
    meta = table.metadata
    for name in wanted:
        kind = table.schema_arrow.field(name).type
        if pa.types.is_nested(kind) or pa.types.is_binary(kind):
            raise InputError([f"column '{name}' holds {kind}; a text or id column holds strings or numbers"])
    groups = list(range(meta.num_row_groups)) if groups is None else groups
    leaves = {meta.schema.column(at).path: at for at in range(meta.num_columns)}
    # Equal strings can be read as one, but hashing them costs a third of the speed: only where they are long.
    once = pq.ParquetFile(source, metadata=meta, read_dictionary=wanted, buffer_size=1 << 20)
    coded: set[str] = set()
    rows = RECORDS_PER_PART
    for group in groups:
        info = meta.row_group(group)
        if info.total_byte_size * RECORDS_PER_PART <= DENSE_BYTES:
            continue
        # A record first: a broken footer is an error there, but asked for the metadata of its columns pyarrow aborts.
        try:
            first: Any = next(once.iter_batches(1, row_groups=[group], columns=wanted), None)
        except OSError:  # pyarrow makes no dictionaries of the delta encodings; of what else is wrong this fails too
            first = next(table.iter_batches(1, row_groups=[group], columns=wanted), None)
        chunks = {name: info.column(leaves[name]) for name in wanted} if first else {}
        unpacked = sum(chunk.total_uncompressed_size for chunk in chunks.values())
        if unpacked > UNPACKED_BYTES:
            raise InputError([f"row group {group} unpacks to {unpacked:,} bytes of {', '.join(wanted)}; at most "
                              f"{UNPACKED_BYTES:,} are read. Write smaller row groups."])  # fmt: skip
        for name, chunk in chunks.items():
            codes, column = set(chunk.encodings), first.column(name)
            able = pa.types.is_dictionary(column.type) and not any("DELTA" in code for code in codes)
            if able:  # any batch has the whole dictionary
                longest = pc.max(pc.binary_length(column.dictionary)).as_py() or 0
            elif chunk.physical_type != "BYTE_ARRAY":
                longest = meta.schema.column(leaves[name]).length
            else:  # of the delta encodings, one repeats the start of the string before
                repeats = codes & {"PLAIN_DICTIONARY", "RLE_DICTIONARY", "DELTA_BYTE_ARRAY"}
                longest = chunk.total_uncompressed_size if repeats else 0
            if longest * RECORDS_PER_PART > DENSE_BYTES:
                if able:
                    coded.add(name)
                else:
                    rows = max(1, min(rows, DENSE_BYTES // longest))
    table = pq.ParquetFile(source, metadata=meta, read_dictionary=list(coded))
    return table.iter_batches(rows, row_groups=groups, columns=wanted)  # type: ignore[no-any-return]


def _strings(batch: pa.RecordBatch) -> Iterator[dict[str, list[Any]]]:
    """A batch as Python values, in slices where its strings, each written out, would be too many bytes at once."""
    columns = {}
    sizes = np.zeros(len(batch), np.int64)
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        coded = pa.types.is_dictionary(column.type)
        columns[name] = column if coded or pa.types.is_string(column.type) else pc.cast(column, pa.large_string())
        lengths = pc.binary_length(column.dictionary if coded else columns[name])
        longest = pc.max(lengths).as_py() or 0
        if longest > RECORD_BYTES:
            raise InputError([f"column '{name}' holds a value of {longest:,} bytes; at most {RECORD_BYTES:,} are read. "
                              f"Shorten it."])  # fmt: skip
        if longest * len(batch) > BATCH_BYTES // len(batch.columns):  # else all could be as long as the longest
            sizes += np.asarray(pc.fill_null(lengths.take(column.indices) if coded else lengths, 0))
    start = 0
    while start < len(batch):
        count = max(1, int(np.searchsorted(np.cumsum(sizes[start:]), BATCH_BYTES, "right")))
        part = {name: column.slice(start, count) for name, column in columns.items()}
        yield {name: pc.cast(column, pa.string()).to_pylist() for name, column in part.items()}
        start += count


def _scalar(value: Any) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    # A lone surrogate (legal in JSON escapes) has no UTF-8 form.
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def clean_text(values: list[str | None], separator: str) -> str:
    """Join the text columns of a record: Unicode NFC, white space folded to single spaces, empty columns left out."""
    kept = []
    for value in values:  # a loop, for it runs once for each record
        if value and (words := (value if value.isascii() else unicodedata.normalize("NFC", value)).split()):
            kept.append(" ".join(words))
    joined = separator.join(kept)
    # A lone surrogate (legal in JSON escapes) has no UTF-8 form.
    return joined if joined.isascii() else joined.encode("utf-8", "replace").decode("utf-8")


def read_columns_of(files: list[InputFile], columns: list[str]) -> pa.Table:
    """Some columns of some files as strings, and ``place``, the id that a record has where no column gives one.

    Raises: InputError for a file that cannot be read to its end.
    """
    found: dict[str, list[Any]] = {name: [] for name in [*columns, "place"]}
    for file in files:
        start = len(found["place"])
        try:
            for batch in _batches(file, Piece(), columns, Counter()):
                before = len(found["place"])
                for name in columns:
                    found[name] += batch[name]
                found["place"] += [f"{file.name}:{at + 1 - start}" for at in range(before, len(found[columns[0]]))]
        except InputError as error:
            raise InputError([f"{file.uri}: {problem}" for problem in error.problems]) from None
        except UNREADABLE as error:
            raise InputError([f"{file.uri} cannot be read: {_brief(error)}. Is it {file.format} in UTF-8?"]) from None
    return pa.table({name: pa.array(values, pa.string()) for name, values in found.items()})


class PieceReader:
    """Read a piece, clean its records, and leave them as parts of records/."""

    def __init__(self, run: RunDir, cfg: ReadSection) -> None:
        self.run = run
        self.cfg = cfg

    def __call__(self, item: Item) -> Item:
        malformed: Counter[str] = Counter()
        counts: list[dict[str, int]] = []
        for records in _records(Piece(**item["piece"]), self.cfg, malformed):
            counts.append(self._write(item["item"], len(counts), records))
        return {"parts": counts, "dropped": malformed["rows"], "rows": sum(count["records"] for count in counts)}

    def _write(self, piece: int, chunk: int, records: list[Record]) -> dict[str, int]:
        n_text = len(self.cfg.text_columns)
        texts = [clean_text(values[:n_text], self.cfg.separator) for _, values in records]
        ids = [(values[n_text] if self.cfg.id_column else None) or where for where, values in records]
        spool = spool_records(ids, texts)
        write_table(self.run / "records" / f"part-{piece:06d}-{chunk:06d}.parquet", spool)
        return {"records": len(records), "empty": len(records) - len(spool)}


def _records(piece: Piece, cfg: ReadSection, malformed: Counter[str]) -> Iterator[list[Record]]:
    """The records of a piece, in lists of at most RECORDS_PER_PART and of about BATCH_BYTES.

    Raises: InputError that names the file and the record where reading stopped.
    """
    held: list[Record] = []
    held_size = read = 0
    for raw in piece.files:
        file, number = InputFile(**raw), piece.first_record
        try:
            for batch in _batches(file, piece, _wanted(cfg), malformed):
                size = _size(batch)
                if held and held_size + size > BATCH_BYTES:
                    yield held
                    held, held_size = [], 0
                held_size += size
                for record in zip(*(batch[name] for name in _wanted(cfg)), strict=True):
                    number += 1
                    read += 1
                    held.append((f"{file.name}:{number}", list(record)))
                    if len(held) == RECORDS_PER_PART:
                        yield held
                        held, held_size = [], 0
                if cfg.limit is not None and read >= cfg.limit:
                    break
        except InputError as error:
            raise InputError([f"{file.uri}: {problem}" for problem in error.problems]) from None
        except UNREADABLE as error:
            raise InputError(
                [f"{file.uri} cannot be read after record {number}: {_brief(error)}. Is it {file.format} in UTF-8?"]
            ) from None
        if cfg.limit is not None and read >= cfg.limit:
            break
    if held:
        yield held


def spool_records(ids: list[str], texts: list[str]) -> pa.Table:
    """A part of records/: the records whose clean text is not empty, with their places and digests."""
    columns: dict[str, list[Any]] = {name: [] for name in _SPOOL.names}
    for place, (text_id, text) in enumerate(zip(ids, texts, strict=True)):
        if not text:
            continue
        columns["text_id"].append(text_id)
        columns["text"].append(text)
        columns["place"].append(place)
        columns["digest"].append(blake2b(text.encode(), digest_size=16).digest())
        columns["id_digest"].append(blake2b(text_id.encode("utf-8", "replace"), digest_size=16).digest())
    return pa.table(columns, schema=_SPOOL)


def _digests(column: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.uint64]]:
    joined = b"".join(
        chunk.buffers()[1].to_pybytes()[16 * chunk.offset : 16 * (chunk.offset + len(chunk))] for chunk in column.chunks
    )
    return np.frombuffer(joined, np.uint64).reshape(-1, 2)


def _number_rows(run: RunDir, counts: list[dict[str, int]], limit: int | None) -> Figures:
    """Give every record its row: rows count distinct texts by first appearance, whatever read them."""
    names = parts(run / "records")
    digests, id_digests, kept_of = [], [], []
    before = 0
    for path, count in zip(names, counts, strict=True):
        table = read_table(path, columns=["place", "digest", "id_digest"])
        places = table["place"].to_numpy()
        keep = slice(0, int(np.searchsorted(places, limit - before))) if limit is not None else slice(None)
        digests.append(_digests(table["digest"])[keep])
        id_digests.append(_digests(table["id_digest"])[keep])
        kept_of.append(len(digests[-1]))
        before += count["records"]
    records = before if limit is None else min(before, limit)
    row, first, copies = fold_copies(np.concatenate([np.empty((0, 2), np.uint64), *digests]))
    ids, _, _ = fold_copies(np.concatenate([np.empty((0, 2), np.uint64), *id_digests]))
    start = 0
    for path, kept in zip(names, kept_of, strict=True):
        end = start + kept
        mine = first[start:end]
        with whole(path.with_suffix(".npz")) as temporary, temporary.open("wb") as handle:
            np.savez(handle, row=row[start:end], first=mine, copies=copies[row[start:end][mine]])
        start = end
    return {
        "records": records,
        "texts": len(copies),
        "empty": records - len(row),
        "repeated_ids": len(ids) - (int(ids.max()) + 1 if len(ids) else 0),
        "largest_copies": int(copies.max(initial=0)),
    }


class RowWriter:
    """Turn one part of records/ into its part of texts/ and members/, and of given/ where it came with vectors."""

    def __init__(self, run: RunDir) -> None:
        self.run = run

    def __call__(self, item: Item) -> Item:
        path = self.run / "records" / item["name"]
        numbers = load_array(path.with_suffix(".npz"))
        given = "vector" in read_schema(path).names
        columns = ["text_id", "text", *(["vector"] if given else [])]
        table = read_table(path, columns=columns).slice(0, len(numbers["row"]))
        name = part_name(item["item"])
        members = {"text_id": table["text_id"], "row": numbers["row"]}
        if len(table):
            write_table(self.run / "members" / name, pa.table(members, schema=schema.MEMBERS))
        first = numbers["first"]
        text_bytes = 0
        if first.any():
            texts = {"row": numbers["row"][first], "text": table["text"].filter(first), "copies": numbers["copies"]}
            write_table(self.run / "texts" / name, pa.table(texts, schema=schema.TEXTS))
            text_bytes = int(pc.sum(pc.binary_length(texts["text"])).as_py())
            if given:
                vectors = table["vector"].filter(first)
                layout = schema.vectors_schema(vectors.type.list_size)
                write_table(self.run / "given" / name, pa.table({"row": texts["row"], "vector": vectors}, layout))
        return {"text_bytes": text_bytes, "rows": len(table)}


def read_texts(files: list[InputFile], cfg: ReadSection, run: RunDir, actors: int) -> Figures:
    """Read all records, fold equal texts, number the rows; leave texts/ and members/ in row order.

    Returns: counts of records, texts, empty (left out), dropped (malformed), repeated_ids.
    Raises: InputError that names the file and the record where reading stopped.
    """
    items = [{"piece": asdict(piece)} for piece in _pieces(files)]
    results = map_parts(PieceReader, items, actors=actors, run=run, cfg=cfg)
    counts = [count for result in results for count in result["parts"]]
    figures = fold_records(run, counts, cfg.limit, actors)
    return {**figures, "dropped": sum(result["dropped"] for result in results)}


def fold_records(run: RunDir, counts: list[dict[str, int]], limit: int | None, actors: int) -> Figures:
    """Turn records/ into texts/ and members/, and into given/ where it holds vectors; records/ goes.

    counts : records and empty of each part; limit : only the first records
    Returns: records, texts, empty, repeated_ids, largest_copies, text_bytes.
    """
    numbered = on_worker(_number_rows, run, counts, limit)
    written = map_parts(RowWriter, [{"name": name} for name in names_of(run / "records")], actors=actors, run=run)
    run.remove("records")
    text_bytes = sum(result["text_bytes"] for result in written)
    return {**numbered, "text_bytes": text_bytes}


def _pieces(files: list[InputFile]) -> list[Piece]:
    pieces: list[Piece] = []
    held: list[dict[str, Any]] = []
    held_bytes = 0
    for file in files:
        if held and held_bytes + file.size > PIECE_BYTES:
            pieces.append(Piece(held))
            held, held_bytes = [], 0
        if file.format == "parquet" and not file.gzipped and file.size > PIECE_BYTES:
            pieces += _row_group_pieces(file)
            continue
        held.append(asdict(file))
        held_bytes += file.size
    return [*pieces, Piece(held)] if held else pieces


def _row_group_pieces(file: InputFile) -> list[Piece]:
    meta = pq.ParquetFile(_parquet_source(file)).metadata
    pieces: list[Piece] = []
    groups: list[int] = []
    size = first = seen = 0
    for group in range(meta.num_row_groups):
        groups.append(group)
        size += meta.row_group(group).total_byte_size
        seen += meta.row_group(group).num_rows
        if size >= PIECE_BYTES or group == meta.num_row_groups - 1:
            pieces.append(Piece([asdict(file)], groups, first))
            groups, size, first = [], 0, seen
    return pieces
