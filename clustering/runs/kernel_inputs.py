"""Artefacts in; the arrays that kernels work on out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from hashlib import blake2b
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.sparse import csr_array

from clustering import schema
from clustering.errors import StageError
from clustering.kernels.graph.blocks import STEP, Block, Piece, join_blocks, list_radius
from clustering.kernels.graph.csr import check_lists, min_distance
from clustering.kernels.graph.diffusion import Keys
from clustering.kernels.graph.forest import Forest, row_dtype
from clustering.kernels.graph.group_sizes import GroupSizes
from clustering.kernels.graph.time_gaps import TimeScale, lengthen_by_time, measure_time_scale
from clustering.kernels.topk import FloatArray, IntArray
from clustering.runs.directory import RunDir
from clustering.runs.parts import parts, read_ahead, read_columns, read_rows, sample_rows, walk_tables
from clustering.runs.storage import REDO_HINT, Location, load_array, read_json, save_array, write_json

BLOCK_ARRAYS = tuple(one.name for one in fields(Block))
NO_TIME = np.iinfo(np.int64).max  # microseconds of a text without a time
MICROSECONDS_A_DAY = 86_400_000_000
NEAREST = 3  # neighbors whose times are compared with that of a text
TRANSFERS = len(BLOCK_ARRAYS)  # files of a block that are written or read at once


@dataclass(frozen=True)
class BlockIndex:
    """What blocks.json says of a graph in blocks: numbers of each block.

    rows, edges, list_entries : of its rows, of their entries in the graph, and of those in their lists
    halo, list_halo : of the other rows that the graph's entries name, and the lists'
    """

    n_texts: int
    rows: list[int]
    edges: list[int]
    list_entries: list[int]
    halo: list[int]
    list_halo: list[int]

    def __len__(self) -> int:
        return len(self.rows)


def block_index(run: RunDir) -> BlockIndex:
    """The sizes of the blocks of the run's graph; its length is their number. Raises: StageError without a graph."""
    try:
        return BlockIndex(**json.loads((run / "graph" / "blocks.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        raise StageError(f"{run / 'graph'} holds no finished graph; covey recluster makes it") from None


def write_block_index(run: RunDir, index: BlockIndex) -> None:
    """Write blocks.json, which makes the blocks a finished graph."""
    write_json(run / "graph" / "blocks.json", vars(index))


def block_folder(run: RunDir, number: int) -> Location:
    return run / "graph" / f"block-{number:05d}"


def save_block(run: RunDir, number: int, block: Block) -> None:
    """Write a block of the graph as memory-mappable arrays."""
    folder = block_folder(run, number)
    with ThreadPoolExecutor(TRANSFERS) as pool:
        list(pool.map(lambda name: save_array(folder / f"{name}.npy", getattr(block, name)), BLOCK_ARRAYS))


def load_block(run: RunDir, number: int) -> Block:
    """A block of the run's graph, memory-mapped. Raises: StageError when it is missing."""
    with ThreadPoolExecutor(TRANSFERS) as pool:
        return Block(*pool.map(lambda name: load_block_array(run, number, name), BLOCK_ARRAYS))


def load_block_array(run: RunDir, number: int, name: str) -> Any:
    """One array of a block, memory-mapped; name : a field of ``Block``. Raises: StageError when it is missing."""
    path = block_folder(run, number) / f"{name}.npy"
    try:
        return load_array(path, mapped=True)
    except FileNotFoundError:
        raise StageError(f"{path.parent.parent} holds no finished graph ({path} is missing)") from None


def load_graph(run: str | Location | RunDir) -> csr_array:
    """The run's distance graph as a symmetric float32 csr_array, shape (n_texts, n_texts).

    The graph of a single block is memory-mapped; several blocks are joined in memory.
    run : a run directory, or its URI
    Raises: StageError when the run has no finished graph.
    """
    run = run if isinstance(run, RunDir) else RunDir(run)
    index = block_index(run)
    return join_blocks([load_block(run, number) for number in range(len(index))], index.n_texts)


def load_graph_block(run: str | Location | RunDir, number: int) -> Block:
    """One block of the run's distance graph, memory-mapped: some near rows with their edges, lists and texts' digests.

    run : a run directory, or its URI
    number : 0 to the number of blocks - 1
    Raises: StageError when the run has no finished graph, or no such block.
    """
    run = run if isinstance(run, RunDir) else RunDir(run)
    n_blocks = len(block_index(run))
    if not 0 <= number < n_blocks:
        raise StageError(f"{run / 'graph'} has no block {number}; its blocks are 0 to {n_blocks - 1}")
    return load_block(run, number)


def load_radius(run: RunDir) -> FloatArray:
    """For each row, the least length of an edge that its list does not hold: float32, shape (n_texts,)."""
    index = block_index(run)
    if len(index) == 1:
        return load_block_array(run, 0, "radius")  # type: ignore[no-any-return]
    radius = np.empty(index.n_texts, np.float32)
    for number in range(len(index)):
        radius[load_block_array(run, number, "rows")] = load_block_array(run, number, "radius")
    return radius


@dataclass(frozen=True)
class ListOptions:
    """Which entries of neighbors/ become edges.

    k : the nearest of each list; max_distance : farther ones are left out
    n_texts, n_without : of the run, and those of them that have no vector
    time_scale : days; "auto" takes it from the times of the texts, None leaves times aside
    """

    k: int
    max_distance: float | None
    metric: str
    n_texts: int
    n_without: int
    time_scale: float | Literal["auto"] | None = None


@dataclass(frozen=True)
class Times:
    """When each text was first published, and how much the time between two texts counts.

    days : from a day in the middle on, float32, shape (n_texts,); NaN for a text without a time
    """

    days: FloatArray
    scale: TimeScale


def load_times(run: RunDir, options: ListOptions) -> Times | None:
    """The times of the run's texts, with a scale by a sample of the lists; None where times are left aside."""
    if options.time_scale is None or options.n_texts < 2:
        return None
    first = np.full(options.n_texts, NO_TIME, np.int64)
    for table in walk_tables(parts(run / "members"), ["row", "time"]):
        if "time" in table.column_names:
            micros = pc.cast(table["time"], pa.timestamp("us", "UTC")).cast(pa.int64())
            np.minimum.at(first, table["row"].to_numpy(), pc.fill_null(micros, NO_TIME).to_numpy())
    rows = sample_rows(options.n_texts)
    days = _days(first, rows)
    del first
    listed = read_rows(run / "neighbors", rows, ["row", "neighbors"])
    nearest = pc.list_slice(listed["neighbors"], 0, NEAREST)
    owner = np.repeat(listed["row"].to_numpy(), pc.list_value_length(nearest).to_numpy())
    gaps = np.abs(days[owner] - days[nearest.combine_chunks().flatten().to_numpy()])
    given = None if options.time_scale == "auto" else options.time_scale
    return Times(days, measure_time_scale(gaps, days[rows], given))


def _days(micros: NDArray[np.int64], rows: IntArray) -> FloatArray:
    """Times in days from the median of some rows on, near which they are exact; NaN for NO_TIME."""
    known = micros[rows][micros[rows] != NO_TIME]
    middle = int(np.median(known)) if known.size else 0
    days = np.empty(micros.size, np.float32)
    for start in range(0, micros.size, STEP):
        some = micros[start : start + STEP]
        gaps = np.where(some == NO_TIME, np.nan, (some.astype(np.float64) - middle) / MICROSECONDS_A_DAY)
        days[start : start + STEP] = gaps
    return days


def walk_pieces(
    run: RunDir, names: list[str], options: ListOptions, times: Times | None = None
) -> Iterator[tuple[Piece, int, int]]:
    """The neighbor lists of consecutive parts, some rows at a time, with what else belongs to the rows.

    times : lengthen the entries between texts that are far apart in time
    Yields: the piece, without incoming entries; its first row; the entries left out by max_distance.
    Raises: StageError when neighbors/ does not list all texts of the parts.
    """
    dtype = row_dtype(options.n_texts)
    texts = read_ahead(lambda name: _read_texts(run, name), names, 1)
    if options.n_texts == 1:
        first, keys, copies = next(texts)
        nothing = np.zeros(1, np.int64), np.empty(0, dtype), np.empty(0, np.float32)
        yield Piece(*nothing, np.full(1, np.inf, np.float32), keys, copies, *_no_entries(dtype)), first, 0
        return
    at, keys, copies = 0, np.empty(0, np.uint64), np.empty(0, np.int32)  # of the rows of a part that are left
    for table in _walk_lists(run, names, schema.NEIGHBORS.names):
        if not keys.size:
            at, keys, copies = next(texts, (at, keys, copies))
        n_rows = len(table)
        if not np.array_equal(table["row"].to_numpy(), np.arange(at, at + n_rows)) or n_rows > keys.size:
            break
        yield _piece_of(table, at, keys[:n_rows], copies[:n_rows], options, times)
        at, keys, copies = at + n_rows, keys[n_rows:], copies[n_rows:]
    else:
        if not keys.size and next(texts, None) is None:
            return
    raise StageError(f"{run / 'neighbors'} does not list the texts from row {at} on. {REDO_HINT}")


def _piece_of(
    table: pa.Table, first: int, keys: Keys, copies: NDArray[Any], options: ListOptions, times: Times | None
) -> tuple[Piece, int, int]:
    listed = pc.list_value_length(table["neighbors"]).to_numpy().astype(np.int64)
    others, distances = (table[one].combine_chunks().flatten().to_numpy() for one in ("neighbors", "distances"))
    check_lists(first, listed, others, distances, options.n_texts)
    n_others, floor = options.n_texts - 1 - options.n_without, min_distance(options.metric)
    least_of = partial(list_radius, n_others=n_others, floor=floor, longest=options.max_distance)
    unlisted = None  # the least distance of what was not found, which time lengthens, too, but nobody knows by how much
    if times and times.scale.share:
        unlisted = least_of(listed, distances)
        others, distances = others.copy(), distances.copy()
        lengthen_by_time(listed, others, distances, first, times.days, times.scale, options.metric, floor)
    if (listed > options.k).any():
        near = np.arange(others.size) - np.repeat(np.cumsum(listed) - listed, listed) < options.k
        listed, others, distances = np.minimum(listed, options.k), others[near], distances[near]
    radius = least_of(listed, distances)
    if unlisted is not None:
        radius = np.minimum(radius, unlisted)
    radius[table["cell"].to_numpy() < 0] = np.inf
    too_long = 0
    if options.max_distance is not None:
        near = distances <= options.max_distance
        too_long = int(near.size - near.sum())
        held = np.concatenate([[0], np.cumsum(near)])[np.concatenate([[0], np.cumsum(listed)])]
        listed, others, distances = np.diff(held), others[near], distances[near]
    others = others.astype(row_dtype(options.n_texts), copy=False)
    return Piece(listed, others, distances, radius, keys, copies, *_no_entries(others.dtype)), first, too_long


def _no_entries(dtype: Any) -> tuple[NDArray[Any], NDArray[Any], FloatArray]:
    return np.empty(0, dtype), np.empty(0, dtype), np.empty(0, np.float32)


def _read_texts(run: RunDir, name: str) -> tuple[int, Keys, NDArray[np.int32]]:
    """The first row of a part, and of all its rows the digest of the text (uint64) and the copies (int32)."""
    keys: list[Keys] = []
    copies, first = [], 0
    for table in walk_tables([run / "texts" / name], ["row", "text", "copies"]):
        first = first if keys else table["row"][0].as_py()
        keys.append(digest_texts(table["text"].to_pylist()))
        copies.append(table["copies"].to_numpy())
    return first, np.concatenate(keys), np.concatenate(copies)


def read_cells(run: RunDir, names: list[str]) -> NDArray[Any]:
    """The partition of each row of some parts: int16, or int32 where it must be; -1 for a row without a vector."""
    cells = (table["cell"].to_numpy() for table in _walk_lists(run, names, ["cell"]))
    return np.concatenate([cell.astype(np.int16) if cell.max(initial=0) < 1 << 15 else cell for cell in cells])


def _walk_lists(run: RunDir, names: list[str], columns: list[str]) -> Iterator[pa.Table]:
    """Raises: StageError when a part is missing."""
    try:
        yield from walk_tables([run / "neighbors" / name for name in names], columns)
    except FileNotFoundError as error:
        raise StageError(f"{run / 'neighbors'} lacks a part: {str(error)[:200]}. {REDO_HINT}") from None


def digest_texts(texts: list[str]) -> NDArray[np.uint64]:
    """A digest of each text: uint64, shape (n_texts,)."""
    digests = b"".join(blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def load_copies(run: RunDir) -> NDArray[np.int32]:
    """How many records have each distinct text: int32, shape (n_texts,)."""
    return read_columns(run / "texts", ["copies"])["copies"].to_numpy()  # type: ignore[no-any-return]


def load_forest(run: RunDir) -> Forest:
    """The edges of the run's minimum spanning forest, ascending by distance."""
    table = read_columns(run / "forest", ["left", "right", "distance"])
    return Forest(*(table[name].to_numpy() for name in ("left", "right", "distance")))


def load_group_sizes(run: RunDir) -> GroupSizes:
    """The sizes of the run's small groups, which the forest stage has counted. Raises: StageError when damaged."""
    path = run / "forest" / "grain.json"
    known = read_json(path, "share", "size")  # an earlier version knows no families
    held = {one.name: known[one.name] for one in fields(GroupSizes) if one.name in known}
    if not all(isinstance(value, (int, float)) for value in held.values()):
        raise StageError(f"{path} is damaged: a value is no number. {REDO_HINT}")
    return GroupSizes(**held)
