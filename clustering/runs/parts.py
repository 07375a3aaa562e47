"""Artefacts in; their parts out: names, columns, some rows, vectors, neighbor lists."""

from __future__ import annotations

import itertools
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clustering.errors import StageError
from clustering.kernels.memory import GROUP_ROWS
from clustering.kernels.printable import one_line
from clustering.kernels.topk import IntArray
from clustering.runs.directory import RunDir
from clustering.runs.index import Part, read_index
from clustering.runs.object_store import RemotePath
from clustering.runs.storage import Location, ParquetGroups, atomic_write, read_schema, read_slice, read_table

SHOWN_IDS = 3
SAMPLED, SAMPLED_BLOCKS = 256, 64  # consecutive rows of a sample, and how many such blocks it has
WITHOUT_VECTOR = "without_vector"  # counted of a part of vectors/: rows whose text has no usable vector
AHEAD, AHEAD_BYTES = 4, 64 << 20  # row groups that are read before they are asked for, and their bytes, at most
REMOTE_AHEAD = 16  # of an object store, whose answers take long to begin
T = TypeVar("T")
S = TypeVar("S")


def part_name(index: int) -> str:
    return f"part-{index:06d}.parquet"


def parts(folder: Location) -> list[Location]:
    """The finished Parquet parts of an artefact, in row order."""
    return [folder / name for name in part_names(folder)]


def part_names(folder: Location) -> list[str]:
    """The names of the finished parts; they are the same in all artefacts."""
    return read_index(folder).names


class PartWriter:
    """A part that is written table by table, in row groups; see ``writing_part``."""

    def __init__(self, name: str, temporary: Path) -> None:
        self.name, self.temporary = name, temporary
        self.first = self.rows = self.bytes = 0
        self.writer: pq.ParquetWriter | None = None

    def write(self, table: pa.Table) -> None:
        if self.writer is None:
            self.first = int(table["row"][0].as_py())
            # Numbers that hardly repeat, and texts, take more time and bytes with a dictionary than without.
            self.writer = pq.ParquetWriter(self.temporary, table.schema, compression="zstd", use_dictionary=False)
        self.writer.write_table(table, row_group_size=GROUP_ROWS)
        self.rows += len(table)

    def close(self) -> None:
        if self.writer:
            self.writer.close()
        self.bytes = self.temporary.stat().st_size

    def listed(self, **counts: Any) -> Part:
        """The written part for the index."""
        return Part(self.name, self.first, self.rows, self.bytes, counts)


@contextmanager
def writing_part(folder: Location, name: str) -> Iterator[PartWriter]:
    """Write a part, with column ``row``, atomically."""
    with atomic_write(folder / name) as temporary:
        part = PartWriter(name, temporary)
        yield part
        part.close()


def write_part(folder: Location, name: str, table: pa.Table, **counts: Any) -> Part:
    """Write a table with column ``row`` as a part. Returns: the part for the index"""
    with writing_part(folder, name) as part:
        part.write(table)
    return part.listed(**counts)


def read_ahead(read: Callable[[S], T], items: Iterable[S], ahead: int = AHEAD) -> Iterator[T]:
    """``read(item)`` of each item, in their order. Threads read up to ``ahead`` items before they are asked for."""
    reading: deque[Future[T]] = deque()
    with ThreadPoolExecutor(ahead) as pool:
        try:
            for item in items:
                reading.append(pool.submit(read, item))
                if len(reading) > ahead:
                    yield reading.popleft().result()
            while reading:
                yield reading.popleft().result()
        finally:
            for future in reading:
                future.cancel()


def walk_tables(paths: Iterable[Location], columns: list[str] | None = None) -> Iterator[pa.Table]:
    """Parts, or some of their columns, row group by row group, read ahead. columns : those that a part has are read"""
    files = read_ahead(ParquetGroups, paths, 2)
    for first in files:  # whose row groups are as large as those of the others
        groups = ((part, group) for part in itertools.chain([first], files) for group in range(len(part)))
        ahead = min(_ahead(first.path), max(1, AHEAD_BYTES // max(first.group_bytes, 1)))
        yield from read_ahead(lambda item: item[0].read(item[1], columns), groups, ahead)


def _ahead(path: Location) -> int:
    return REMOTE_AHEAD if isinstance(path, RemotePath) else AHEAD


@dataclass(frozen=True)
class PartGroup:
    """Some consecutive parts, and their rows: first to stop."""

    names: list[str]
    first: int
    stop: int


def group_parts(folder: Location, smallest: int, most: int) -> list[PartGroup]:
    """All parts of an artefact in groups of about as many rows: at least ``smallest``, and ``most`` groups at most."""
    index = read_index(folder)
    share = max(smallest, -(-index.rows // most), 1)
    groups = [list(group) for _, group in itertools.groupby(index, lambda part: part.first // share)]
    return [PartGroup([part.name for part in own], own[0].first, own[-1].first + own[-1].rows) for own in groups]


def read_range(folder: Location, first: int, stop: int, columns: list[str]) -> pa.Table:
    """Some columns of consecutive rows of an artefact. first, stop : rows; there may be none between them"""
    index = list(read_index(folder))
    holding = [part for part in index if part.first < stop and first < part.first + part.rows] or index[:1]
    return pa.concat_tables(
        read_slice(folder / part.name, max(first - part.first, 0), max(min(stop - part.first, part.rows), 0), columns)
        for part in holding
    )


def read_columns(folder: Location, columns: list[str]) -> pa.Table:
    """Some columns of all parts of an artefact, in row order; they must fit in one process."""
    found = parts(folder)
    if not found:
        raise StageError(f"{folder} holds no parts; run the stage that makes it first")
    return pa.concat_tables(read_ahead(lambda path: read_table(path, columns=columns), found, _ahead(folder)))


def read_rows(folder: Location, rows: np.ndarray[Any, Any], columns: list[str]) -> pa.Table:
    """Some columns of some rows of an artefact, ascending by row. rows : int64, shape (n_rows,)"""
    found = [table for _, table in _rows_by_part(folder, rows, columns)]
    return pa.concat_tables(found) if found else read_schema(parts(folder)[0]).empty_table().select(columns)


def sample_rows(n_texts: int) -> IntArray:
    """Up to 16,384 rows in evenly spaced blocks, which few row groups hold: int64, ascending."""
    blocks = np.unique(np.linspace(0, max(n_texts - 1, 0) // SAMPLED, SAMPLED_BLOCKS).astype(np.int64))
    rows: IntArray = (blocks[:, None] * SAMPLED + np.arange(SAMPLED)).ravel()
    return rows[rows < n_texts]


def read_row_texts(run: RunDir, rows: np.ndarray[Any, Any]) -> dict[int, str]:
    """The texts of some rows as they are shown, by row. rows : int64, shape (n_rows,)"""
    texts: dict[int, str] = {}
    for found, held in walk_row_texts(run, rows):
        texts |= dict(zip(found.tolist(), held.to_pylist(), strict=True))
    return texts


def walk_row_texts(run: RunDir, rows: np.ndarray[Any, Any]) -> Iterator[tuple[IntArray, pa.ChunkedArray]]:
    """Some rows, ascending, and their texts as they are shown, part by part. rows : int64, shape (n_rows,)"""
    for found, table in _rows_by_part(run / "texts", rows, ["shown", "text"]):
        yield found, shown_texts(table)


def shown_texts(table: pa.Table) -> pa.ChunkedArray:
    """The texts of rows of texts/ as they are shown. table : columns text and, where it is there, shown"""
    return pc.coalesce(*(table[name] for name in ("shown", "text") if name in table.column_names))


def records_of(run: RunDir, name: str, rows: Iterable[int]) -> Iterator[tuple[int, Any]]:
    """The row and text id of the records in a part of members/ whose text is one of some rows, in their order."""
    wanted = pa.array(list(rows), pa.int64())
    for table in walk_tables([run / "members" / name], ["row", "text_id"]):
        found = table.filter(pc.is_in(table["row"], wanted))
        yield from zip(found["row"].to_pylist(), found["text_id"].to_pylist(), strict=True)


def _rows_by_part(
    folder: Location, rows: np.ndarray[Any, Any], columns: list[str]
) -> Iterator[tuple[IntArray, pa.Table]]:
    """For each part that holds some of the rows, these, ascending, and their columns. Other parts are not read."""
    index = read_index(folder)
    rows = np.unique(rows)
    part = index.part_of(rows)

    def read(position: int) -> tuple[IntArray, pa.Table]:
        own = rows[part == position]
        name = index.names[position]
        return own, ParquetGroups(folder / name).take(own - index.first(name), columns)

    yield from read_ahead(read, np.unique(part[part >= 0]).tolist())


def walk_neighbors(
    run: RunDir, k: int, longest: float | None = None, names: list[str] | None = None
) -> Iterator[tuple[np.ndarray[Any, Any], ...]]:
    """The k nearest of each list of neighbors/, some rows at a time, with an entry for each neighbor.

    longest : farther neighbors are left out
    names : of the parts; one that does not exist has no lists; None reads all parts
    Yields: row (int64), position in its list (int64, 0 is the nearest), neighbor (int64) and distance (float32), each
        of shape (n_entries,), rows ascending
    """
    folder = run / "neighbors"
    found = [name for name in part_names(folder) if names is None or name in names]
    for table in walk_tables([folder / name for name in found], ["row", "neighbors", "distances"]):
        lengths = pc.list_value_length(table["neighbors"]).to_numpy().astype(np.int64)
        position = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        neighbor, distance = (table[name].combine_chunks().flatten().to_numpy() for name in ("neighbors", "distances"))
        near = position < k if longest is None else (position < k) & (distance <= longest)
        yield np.repeat(table["row"].to_numpy(), lengths)[near], position[near], neighbor[near], distance[near]


def label_parts(run: RunDir) -> list[Location]:
    """The files of labels.parquet, which is one itself or, beyond 10 million records, a folder of parts."""
    path = run / "labels.parquet"
    found: list[Location] = sorted(path.glob("part-*.parquet"), key=lambda part: part.name)
    return found or [path]


def load_labels(run: RunDir, columns: list[str] | None = None) -> pa.Table:
    """Some columns of labels.parquet."""
    return pa.concat_tables([read_table(part, columns=columns) for part in label_parts(run)])


def load_assignment(run: RunDir) -> pa.Table:
    """The columns of ``schema.ASSIGNMENT`` of every row, in row order."""
    return read_table(run / "assignment.parquet")


def vectors_of(table: pa.Table) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Column ``vector`` as float32, shape (n_rows, dim), without a Python object for each row."""
    column = table["vector"].combine_chunks()
    values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    return values.reshape(len(column), column.type.list_size)  # type: ignore[no-any-return]


def stored_vectors(table: pa.Table) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, np.dtype[np.float32]]]:
    """The rows and vectors of the texts of a part that have a vector; a text without one has zeros there.

    Returns: int64, shape (n_vectors,), and float32, shape (n_vectors, dim)
    """
    vectors = vectors_of(table)
    present = vectors.any(axis=1)
    return table["row"].to_numpy()[present], vectors if present.all() else vectors[present]


def rows_without_vector(folder: Location) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The rows of vectors/ whose text has no usable vector: int64, shape (n_rows,), ascending."""
    return read_index(folder).listed_rows(WITHOUT_VECTOR)


def describe_item(item: dict[str, Any], run: RunDir | None = None) -> str:
    """A work item for messages: the names of its parts with the first text ids if known, or its piece of input.

    item : with ``name``, ``names``, ``pieces`` (each with a name, or first and stop), or another description
    """
    pieces = item.get("pieces", [])
    names = item.get("names") or [piece["name"] for piece in pieces if "name" in piece]
    names = names or ([item["name"]] if "name" in item else [])
    if not names:
        rest = {key: value for key, value in item.items() if key != "item"}
        return json.dumps(rest, ensure_ascii=False, default=str)
    words = names[0] + (f" to {names[-1]}" if len(names) > 1 else "")
    first = _first_ids(run, names[0]) if run is not None else ""
    return f"{words} ({first})" if first else str(words)


def _first_ids(run: RunDir, name: str) -> str:
    """Rows and first text ids of a part; empty when they cannot be read, as before the stage read is finished."""
    try:
        part = read_index(run / "texts")[name]
        rows = range(part.first, part.first + part.rows)
        ids = [text_id for _, text_id in itertools.islice(records_of(run, name, rows[:SHOWN_IDS]), SHOWN_IDS)]
    except Exception:  # the error itself is reported already
        return ""
    shown = ", ".join(one_line(str(one), 80) for one in ids)
    return f"rows {rows[0]} to {rows[-1]}" + (f", text ids {shown} ..." if shown else "")
