"""Artefacts in; their parts out: names, columns, some rows, vectors, neighbor lists."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clustering.errors import StageError
from clustering.kernels.printable import one_line
from clustering.kernels.topk import IntArray
from clustering.runs.directory import RunDir
from clustering.runs.storage import Location, read_metadata, read_schema, read_table

SHOWN_IDS = 3
WITHOUT_VECTOR = b"without_vector"  # metadata of a part of vectors/: rows whose text has no usable vector


def part_name(index: int) -> str:
    return f"part-{index:06d}.parquet"


def parts(folder: Location) -> list[Location]:
    """The finished Parquet parts of an artefact, in row order."""
    return sorted(folder.glob("part-*.parquet"), key=lambda path: path.name)


def part_names(folder: Location) -> list[str]:
    """The names of the finished parts; they are the same in all artefacts."""
    return [path.name for path in parts(folder)]


@dataclass(frozen=True)
class PartGroup:
    """Some consecutive parts, and their rows: first to stop."""

    names: list[str]
    first: int
    stop: int


def group_parts(folder: Location, smallest: int, most: int) -> list[PartGroup]:
    """All parts of an artefact in groups of about as many rows: at least ``smallest``, and ``most`` groups at most."""
    found = parts(folder)
    rows = [read_metadata(path).num_rows for path in found]
    ends = np.cumsum([0, *rows]).tolist()
    share = max(smallest, -(-ends[-1] // most), 1)
    groups = itertools.groupby(range(len(found)), lambda number: ends[number] // share)
    numbers = [list(group) for _, group in groups]
    return [PartGroup([found[at].name for at in own], ends[own[0]], ends[own[-1] + 1]) for own in numbers]


def read_columns(folder: Location, columns: list[str]) -> pa.Table:
    """Some columns of all parts of an artefact, in row order; they must fit in one process."""
    found = parts(folder)
    if not found:
        raise StageError(f"{folder} holds no parts; run the stage that makes it first")
    return pa.concat_tables([read_table(path, columns=columns) for path in found])


def read_rows(folder: Location, rows: np.ndarray[Any, Any], columns: list[str]) -> pa.Table:
    """Some columns of some rows of an artefact, ascending by row, part by part. rows : int64, shape (n_rows,)"""
    return pa.concat_tables(
        read_table(path, columns=columns).take(positions) for path, positions, _ in _parts_with(folder, rows)
    )


def read_row_texts(run: RunDir, rows: np.ndarray[Any, Any]) -> dict[int, str]:
    """The texts of some rows as they are shown, by row. rows : int64, shape (n_rows,)"""
    texts: dict[int, str] = {}
    for path, positions, found in _parts_with(run / "texts", rows) if rows.size else ():
        columns = [name for name in ("shown", "text") if name in read_schema(path).names]
        table = read_table(path, columns=columns).take(positions)
        texts |= dict(zip(found.tolist(), pc.coalesce(*table.select(columns).columns).to_pylist(), strict=True))
    return texts


def _parts_with(folder: Location, rows: np.ndarray[Any, Any]) -> Iterator[tuple[Location, IntArray, IntArray]]:
    """The parts that hold some of the rows, each with their positions in it and the rows there."""
    for path in parts(folder):
        own = read_table(path, columns=["row"])["row"].to_numpy()
        positions = np.flatnonzero(np.isin(own, rows))
        if positions.size:
            yield path, positions, own[positions]


def walk_neighbors(
    run: RunDir, k: int, longest: float | None = None, names: list[str] | None = None
) -> Iterator[tuple[np.ndarray[Any, Any], ...]]:
    """The k nearest of each list of neighbors/, part by part, with an entry for each neighbor.

    longest : farther neighbors are left out
    names : of the parts; one that does not exist has no lists; None reads all parts
    Yields: row (int64), position in its list (int64, 0 is the nearest), neighbor (int64) and distance (float32), each
        of shape (n_entries,), rows ascending
    """
    folder = run / "neighbors"
    for path in parts(folder) if names is None else [path for name in names if (path := folder / name).exists()]:
        table = read_table(path, columns=["row", "neighbors", "distances"])
        lengths = pc.list_value_length(table["neighbors"]).to_numpy().astype(np.int64)
        position = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        neighbor, distance = (table[name].combine_chunks().flatten().to_numpy() for name in ("neighbors", "distances"))
        near = position < k if longest is None else (position < k) & (distance <= longest)
        yield np.repeat(table["row"].to_numpy(), lengths)[near], position[near], neighbor[near], distance[near]


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
    return rows_in_metadata(folder, WITHOUT_VECTOR)


def rows_in_metadata(folder: Location, key: bytes) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The rows that the metadata of an artefact's parts lists under a key: int64, shape (n_rows,)."""
    listed = [(read_schema(path).metadata or {}).get(key, b"").decode() for path in parts(folder)]
    return np.array([int(row) for rows in listed for row in rows.split()], np.int64)


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
        rows = read_table(run / "texts" / name, columns=["row"])["row"]
        members = read_table(run / "members" / name, columns=["text_id", "row"])
        ids = members.filter(pc.is_in(members["row"], rows[:SHOWN_IDS]))["text_id"].to_pylist()[:SHOWN_IDS]
    except Exception:  # the error itself is reported already
        return ""
    shown = ", ".join(one_line(str(one), 80) for one in ids)
    return f"rows {rows[0]} to {rows[-1]}" + (f", text ids {shown} ..." if shown else "")
