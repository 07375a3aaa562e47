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
from clustering.sources.deduplication import (
    RECORDS_PER_PART,
    TextCleaner,
    carried_columns,
    carried_name,
    deduplicate_records,
    is_other_than_string,
    records_table,
    write_records,
)
from clustering.sources.files import InputFile, Inputs, filesystem
from clustering.sources.formats.column_types import as_type, common_type
from clustering.sources.formats.issues import Issues
from clustering.sources.records import UNREADABLE, ReadTask, lines_problem, parquet_source, read_batches, short_reason
from clustering.workers.pool import Item, map_parts

READ_TASK_BYTES = 32 << 20  # files are read in tasks of about this size: small files together, Parquet by row groups
READ_TASK_FILES = 500  # to open one takes longer than to read what little it may hold


def read_columns_of(files: list[InputFile], cfg: ReadSection) -> pa.Table:
    """The text columns of some files as strings, and their other wanted columns with their types.

    Returns: the columns, and ``schema.LOCATION``, the id that a record has where no column gives one.

    Raises: InputError for a file that cannot be read to its end, and for too many malformed lines.
    """
    keep = files.keep if isinstance(files, Inputs) else ()
    found: list[pa.Table] = []
    issues = Issues()
    records = 0
    for file in files:
        start = records
        for table in _with_position(file, ReadTask(), cfg, keep, issues, lambda: records - start):  # noqa: B023
            places = [f"{file.name}:{at}" for at in range(records - start + 1, records - start + 1 + len(table))]
            found.append(table.append_column(schema.LOCATION, pa.array(places, pa.string())))
            records += len(table)
    if problems := lines_problem(records, issues, cfg):
        raise InputError(problems)
    if not found:
        names = [*cfg.text_columns, *([cfg.id_column] if cfg.id_column else []), *keep, schema.LOCATION]
        return pa.table({name: pa.array([], pa.string()) for name in dict.fromkeys(names)})
    kinds = {
        name: common_type([table.schema.field(name).type for table in found], ids=True)
        for name in found[0].schema.names
    }
    return pa.concat_tables(
        pa.table({name: as_type(table[name], kind) for name, kind in kinds.items()}) for table in found
    )


def _with_position(
    file: InputFile, task: ReadTask, cfg: ReadSection, keep: tuple[str, ...], issues: Issues, read: Any
) -> Iterator[pa.Table]:
    """The batches of a file; an error of any library says which file it was, and how far it was read."""
    issues.start_file(file.uri)
    try:
        yield from read_batches(file, task, cfg, keep, RECORDS_PER_PART, issues)
        _check_unchanged(file)
    except InputError as error:
        raise InputError([f"{file.uri}: {problem}" for problem in error.problems]) from None
    except (*UNREADABLE, ValueError) as error:
        raise InputError(
            [f"{file.uri} cannot be read after record {read()}: {short_reason(error, file)}. Is it {file.format}?"]
        ) from None


def _check_unchanged(file: InputFile) -> None:
    remote = file.remote
    info = remote._info() if remote else filesystem(file.pattern)[0].get_file_info(file.path)
    if (info.size or 0, str(info.mtime_ns)) != (file.size, file.modified):
        raise InputError(["it changed while the run was reading it; start again when nobody writes to it"])


class RecordReader:
    """Read a task, clean its records, and leave them as parts of records/."""

    def __init__(self, run: RunDir, cfg: ReadSection, keep: tuple[str, ...] = ()) -> None:
        self.run, self.cfg, self.keep = run, cfg, keep
        self.clean = TextCleaner(cfg)

    def __call__(self, item: Item) -> Item:
        issues, task = Issues(), ReadTask(**item["task"])
        untyped = all(file["format"] in ("csv", "tsv") for file in task.files)
        parts: list[dict[str, Any]] = []
        mixed: set[str] = set()  # columns of several types
        for where, table in _records(task, self.cfg, self.keep, issues, mixed):
            part = self._write(item["item"], len(parts), where, table, issues)
            parts.append(part if untyped else {**part, "numeric": []})
        carried = sorted(
            carried_name(name) if name in self.keep else "text_id"
            for name in mixed
            if not all(carried_name(name) in part["numeric"] for part in parts)  # numbers all the same
        )
        rows = sum(part["records"] for part in parts)
        return {"parts": parts, "issues": issues.as_dict(), "mixed": carried, "rows": rows}

    def _write(self, task: int, chunk: int, where: list[str], table: pa.Table, issues: Issues) -> dict[str, Any]:
        texts, shown = self.clean(table, issues)
        columns, told = carried_columns(table, self.cfg, self.keep, issues)
        spool = records_table(texts, shown, where, columns)
        return {**write_records(self.run, f"part-{task:06d}-{chunk:06d}", len(table), spool), **told}


def _records(
    task: ReadTask, cfg: ReadSection, keep: tuple[str, ...], issues: Issues, mixed: set[str]
) -> Iterator[tuple[list[str], pa.Table]]:
    """The records of a task, at most RECORDS_PER_PART and about BATCH_BYTES at a time, with the ids that they have
    where no column gives one.

    Raises: InputError that names the file and the record where reading stopped.
    """
    held: list[tuple[list[str], pa.Table]] = []
    rows = size = read = 0
    for raw in task.files:
        file, number = InputFile(**raw), task.first_record
        for table in _with_position(file, task, cfg, keep, issues, lambda: number):  # noqa: B023
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
        if pa.types.is_string(kind) and any(is_other_than_string(table.schema.field(name).type) for table in tables)
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
    items = [{"task": asdict(task)} for task in _read_tasks(files)]
    results = map_parts(RecordReader, items, actors=actors, run=run, cfg=cfg, keep=keep)
    issues = Issues()
    for result in results:
        issues.merge(result["issues"])
    counts = [count for result in results for count in result["parts"]]
    read = sum(count["records"] for count in counts)
    if problems := [*lines_problem(read, issues, cfg), *_no_record_has_a_text(read, issues)]:
        raise InputError(problems)
    figures = deduplicate_records(run, counts, cfg.limit, actors)
    told = files.warnings if isinstance(files, Inputs) else []
    mixed = dict.fromkeys([*figures.pop("mixed"), *(name for result in results for name in result["mixed"])])
    told = [*told, *issues.warnings(figures), *_mixed_words(list(mixed))]
    return {**figures, "dropped": issues.counts["malformed"], "keyless": issues.counts["keyless"],
            "markup": issues.counts["markup"], "warnings": told}  # fmt: skip


def _no_record_has_a_text(records: int, issues: Issues) -> list[str]:
    keyless = issues.counts["keyless"]
    if not records or keyless < records:
        return []
    first = issues.example("keyless")
    return [f"none of the {records:,} records has a column of read.text_columns; the first: {first}. Set it"]


def _mixed_words(mixed: list[str]) -> list[str]:
    return [f"Columns whose types differ between files or records are strings: {', '.join(mixed)}."] if mixed else []


def _read_tasks(files: list[InputFile]) -> list[ReadTask]:
    tasks: list[ReadTask] = []
    held: list[dict[str, Any]] = []
    held_bytes = 0
    for file in files:
        if held and (held_bytes + file.size > READ_TASK_BYTES or len(held) == READ_TASK_FILES):
            tasks.append(ReadTask(held))
            held, held_bytes = [], 0
        if file.format == "parquet" and not file.compression and file.size > READ_TASK_BYTES:
            tasks += _row_group_tasks(file)
            continue
        held.append(asdict(file))
        held_bytes += file.size
    return [*tasks, ReadTask(held)] if held else tasks


def _row_group_tasks(file: InputFile) -> list[ReadTask]:
    meta = pq.ParquetFile(parquet_source(file)).metadata
    tasks: list[ReadTask] = []
    groups: list[int] = []
    size = first = seen = 0
    for group in range(meta.num_row_groups):
        groups.append(group)
        size += meta.row_group(group).total_byte_size
        seen += meta.row_group(group).num_rows
        if size >= READ_TASK_BYTES or group == meta.num_row_groups - 1:
            tasks.append(ReadTask([asdict(file)], groups, first))
            groups, size, first = [], 0, seen
    return tasks
