"""records/ in; the row of every record out: rows number the distinct texts by first appearance, in parallel.

A group is some consecutive items, and an item the parts of records/ that become one part of texts/. A piece is the
records whose digests lie in one range, so that all copies of a text are in the same piece::

    cut group  -> digests and places of its records, by piece
    fold piece -> which records are copies of which; the first ones of each group
    rank group -> the order of its first records, over all pieces
    place piece -> the row of each of its records, by group
    write group -> a file of numbers for each of its items

No process holds more than a group or a piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from clustering import schema
from clustering.kernels.copies import fold_copies, split_digests
from clustering.kernels.memory import NUMBERED_RECORDS
from clustering.kernels.topk import IntArray
from clustering.runs.directory import RunDir
from clustering.runs.parts import read_ahead
from clustering.runs.storage import atomic_write, load_array, read_temporary
from clustering.schema import Figures
from clustering.workers.remote import fetch
from clustering.workers.tasks import Starter, collect, make_pieces, run_on_one_node, submit_pieces

Digests = np.ndarray[Any, np.dtype[np.uint64]]  # shape (n, 2)
Measured = tuple[Any, Any]  # the value of a task, with its usage


class RecordPart(NamedTuple):
    """A part of records/, and the number of records before it, with the empty ones."""

    name: str
    before: int


Group = list[list[RecordPart]]  # items


class Numbers(NamedTuple):
    """What becomes of the records of an item that are kept."""

    kept: IntArray  # of each part of records/, how many
    row: IntArray  # int64, shape (n_kept,)
    first: np.ndarray[Any, np.dtype[np.bool_]]  # shape (n_kept,): whether a record is the first with its text
    copies: np.ndarray[Any, np.dtype[np.int32]]  # shape (n_first,): how many records have its text
    other: np.ndarray[Any, np.dtype[np.bool_]]  # shape (n_kept,): whether a record's text is not that of its row
    cut: np.ndarray[Any, np.dtype[np.int32]]  # shape (n_first,): bytes of the text that the row has, -1 for all


def number_rows(run: RunDir, items: list[list[dict[str, Any]]], limit: int | None) -> Figures:
    """Write for each item the numbers of its records, see ``read_numbers``.

    items : of each part of records/ its name and the number of its records, with the empty ones
    limit : of records; the others get no row
    Returns: records, texts, empty, repeated_ids, missing_ids, largest_copies.
    """
    groups: list[Group] = []
    before = held = 0
    for item in items:
        count = sum(part["records"] for part in item)
        if not groups or held + count > NUMBERED_RECORDS:
            groups.append([])
            held = 0
        ends = np.cumsum([before, *(part["records"] for part in item)]).tolist()
        groups[-1].append([RecordPart(part["name"], end) for part, end in zip(item, ends, strict=False)])
        before, held = ends[-1], held + count
    records = before if limit is None else min(before, limit)
    if len(groups) > 1:
        found = _sum_up(*fetch(_number_groups(submit_pieces, run, groups, limit)))
    else:
        found = run_on_one_node(_number_alone, run, groups, limit)
    empty = records - found.pop("kept")
    return {"records": records, "texts": found.pop("texts"), "empty": empty, **found}


def _number_alone(run: RunDir, groups: list[Group], limit: int | None) -> Figures:
    return _sum_up(*_number_groups(make_pieces, run, groups, limit))


def _number_groups(start: Starter, run: RunDir, groups: list[Group], limit: int | None) -> list[Any]:
    """The figures of all groups and pieces, as tasks or in this process."""
    n = len(groups)
    cuts = [start(1 + 2 * n, _cut_group, run, group, limit, n) for group in groups]
    kept = [one[0] for one in cuts]
    places = [one[1 : 1 + n] for one in cuts]
    folds = [start(1 + n, _fold_piece, n, *(one[1 + n + piece] for one in cuts)) for piece in range(n)]
    del cuts  # the digests are freed when they are folded
    ranks = [start(1 + n, _rank_group, *places[at], *(one[1 + at] for one in folds)) for at in range(n)]
    counts = [one[0] for one in ranks]
    placed = [
        start(1 + n, _place_piece, folds[piece][0], *counts, *(one[1 + piece] for one in ranks)) for piece in range(n)
    ]
    written = [
        start(1, _write_group, run, groups[at], kept[at], *places[at], *(one[1 + at] for one in folds),
              *(one[1 + at] for one in placed))[0]
        for at in range(n)
    ]  # fmt: skip
    return [*written, *(one[0] for one in placed)]


def _cut_group(run: RunDir, group: Group, limit: int | None, n_pieces: int) -> list[Any]:
    """How many records of each part are kept; the places of the kept ones by piece; their digests, and those of ids."""
    kept, digests, ids = [], [np.empty((0, 2), np.uint64)], [np.empty((0, 2), np.uint64)]
    listed = [part for item in group for part in item]
    tables = walk_records(run, [part.name for part in listed], lambda name: name in schema.NUMBERING_COLUMNS)
    for part, table in zip(listed, tables, strict=True):
        keep = len(table)
        if limit is not None:
            keep = int(np.searchsorted(table[schema.POSITION].to_numpy(), limit - part.before))
        digests.append(_digests(table[schema.DIGEST].slice(0, keep)))
        kept.append(len(digests[-1]))
        if schema.ID_DIGEST in table.schema.names:
            ids.append(_digests(table[schema.ID_DIGEST].slice(0, keep)))
    with_ids = len(ids) > 1
    every, every_id = np.concatenate(digests), np.concatenate(ids)
    del digests, ids
    places, id_places = split_digests(every, n_pieces), split_digests(every_id, n_pieces)
    cut = [(every[at], every_id[of_ids]) for at, of_ids in zip(places, id_places, strict=True)]
    return [(np.array(kept, np.int64), len(every_id) if with_ids else None), *places, *cut]


def walk_records(run: RunDir, names: list[str], wanted: Callable[[str], bool]) -> Iterator[pa.Table]:
    """Some columns of some parts of records/, read ahead."""
    return read_ahead(lambda name: read_temporary(run / "records" / f"{name}.arrow", wanted), names)


def _digests(column: pa.ChunkedArray) -> Digests:
    joined = b"".join(
        chunk.buffers()[1].to_pybytes()[16 * chunk.offset : 16 * (chunk.offset + len(chunk))]
        for chunk in column.drop_null().chunks
    )
    return np.frombuffer(joined, np.uint64).reshape(-1, 2)


class _Folded(NamedTuple):
    """The texts of a piece, numbered by first appearance."""

    numbers: IntArray  # of each record
    copies: np.ndarray[Any, np.dtype[np.int32]]  # of each text
    ends: IntArray  # of each group, among the records
    first_ends: IntArray  # of each group, among the texts
    repeated_ids: int


def _fold_piece(n_groups: int, *cuts: Measured) -> list[Any]:
    """What ``_place_piece`` needs, and for each group which records of the piece are the first with their texts."""
    parts = [collect(cut) for cut in cuts]
    ids, _, _ = fold_copies(np.concatenate([of_ids for _, of_ids in parts]))
    repeated_ids = len(ids) - (int(ids.max()) + 1 if len(ids) else 0)
    del ids
    ends = np.cumsum([len(digests) for digests, _ in parts])
    numbers, first, copies = fold_copies(np.concatenate([digests for digests, _ in parts]))
    firsts = [np.flatnonzero(of_group).astype(np.int32) for of_group in np.split(first, ends[:-1])]
    first_ends = np.cumsum([len(one) for one in firsts])
    return [_Folded(numbers, copies, ends, first_ends, repeated_ids), *firsts]


def _rank_group(*given: Measured) -> list[Any]:
    """How many texts appear first in a group, and for each piece the ranks of its own among them.

    given : of each piece the places of its records, then of each piece which of them are first
    """
    values = [collect(one) for one in given]
    places, firsts = values[: len(values) // 2], values[len(values) // 2 :]
    found = [at[first] for at, first in zip(places, firsts, strict=True)]
    every = np.concatenate(found)
    rank = np.empty(len(every), np.int32)
    rank[np.argsort(every)] = np.arange(len(every), dtype=np.int32)
    return [len(every), *np.split(rank, np.cumsum([len(one) for one in found])[:-1])]


def _place_piece(folded: Measured, *given: Measured) -> list[Any]:
    """Figures of a piece, and for each group the rows of its records there and the copies of the first ones.

    given : of each group how many texts appear first there, then of each group the ranks of those of this piece
    """
    piece: _Folded = collect(folded)
    values = [collect(one) for one in given]
    counts, ranks = values[: len(values) // 2], values[len(values) // 2 :]
    bases = np.cumsum([0, *counts[:-1]])
    rows = np.concatenate([base + rank for base, rank in zip(bases, ranks, strict=True)])[piece.numbers]
    copies = np.split(piece.copies, piece.first_ends[:-1])
    figures = {
        "texts": len(piece.copies),
        "repeated_ids": piece.repeated_ids,
        "largest_copies": int(piece.copies.max(initial=0)),
    }
    return [figures, *zip(np.split(rows, piece.ends[:-1]), copies, strict=True)]


def _write_group(run: RunDir, group: Group, kept: Measured, *given: Measured) -> list[Any]:
    """Write the numbers of each item of a group; its figures.

    given : of each piece the places of its records, then which are first, then their rows with the copies of the first
    """
    counts, n_ids = collect(kept)
    values = [collect(one) for one in given]
    n = len(values) // 3
    total = int(counts.sum())
    row, first, copies = np.empty(total, np.int64), np.zeros(total, np.bool_), np.empty(total, np.int32)
    for places, own_first, (own_rows, own_copies) in zip(values[:n], values[n : 2 * n], values[2 * n :], strict=True):
        row[places] = own_rows
        first[places[own_first]] = True
        copies[places[own_first]] = own_copies
    start = 0
    item_ends = np.cumsum([len(item) for item in group])
    for item, of_parts in zip(group, np.split(counts, item_ends[:-1]), strict=True):
        end = start + int(of_parts.sum())
        mine = first[start:end]
        other, cut = np.zeros(end - start, np.bool_), np.full(int(mine.sum()), -1, np.int32)
        write_numbers(run, item[0].name, Numbers(of_parts, row[start:end], mine, copies[start:end][mine], other, cut))
        start = end
    return [{"kept": total, "missing_ids": 0 if n_ids is None else total - n_ids}]


def write_numbers(run: RunDir, first_part: str, numbers: Numbers, kind: str = "") -> None:
    """Leave the numbers of the item whose first part of records/ has that name. kind : a suffix of the file's name"""
    path = run / "records" / f"{first_part}{kind}.npz"
    with atomic_write(path, durable=False) as temporary, temporary.open("wb") as handle:
        np.savez(handle, **numbers._asdict())


def read_numbers(run: RunDir, first_part: str, kind: str = "") -> Numbers:
    """What ``write_numbers`` has written."""
    found = load_array(run / "records" / f"{first_part}{kind}.npz")
    return Numbers(*(found[name] for name in Numbers._fields))


def split_numbers(names: list[str], numbers: Numbers) -> Iterator[tuple[str, Numbers]]:
    """The numbers of an item, for each of its parts of records/."""
    ends = np.cumsum(numbers.kept)[:-1]
    row, first, other = (np.split(one, ends) for one in (numbers.row, numbers.first, numbers.other))
    first_ends = np.cumsum([int(of_part.sum()) for of_part in first])[:-1]
    copies, cut = np.split(numbers.copies, first_ends), np.split(numbers.cut, first_ends)
    for name, *of_part in zip(names, row, first, copies, other, cut, strict=True):
        yield name, Numbers(numbers.kept, *of_part)


def _sum_up(*found: Measured) -> Figures:
    """The figures of all groups and pieces together."""
    each = [collect(one) for one in found]
    figures = {name: sum(one.get(name, 0) for one in each) for name in ("kept", "texts", "repeated_ids", "missing_ids")}
    return {**figures, "largest_copies": max((one.get("largest_copies", 0) for one in each), default=0)}
