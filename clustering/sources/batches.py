"""An input file of known layout in; batches of its wanted columns out, within bounds whatever the file holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa

from clustering.config.sections import ReadSection
from clustering.errors import InputError
from clustering.sources.files import InputFile
from clustering.sources.formats import delimited, dialects, jsonlines, parquet
from clustering.sources.formats.column_types import infer_integers
from clustering.sources.formats.encodings import Decoder
from clustering.sources.formats.issues import Issues
from clustering.sources.opening import UNREADABLE, check_unchanged, open_parquet, read_blocks, short_reason
from clustering.sources.pieces import Piece, ReadTask

# The most that a file makes a worker hold.
RECORD_BYTES = 16 << 20  # the longest record of a csv file, line of a JSON Lines file, value of a Parquet file
BATCH_BYTES = 64 << 20  # of values held as Python strings
# The most that a packed file makes a worker write: its records may pass one of these, not both. A million copies of one
# title are honest and pack 1000 to 1, but headlines pack 2 to 10 times.
EXPANDED_BYTES = 1 << 30
EXPANSION_RATIO = 200  # of the records' bytes to the file's
RECORD_COST = 64  # bytes that a record takes in records/ besides its text: its id and digests


def text_names(cfg: ReadSection) -> list[str]:
    return list(dict.fromkeys(cfg.text_columns))


def other_names(cfg: ReadSection, keep: tuple[str, ...] = ()) -> list[str]:
    """The wanted columns besides the texts, which keep their types."""
    named = (cfg.id_column, cfg.time_column, cfg.source_column, cfg.link_column, *keep)
    return list(dict.fromkeys(name for name in named if name))


def read_batches(
    file: InputFile, task: ReadTask, cfg: ReadSection, keep: tuple[str, ...], max_rows: int, issues: Issues
) -> Iterator[pa.Table]:
    """The wanted columns of a file, at most ``max_rows`` records at a time: texts as strings, others with their types.

    Raises: InputError that names the file: it cannot be read to its end, passes a bound, or has changed.
    """
    issues.start_file(file.uri)
    records = task.first_record
    try:
        for table in _bounded_batches(file, task, cfg, keep, max_rows, issues):
            yield table
            records += len(table)
        check_unchanged(file)
    except InputError as error:
        raise InputError([f"{file.uri}: {problem}" for problem in error.problems]) from None
    except (*UNREADABLE, ValueError) as error:
        raise InputError(
            [f"{file.uri} cannot be read after record {records}: {short_reason(error, file)}. Is it {file.format}?"]
        ) from None


def _bounded_batches(
    file: InputFile, task: ReadTask, cfg: ReadSection, keep: tuple[str, ...], max_rows: int, issues: Issues
) -> Iterator[pa.Table]:
    texts, others = text_names(cfg), other_names(cfg, keep)
    positions = file.layout["positions"]
    without_text = file.format != "jsonl" and positions and all(positions.get(name) is None for name in texts)
    records = unpacked = 0
    for table in _own_columns(file, task, cfg, texts, others, max_rows, issues):
        if without_text:  # JSON records are counted one by one
            issues.count("keyless", len(table), "the first record")
        if file.compression:
            records += len(table)
            unpacked += table.nbytes + RECORD_COST * len(table)
            if unpacked > max(EXPANDED_BYTES, EXPANSION_RATIO * file.size):
                raise InputError([f"{records:,} records of {unpacked:,} bytes have come out of its {file.size:,} bytes "
                                  f"of {file.compression}, more than {EXPANSION_RATIO} times as much. If it is sound, "
                                  f"unpack it and name the unpacked file."])  # fmt: skip
        yield _with_all_columns(table, texts, others, file.layout["constants"])


def _own_columns(
    file: InputFile, task: ReadTask, cfg: ReadSection, texts: list[str], others: list[str], max_rows: int,
    issues: Issues,
) -> Iterator[pa.Table]:  # fmt: skip
    """The wanted columns that the file itself has."""
    wanted = {*texts, *others}
    positions = {
        name: position
        for name, position in file.layout["positions"].items()
        if position not in (None, "constant") and name in wanted
    }
    own_texts, own_others = ([name for name in names if name in positions] for names in (texts, others))
    if not file.layout["positions"]:
        return  # an empty file
    if file.format == "parquet":
        source = open_parquet(file)
        if not positions:
            yield from _without_columns(parquet.count_rows(source, task.row_groups), max_rows)
            return
        paths = {name: (column, list(path)) for name, (column, path) in positions.items()}
        limits = parquet.Limits(max_rows, BATCH_BYTES, RECORD_BYTES)
        yield from parquet.read_row_groups(source, task.row_groups, paths, own_texts, limits, cfg.errors, issues)
        return
    piece = Piece(file, task) if task.is_piece else None
    decoder = Decoder(cfg.csv.encoding if file.format != "jsonl" else None, cfg.errors, issues)
    blocks = piece.blocks(cfg.errors, issues) if piece else read_blocks(file, decoder)
    if file.format == "jsonl":
        records = jsonlines.records_of(blocks, file.layout["style"], RECORD_BYTES, issues)
        yield from jsonlines.read_values(records, texts, own_others, max_rows, BATCH_BYTES, issues)
        return
    dialect = dialects.Dialect(**file.layout["dialect"])
    header, ahead = task.header.encode(), None
    if piece:
        dialect, ahead = replace(dialect, skip=dialect.skip if task.start == 0 else 0), piece.ahead
    tables = delimited.read_records(
        blocks, dialect, positions or {"": 0}, own_texts, RECORD_BYTES, issues, header, ahead
    )
    for table in tables:
        for start in range(0, len(table), max_rows):
            part = table.slice(start, max_rows)
            columns = {name: part[name] for name in own_texts} | {
                name: infer_integers(part[name].combine_chunks()) for name in own_others if name not in texts
            }
            yield pa.table(columns) if columns else next(_without_columns(len(part), max_rows))


def _without_columns(count: int, max_rows: int) -> Iterator[pa.Table]:
    """Batches of so many records without a wanted column."""
    for start in range(0, count, max_rows):
        yield pa.table({"": pa.nulls(min(max_rows, count - start))})


def _with_all_columns(table: pa.Table, texts: list[str], others: list[str], constants: dict[str, str]) -> pa.Table:
    """The table with every wanted column: what the file lacks comes from the names of its folders, or is null."""
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


def check_malformed(records: int, issues: Issues, cfg: ReadSection) -> list[str]:
    """Why an input is refused in which more than one record in a hundred is malformed."""
    bad = issues.counts["malformed"]
    if cfg.bad_lines == "skip" or bad * 100 <= records + bad:
        return []
    return [
        f"{bad:,} of {records + bad:,} records are malformed; the first: {issues.example('malformed')}. Repair the "
        f"input, set read.format, for tables read.csv (delimiter, quote, escape), or leave such records out with "
        f"read.bad_lines=skip"
    ]
