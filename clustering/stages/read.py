"""Files in; texts/ (one row for each distinct text) and members/ (one line for each record) out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clustering import schema
from clustering.config.sections import ReadSection
from clustering.errors import InputError
from clustering.runs.directory import RunDir
from clustering.schema import Figures
from clustering.sources import records
from clustering.sources.files import InputFile, Inputs, filesystem
from clustering.sources.folding import (
    RECORDS_PER_PART,
    TextCleaner,
    carried_columns,
    fold_records,
    kept_name,
    other_than_string,
    spool_records,
    warnings_of,
    write_records,
)
from clustering.sources.formats.columns import as_type, common_type
from clustering.sources.formats.tally import Tally
from clustering.sources.records import UNREADABLE, Piece, lines_problem, parquet_source, read_batches, short_reason
from clustering.workers.pool import Item, map_parts

PIECE_BYTES = 32 << 20  # files are read in pieces of about this size: small files together, Parquet by row groups
PIECE_FILES = 500  # to open one takes longer than to read what little it may hold


def read_columns_of(files: list[InputFile], cfg: ReadSection) -> pa.Table:
    """The text columns of some files as strings, and their other wanted columns with their types.

    Returns: the columns, and ``schema.WHERE``, the id that a record has where no column gives one.

    Raises: InputError for a file that cannot be read to its end, and for too many malformed lines.
    """
    keep = files.keep if isinstance(files, Inputs) else ()
    found: list[pa.Table] = []
    tally = Tally()
    records = 0
    for file in files:
        start = records
        for table in _with_position(file, Piece(), cfg, keep, tally, lambda: records - start):  # noqa: B023
            places = [f"{file.name}:{at}" for at in range(records - start + 1, records - start + 1 + len(table))]
            found.append(table.append_column(schema.WHERE, pa.array(places, pa.string())))
            records += len(table)
    if problems := lines_problem(records, tally, cfg):
        raise InputError(problems)
    if not found:
        names = [*cfg.text_columns, *([cfg.id_column] if cfg.id_column else []), *keep, schema.WHERE]
        return pa.table({name: pa.array([], pa.string()) for name in dict.fromkeys(names)})
    kinds = {
        name: common_type([table.schema.field(name).type for table in found], ids=True)
        for name in found[0].schema.names
    }
    return pa.concat_tables(
        pa.table({name: as_type(table[name], kind) for name, kind in kinds.items()}) for table in found
    )


def _with_position(
    file: InputFile, piece: Piece, cfg: ReadSection, keep: tuple[str, ...], tally: Tally, read: Any
) -> Iterator[pa.Table]:
    """The batches of a file; an error of any library says which file it was, and how far it was read."""
    tally.begin(file.uri)
    try:
        yield from read_batches(file, piece, cfg, keep, RECORDS_PER_PART, tally)
        _check_unchanged(file)
    except InputError as error:
        raise InputError([f"{file.uri}: {problem}" for problem in error.problems]) from None
    except (*UNREADABLE, ValueError) as error:
        raise InputError(
            [f"{file.uri} cannot be read after record {read()}: {short_reason(error, file)}. Is it {file.format}?"]
        ) from None


def _check_unchanged(file: InputFile) -> None:
    steady = file.steady
    info = steady._info() if steady else filesystem(file.given)[0].get_file_info(file.path)
    if (info.size or 0, str(info.mtime_ns)) != (file.size, file.changed):
        raise InputError(["it changed while the run was reading it; start again when nobody writes to it"])


class PieceReader:
    """Read a piece, clean its records, and leave them as parts of records/."""

    def __init__(self, run: RunDir, cfg: ReadSection, keep: tuple[str, ...] = ()) -> None:
        self.run, self.cfg, self.keep = run, cfg, keep
        self.clean = TextCleaner(cfg)

    def __call__(self, item: Item) -> Item:
        tally, piece = Tally(), Piece(**item["piece"])
        untyped = all(file["format"] in ("csv", "tsv") for file in piece.files)
        parts: list[dict[str, Any]] = []
        mixed: set[str] = set()  # columns of several types
        for where, table in _records(piece, self.cfg, self.keep, tally, mixed):
            part = self._write(item["item"], len(parts), where, table, tally)
            parts.append(part if untyped else {**part, "numeric": []})
        carried = sorted(
            kept_name(name) if name in self.keep else "text_id"
            for name in mixed
            if not all(kept_name(name) in part["numeric"] for part in parts)  # numbers all the same
        )
        rows = sum(part["records"] for part in parts)
        return {"parts": parts, "tally": tally.as_dict(), "mixed": carried, "rows": rows}

    def _write(self, piece: int, chunk: int, where: list[str], table: pa.Table, tally: Tally) -> dict[str, Any]:
        texts, shown = self.clean(table, tally)
        columns, told = carried_columns(table, self.cfg, self.keep, tally)
        spool = spool_records(texts, shown, where, columns)
        return {**write_records(self.run, f"part-{piece:06d}-{chunk:06d}", len(table), spool), **told}


def _records(
    piece: Piece, cfg: ReadSection, keep: tuple[str, ...], tally: Tally, mixed: set[str]
) -> Iterator[tuple[list[str], pa.Table]]:
    """The records of a piece, at most RECORDS_PER_PART and about BATCH_BYTES at a time, with the ids that they have
    where no column gives one.

    Raises: InputError that names the file and the record where reading stopped.
    """
    held: list[tuple[list[str], pa.Table]] = []
    rows = size = read = 0
    for raw in piece.files:
        file, number = InputFile(**raw), piece.first_record
        for table in _with_position(file, piece, cfg, keep, tally, lambda: number):  # noqa: B023
            start = 0
            while start < len(table):
                part = table.slice(start, RECORDS_PER_PART - rows)
                part_size = part.nbytes
                if held and size + part_size > records.BATCH_BYTES:
                    yield _joined(held, mixed)
                    held, rows, size = [], 0, 0
                    continue
                where = [f"{file.name}:{at}" for at in range(number + 1, number + 1 + len(part))]
                held.append((where, part))
                start, number = start + len(part), number + len(part)
                rows, size, read = rows + len(part), size + part_size, read + len(part)
                if rows == RECORDS_PER_PART:
                    yield _joined(held, mixed)
                    held, rows, size = [], 0, 0
            if cfg.limit is not None and read >= cfg.limit:
                break
        if cfg.limit is not None and read >= cfg.limit:
            break
    if held:
        yield _joined(held, mixed)


def _joined(held: list[tuple[list[str], pa.Table]], mixed: set[str]) -> tuple[list[str], pa.Table]:
    where = [one for part, _ in held for one in part]
    tables = [table for _, table in held]
    if len(tables) == 1 or all(table.schema == tables[0].schema for table in tables):
        return where, pa.concat_tables(tables)
    kinds = {
        name: common_type([table.schema.field(name).type for table in tables], ids=True)
        for name in tables[0].schema.names
    }
    mixed |= {
        name
        for name, kind in kinds.items()
        if pa.types.is_string(kind) and any(other_than_string(table.schema.field(name).type) for table in tables)
    }
    cast = [pa.table({name: as_type(table[name], kind) for name, kind in kinds.items()}) for table in tables]
    return where, pa.concat_tables(cast)


def read_texts(files: list[InputFile], cfg: ReadSection, run: RunDir, actors: int) -> Figures:
    """Read all records, fold equal texts, number the rows; leave texts/ and members/ in row order.

    Returns: counts of records, texts, empty (left out), dropped (malformed), keyless, repeated_ids, missing_ids, and
        ``warnings``: what was lost, mended or guessed, in words.
    Raises: InputError that names the file and the record where reading stopped, or the first of too many malformed.
    """
    keep = files.keep if isinstance(files, Inputs) else ()
    items = [{"piece": asdict(piece)} for piece in _pieces(files)]
    results = map_parts(PieceReader, items, actors=actors, run=run, cfg=cfg, keep=keep)
    tally = Tally()
    for result in results:
        tally.add(result["tally"])
    counts = [count for result in results for count in result["parts"]]
    read = sum(count["records"] for count in counts)
    if problems := [*lines_problem(read, tally, cfg), *_no_record_has_a_text(read, tally)]:
        raise InputError(problems)
    figures = fold_records(run, counts, cfg.limit, actors)
    told = files.warnings if isinstance(files, Inputs) else []
    mixed = dict.fromkeys([*figures.pop("mixed"), *(name for result in results for name in result["mixed"])])
    told = [*told, *warnings_of(tally, figures), *_mixed_words(list(mixed))]
    return {**figures, "dropped": tally.counts["malformed"], "keyless": tally.counts["keyless"],
            "markup": tally.counts["markup"], "warnings": told}  # fmt: skip


def _no_record_has_a_text(records: int, tally: Tally) -> list[str]:
    keyless = tally.counts["keyless"]
    if not records or keyless < records:
        return []
    first = tally.example("keyless")
    return [f"none of the {records:,} records has a column of read.text_columns; the first: {first}. Set it"]


def _mixed_words(mixed: list[str]) -> list[str]:
    return [f"Columns whose types differ between files or records are strings: {', '.join(mixed)}."] if mixed else []


def _pieces(files: list[InputFile]) -> list[Piece]:
    pieces: list[Piece] = []
    held: list[dict[str, Any]] = []
    held_bytes = 0
    for file in files:
        if held and (held_bytes + file.size > PIECE_BYTES or len(held) == PIECE_FILES):
            pieces.append(Piece(held))
            held, held_bytes = [], 0
        if file.format == "parquet" and not file.packing and file.size > PIECE_BYTES:
            pieces += _row_group_pieces(file)
            continue
        held.append(asdict(file))
        held_bytes += file.size
    return [*pieces, Piece(held)] if held else pieces


def _row_group_pieces(file: InputFile) -> list[Piece]:
    meta = pq.ParquetFile(parquet_source(file)).metadata
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
