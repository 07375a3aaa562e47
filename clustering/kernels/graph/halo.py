"""Rows that are split into shards in; local numbers, and the rows that shards need of each other, out.

A shard's own rows have the local numbers 0 to n_own - 1. Its halo, the other rows that its edges name, has the numbers
from n_own on. Both ascend by row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clustering.kernels.graph.forest import IntArray, row_dtype
from clustering.kernels.threads import run_in_ranges

CHUNK = 1 << 20  # entries that a thread numbers at a time


def number_locally(rows: IntArray, indices: NDArray[Any]) -> tuple[NDArray[Any], IntArray]:
    """Number the ends of a shard's edges locally.

    rows : int64, shape (n_own,), ascending; indices : int32 or int64, shape (n_entries,), rows of the whole graph
    Returns: int32, shape (n_entries,), local numbers; int64, shape (n_halo,), the rows of the halo, ascending.
    """
    n_own = rows.size
    if n_own and rows[-1] == n_own - 1 and indices.max(initial=0) < n_own:  # the only shard
        return indices.astype(row_dtype(n_own), copy=False), np.empty(0, np.int64)
    local = np.empty(indices.size, np.int32)
    foreign: dict[int, NDArray[Any]] = {}

    def look_up(start: int, stop: int) -> None:
        some = indices[start:stop]
        place = np.searchsorted(rows, some)
        own = rows[np.minimum(place, n_own - 1)] == some if n_own else np.zeros(some.size, np.bool_)
        local[start:stop] = np.where(own, place, -1)
        foreign[start] = np.unique(some[~own])

    def number_halo(start: int, stop: int) -> None:
        some = local[start:stop]
        outside = some < 0
        some[outside] = n_own + np.searchsorted(halo, indices[start:stop][outside])

    run_in_ranges(indices.size, look_up, CHUNK)
    halo = np.unique(np.concatenate([np.empty(0, np.int64), *foreign.values()])).astype(np.int64, copy=False)
    run_in_ranges(indices.size, number_halo, CHUNK)
    return local, halo


def count_halo(rows: IntArray, indices: NDArray[Any], n_texts: int) -> int:
    """How many other rows the ends of a shard's edges name.

    rows : int64, shape (n_own,); indices : int32 or int64, shape (n_entries,), rows of the whole graph
    Memory: a byte for each of the n_texts rows of the whole graph.
    """
    named = np.zeros(n_texts, np.bool_)
    for start in range(0, indices.size, CHUNK):  # numpy makes indices wide
        named[indices[start : start + CHUNK]] = True
    named[rows] = False
    return int(np.count_nonzero(named))


def sorted_positions(rows: IntArray, halo: IntArray) -> tuple[NDArray[np.int32], IntArray]:
    """The positions of local rows in the sorted union of own rows and halo, where numbers ascend like global rows.

    rows, halo : int64, shapes (n_own,) and (n_halo,), ascending, without a common row
    Returns: int32, shape (n_own + n_halo,); the union, int64, same shape.
    """
    position = np.empty(rows.size + halo.size, np.int32)
    position[: rows.size] = np.arange(rows.size) + np.searchsorted(halo, rows)
    position[rows.size :] = np.arange(halo.size) + np.searchsorted(rows, halo)
    union = np.empty(position.size, np.int64)
    union[position[: rows.size]], union[position[rows.size :]] = rows, halo
    return position, union


def split_rows(rows: IntArray, n_texts: int, n_ranges: int) -> list[IntArray]:
    """Split ascending rows by equal ranges of all rows. rows : int64, shape (n_rows,)"""
    bounds = np.linspace(0, n_texts, n_ranges + 1).astype(np.int64)
    return np.split(rows, np.searchsorted(rows, bounds[1:-1]))


@dataclass(frozen=True)
class Requests:
    """What one range of rows tells a shard.

    owners : int32, shape (n_halo_rows,), the shard that owns each row of its halo in the range
    rows : by shard, the rows of the range that this shard needs of the addressed one, int64, ascending
    """

    owners: NDArray[np.int32]
    rows: dict[int, IntArray]


def match_rows(owned: list[IntArray], wanted: list[IntArray]) -> list[Requests]:
    """Find the owners of the rows that shards want, within one range of rows.

    owned, wanted : for each shard the rows of the range that it owns, and those of its halo; int64, ascending
    Returns: for each shard what it needs to know.
    Raises: ValueError for a row that no shard owns.
    """
    rows = np.concatenate(owned)
    owner = np.repeat(np.arange(len(owned), dtype=np.int32), [one.size for one in owned])
    order = np.argsort(rows, kind="stable")
    rows, owner = rows[order], owner[order]
    owners, requests = [], [dict[int, IntArray]() for _ in owned]
    for shard, some in enumerate(wanted):
        place = np.minimum(np.searchsorted(rows, some), max(rows.size - 1, 0))
        missing = rows[place] != some if rows.size else np.ones(some.size, np.bool_)
        if missing.any():
            raise ValueError(f"row {some[missing.argmax()]} is in the halo of shard {shard}, and no shard owns it")
        owners.append(owner[place])
        for other in np.unique(owners[-1]):
            requests[other][shard] = some[owners[-1] == other]
    return [Requests(*both) for both in zip(owners, requests, strict=True)]


@dataclass(frozen=True)
class Routes:
    """Which rows a shard exchanges with each other one.

    sends : by shard, the own rows that it needs, as local numbers, int32, ascending
    receives : by shard, the places in the halo of the rows that it owns, int32, ascending
    """

    sends: dict[int, NDArray[np.int32]]
    receives: dict[int, NDArray[np.int32]]

    @classmethod
    def of(cls, rows: IntArray, requests: list[Requests]) -> Routes:
        """Join what all ranges of rows tell a shard, in their order. rows : int64, shape (n_own,), its own"""
        owners = np.concatenate([one.owners for one in requests])
        shards = sorted(set().union(*(one.rows for one in requests)))
        none = np.empty(0, np.int64)
        wanted = {shard: np.concatenate([one.rows.get(shard, none) for one in requests]) for shard in shards}
        return cls(
            {shard: np.searchsorted(rows, some).astype(np.int32) for shard, some in wanted.items()},
            {int(shard): np.flatnonzero(owners == shard).astype(np.int32) for shard in np.unique(owners)},
        )

    def slices(self, values: NDArray[Any]) -> list[NDArray[Any]]:
        """The values to send, in the order of ``sends``. values : shape (n_own, ...), of the own rows"""
        return [values[rows] for rows in self.sends.values()]

    def table(self, values: NDArray[Any], received: list[NDArray[Any]]) -> NDArray[Any]:
        """The values of own rows and halo, by local number.

        values : shape (n_own, ...), of the own rows; received : what other shards have sent, in the order of
            ``receives``
        Returns: shape (n_own + n_halo, ...); ``values`` itself where there is no halo.
        """
        if not self.receives:
            return values
        n_own, n_halo = len(values), sum(map(len, self.receives.values()))
        table = np.empty((n_own + n_halo, *values.shape[1:]), values.dtype)
        table[:n_own] = values
        for places, some in zip(self.receives.values(), received, strict=True):
            table[n_own + places] = some
        return table
