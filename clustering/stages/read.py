"""Files in; texts/ (one row for each distinct text) and members/ (one line for each record) out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clustering import schema
from clustering.config.sections import ReadSection
from clustering.errors import InputError
from clustering.kernels.memory import GROUP_ROWS, record_groups
from clustering.runs.directory import RunDir
from clustering.schema import Figures
from clustering.sources import batches
from clustering.sources.batches import check_malformed, read_batches
from clustering.sources.deduplication import deduplicate_records
from clustering.sources.files import InputFile, Inputs
from clustering.sources.formats.column_types import concat_tables
from clustering.sources.formats.encodings import CutError
from clustering.sources.formats.issues import Issues
from clustering.sources.opening import open_parquet
from clustering.sources.pieces import ReadTask, cut_file
from clustering.sources.records import TextCleaner, carried_columns, carried_name, records_table, write_records
from clustering.workers.pool import Item, map_parts

log = logging.getLogger("covey")
RECORDS_PER_PART = GROUP_ROWS  # of records/, or some times as many
READ_TASK_BYTES = 32 << 20  # a task has about this size: small files together, Parquet by row groups
READ_TASK_FILES = 500  # to open a file takes longer than to read what little it may hold


def read_texts(files: list[InputFile], cfg: ReadSection, run: RunDir, dim: int) -> Figures:
    """Read all records, deduplicate their texts and number the rows; leave texts/ and members/ in row order.

    dim : of the vectors that the texts will get, or a guess
    Returns: counts of records, texts, empty (left out), dropped (malformed), keyless, repeated_ids, missing_ids,
        uuid_ids (whether all ids are Parquet's UUIDs), and ``warnings``: what was lost, repaired or guessed, in words.
    Raises: InputError that names the file and the record where reading stopped, or the first of too many malformed.
    """
    inputs = files if isinstance(files, Inputs) else Inputs(files)
    tasks, results = _read_all(_read_tasks(files, cfg), lambda items: map_parts(
        RecordReader, items, run=run, cfg=cfg, keep=inputs.keep,
        groups=record_groups(sum(file.size for file in files)),
    ))  # fmt: skip
    issues = Issues()
    for task, result in zip(tasks, results, strict=True):
        issues.merge(result["issues"], task.files[0]["uri"] if task.is_piece else "")
    parts = [part for result in results for part in result["parts"]]
    _count_records_of_files(tasks, results)
    records = sum(part["records"] for part in parts)
    problems = check_malformed(records, issues, cfg)
    if records and issues.counts["keyless"] >= records:
        problems.append(f"none of the {records:,} records has a column of read.text_columns; the first: "
                        f"{issues.example('keyless')}. Set it")  # fmt: skip
    if problems:
        raise InputError(problems)
    figures = deduplicate_records(run, parts, cfg.limit, dim, cfg.near_duplicates)
    warnings = [*inputs.warnings, *issues.warnings(figures)]
    if mixed := dict.fromkeys([*figures.pop("mixed"), *(name for result in results for name in result["mixed"])]):
        warnings.append(f"Columns whose types differ between files or records are strings: {', '.join(mixed)}.")
    uuids = bool(files) and not figures["missing_ids"] and all(file.layout.get("uuids") for file in files)
    return {**figures, "uuid_ids": uuids, "dropped": issues.counts["malformed"], "keyless": issues.counts["keyless"],
            "markup": issues.counts["markup"], "warnings": warnings}  # fmt: skip


def _read_all(tasks: list[ReadTask], read: Callable[[list[Item]], list[Item]]) -> tuple[list[ReadTask], list[Item]]:
    """The tasks in whose results every record is once, and their results.

    A piece that does not end where a record ends is read again with the one behind it, and a file that cannot be read
    in pieces as a whole.
    """
    results: list[Item | None] = [None] * len(tasks)
    serial = 0  # so that no part takes another one's name
    while todo := [at for at, result in enumerate(results) if result is None]:
        items = [{"task": asdict(tasks[at]), "serial": serial + number} for number, at in enumerate(todo)]
        for at, result in zip(todo, read(items), strict=True):
            results[at] = result
        serial += len(items)
        tasks, results = _join_pieces(tasks, results)
    return tasks, [result for result in results if result is not None]


def _join_pieces(tasks: list[ReadTask], results: list[Item | None]) -> tuple[list[ReadTask], list[Item | None]]:
    """The tasks with those joined that must be read together; they have no result."""
    lost = [(result or {}).get("lost") for result in results]
    whole = {task.files[0]["uri"] for task, why in zip(tasks, lost, strict=True) if why == "file"}
    found: list[tuple[ReadTask, Item | None]] = []
    goes_on = False  # whether the piece before has no end of its own
    for task, result, why in zip(tasks, results, lost, strict=True):
        if task.is_piece and task.files[0]["uri"] in whole:
            if task.start == 0:
                log.info("read: %s cannot be read in pieces; one worker reads it", task.files[0]["uri"])
                found.append((ReadTask(task.files), None))
        elif goes_on and task.start:
            found[-1] = replace(found[-1][0], stop=task.stop), None
        else:
            found.append((task, None if why else result))
        goes_on = why == "end"
    return [task for task, _ in found], [result for _, result in found]


def _count_records_of_files(tasks: list[ReadTask], results: list[Item]) -> None:
    """Note for the parts of pieces their file and how many of its records stand before them; default ids need both."""
    before = 0
    for task, result in zip(tasks, results, strict=True):
        if task.is_piece:
            before = before if task.start else 0
            for part in result["parts"]:
                part["of_file"] = {"name": task.files[0]["name"], "before": before}
            before += result["rows"]


def read_columns_of(files: list[InputFile], cfg: ReadSection) -> pa.Table:
    """The text columns of some files as strings, and their other wanted columns with their types.

    Returns: the columns, and ``schema.LOCATION``: the id of a record where no column gives one.
    Raises: InputError for a file that cannot be read to its end, and for too many malformed records.
    """
    keep = files.keep if isinstance(files, Inputs) else ()
    tables: list[pa.Table] = []
    issues = Issues()
    records = 0
    for file in files:
        first = 0
        for table in read_batches(file, ReadTask(), cfg, keep, RECORDS_PER_PART, issues):
            ids = pa.array(_default_ids(file, first, len(table)), pa.string())
            tables.append(table.append_column(schema.LOCATION, ids))
            first += len(table)
        records += first
    if problems := check_malformed(records, issues, cfg):
        raise InputError(problems)
    if not tables:
        names = [*cfg.text_columns, *([cfg.id_column] if cfg.id_column else []), *keep, schema.LOCATION]
        return pa.table({name: pa.array([], pa.string()) for name in dict.fromkeys(names)})
    return concat_tables(tables)[0]


def _default_ids(file: InputFile, first: int, count: int) -> list[str]:
    """The ids of records where no column gives one; first : the number of records before them in the file"""
    return [f"{file.name}:{number}" for number in range(first + 1, first + 1 + count)]


class RecordReader:
    """Read the files of a task, clean their records, and leave them as parts of records/.

    groups : times RECORDS_PER_PART, the records of a part
    """

    def __init__(self, run: RunDir, cfg: ReadSection, keep: tuple[str, ...] = (), groups: int = 1) -> None:
        self.run, self.cfg, self.keep, self.groups = run, cfg, keep, groups
        self.clean = TextCleaner(cfg)

    def __call__(self, item: Item) -> Item:
        issues, task = Issues(), ReadTask(**item["task"])
        try:
            return self._read(task, item["serial"], issues)
        except CutError as error:
            return {"lost": "file" if error.whole else "end", "parts": [], "rows": 0}
        except InputError:
            if not task.is_piece:
                raise
            return {"lost": "file", "parts": [], "rows": 0}  # one worker tells the record and what stands before it

    def _read(self, task: ReadTask, serial: int, issues: Issues) -> Item:
        untyped = all(file["format"] in ("csv", "tsv") for file in task.files)
        parts: list[dict[str, Any]] = []
        mixed: set[str] = set()  # columns of several types
        for default_ids, table in _parts(task, self.cfg, self.keep, issues, mixed, self.groups):
            texts, originals = self.clean(table, issues)
            columns, kinds = carried_columns(table, self.cfg, self.keep, issues)
            name = f"part-{serial:06d}-{len(parts):06d}"
            part = write_records(self.run, name, len(table), records_table(texts, originals, default_ids, columns))
            parts.append({**part, **(kinds if untyped else {**kinds, "numeric": []})})
        carried = sorted(
            carried_name(name) if name in self.keep else "text_id"
            for name in mixed
            if not all(carried_name(name) in part["numeric"] for part in parts)  # else they are numbers all the same
        )
        rows = sum(part["records"] for part in parts)
        return {"parts": parts, "issues": issues.as_dict(), "mixed": carried, "rows": rows}


def _parts(
    task: ReadTask, cfg: ReadSection, keep: tuple[str, ...], issues: Issues, mixed: set[str], groups: int
) -> Iterator[tuple[list[Any], pa.Table]]:
    """The records of a task with their default ids, about BATCH_BYTES and so many times RECORDS_PER_PART at most.

    In a piece of a file, whose first record has a number that is not known yet, they are numbers from 1.
    mixed : takes the names of columns that are strings because types differ
    Raises: InputError that names the file and the record where reading stopped.
    """
    ids: list[Any] = []
    tables: list[pa.Table] = []
    size, most = 0, groups * RECORDS_PER_PART
    for file, first, table in _numbered_batches(task, cfg, keep, issues):
        start = 0
        while start < len(table):
            rows = table.slice(start, most - len(ids))
            rows_size = rows.nbytes
            if not tables or size + rows_size <= batches.BATCH_BYTES:
                ids += (
                    range(first + start + 1, first + start + 1 + len(rows))
                    if task.is_piece
                    else _default_ids(file, first + start, len(rows))
                )
                tables.append(rows)
                start, size = start + len(rows), size + rows_size
                if len(ids) < most:
                    continue
            yield ids, _joined(tables, mixed)
            ids, tables, size = [], [], 0
    if tables:
        yield ids, _joined(tables, mixed)


def _numbered_batches(
    task: ReadTask, cfg: ReadSection, keep: tuple[str, ...], issues: Issues
) -> Iterator[tuple[InputFile, int, pa.Table]]:
    """The batches of a task up to read.limit, each with its file and the number of records before it there."""
    read = 0
    for raw in task.files:
        file, first = InputFile(**raw), task.first_record
        for table in read_batches(file, task, cfg, keep, RECORDS_PER_PART, issues):
            yield file, first, table
            first, read = first + len(table), read + len(table)
            if cfg.limit is not None and read >= cfg.limit:
                return


def _joined(tables: list[pa.Table], mixed: set[str]) -> pa.Table:
    if all(table.schema == tables[0].schema for table in tables):
        return pa.concat_tables(tables)
    table, names = concat_tables(tables)
    mixed |= names
    return table


def _read_tasks(files: list[InputFile], cfg: ReadSection) -> list[ReadTask]:
    tasks: list[ReadTask] = []
    small: list[dict[str, Any]] = []
    small_bytes = 0
    for file in files:
        if small and (small_bytes + file.size > READ_TASK_BYTES or len(small) == READ_TASK_FILES):
            tasks.append(ReadTask(small))
            small, small_bytes = [], 0
        if file.format == "parquet" and not file.compression and file.size > READ_TASK_BYTES:
            tasks += _row_group_tasks(file)
            continue
        if pieces := cut_file(file, cfg):
            tasks += pieces
            continue
        small.append(asdict(file))
        small_bytes += file.size
    return [*tasks, ReadTask(small)] if small else tasks


def _row_group_tasks(file: InputFile) -> list[ReadTask]:
    meta = pq.ParquetFile(open_parquet(file)).metadata
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
