"""The parts of artefacts: their names, their columns, some of their rows, vectors and neighbor lists."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_array

from clustering.errors import StageError
from clustering.kernels.printable import one_line
from clustering.runs.directory import RunDir
from clustering.runs.storage import Location, load_array, read_schema, read_table, save_array

SHOWN_IDS = 3
WITHOUT_VECTOR = b"without_vector"  # in the metadata of a part of vectors/: rows whose text has none that can be used


def part_name(index: int) -> str:
    return f"part-{index:06d}.parquet"


def parts(folder: Location) -> list[Location]:
    """The finished Parquet parts of an artefact, in row order."""
    return sorted(folder.glob("part-*.parquet"), key=lambda path: path.name)


def part_names(folder: Location) -> list[str]:
    """The names of the finished parts, which are the same in all artefacts."""
    return [path.name for path in parts(folder)]


def read_columns(folder: Location, columns: list[str]) -> pa.Table:
    """Some columns of all parts of an artefact, in row order; for columns that fit in one process."""
    found = parts(folder)
    if not found:
        raise StageError(f"{folder} holds no parts; run the stage that makes it first")
    return pa.concat_tables([read_table(path, columns=columns) for path in found])


def read_rows(folder: Location, rows: np.ndarray[Any, Any], columns: list[str]) -> pa.Table:
    """Some columns of some rows of an artefact, ascending by row, read part by part."""
    found = []
    for path in parts(folder):
        held = read_table(path, columns=["row"])["row"].to_numpy()
        places = np.flatnonzero(np.isin(held, rows))
        if len(places):
            found.append(read_table(path, columns=columns).take(places))
    return pa.concat_tables(found)


def read_row_texts(run: RunDir, rows: np.ndarray[Any, Any]) -> dict[int, str]:
    """The texts of some rows, as they are shown."""
    if not rows.size:
        return {}
    found: dict[int, str] = {}
    for path in parts(run / "texts"):
        held = read_table(path, columns=["row"])["row"].to_numpy()
        places = np.flatnonzero(np.isin(held, rows))
        if len(places):
            shown = ["shown"] if "shown" in read_schema(path).names else []
            table = read_table(path, columns=["text", *shown]).take(places)
            words = pc.coalesce(*(table[name] for name in (*shown, "text")))
            found.update(zip(held[places].tolist(), words.to_pylist(), strict=True))
    return found


def flat_neighbors(path: Location, k: int) -> tuple[np.ndarray[Any, Any], ...]:
    """The k nearest of each list of a part of neighbors/, one entry a neighbor.

    Returns: row int64, place in its list (0 the nearest), neighbor int64, distance float32, each shape (n_entries,)
    """
    table = read_table(path)
    lengths = pc.list_value_length(table["neighbors"]).to_numpy().astype(np.int64)
    place = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    near = place < k
    flat = (table[name].combine_chunks().flatten().to_numpy()[near] for name in ("neighbors", "distances"))
    return np.repeat(table["row"].to_numpy(), lengths)[near], place[near], *flat


def load_assignment(run: RunDir) -> pa.Table:
    """label, strength, outlier_score, home and home_strength of every row, in row order."""
    return read_table(run / "assignment.parquet")


def vectors_of(table: pa.Table) -> np.ndarray[Any, np.dtype[np.float32]]:
    """float32, shape (n_rows, dim): column ``vector`` without a Python object a row."""
    column = table["vector"].combine_chunks()
    values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    return values.reshape(len(column), column.type.list_size)  # type: ignore[no-any-return]


def stored_vectors(table: pa.Table) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, np.dtype[np.float32]]]:
    """Rows and vectors of those texts of a part that have a vector; the others' are all zeros."""
    vectors = vectors_of(table)
    there = vectors.any(axis=1)
    return table["row"].to_numpy()[there], vectors if there.all() else vectors[there]


def rows_without_vector(folder: Location) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The rows of vectors/ whose text has none that can be used, ascending."""
    return rows_in_metadata(folder, WITHOUT_VECTOR)


def rows_in_metadata(folder: Location, key: bytes) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The rows that the metadata of an artefact's parts names under a key."""
    named = [(read_schema(path).metadata or {}).get(key, b"").decode() for path in parts(folder)]
    return np.array([int(row) for rows in named for row in rows.split()], np.int64)


def save_graph(folder: Location, graph: csr_array) -> None:
    """Write the graph as three memory-mappable arrays."""
    for name in ("indptr", "indices", "data"):
        save_array(folder / f"{name}.npy", getattr(graph, name))


def load_graph(run: str | Location | RunDir) -> csr_array:
    """The run's distance graph as a symmetric float32 csr_array, memory-mapped, shape (n_texts, n_texts).

    run : a run directory, or its URI
    Raises: StageError when the run has no finished graph.
    """
    folder = (run if isinstance(run, RunDir) else RunDir(run)) / "graph"
    try:
        arrays = [load_array(folder / f"{name}.npy", mapped=True) for name in ("data", "indices", "indptr")]
    except FileNotFoundError as error:
        raise StageError(f"{folder} holds no finished graph ({error.filename} is missing)") from None
    n_texts = arrays[2].size - 1
    return csr_array(tuple(arrays), shape=(n_texts, n_texts))


def describe_item(item: dict[str, Any], run: RunDir | None = None) -> str:
    """The names of an item's parts, or what it says of a piece of input; with the first text ids where they are known.

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
    """Rows and first text ids of a part; empty where they cannot be read, as before the stage read is done."""
    try:
        rows = read_table(run / "texts" / name, columns=["row"])["row"]
        members = read_table(run / "members" / name, columns=["text_id", "row"])
        ids = members.filter(pc.is_in(members["row"], rows[:SHOWN_IDS]))["text_id"].to_pylist()[:SHOWN_IDS]
    except Exception:  # what is wrong is told already; this only adds to it
        return ""
    shown = ", ".join(one_line(str(one), 80) for one in ids)
    return f"rows {rows[0]} to {rows[-1]}" + (f", text ids {shown} ..." if shown else "")
