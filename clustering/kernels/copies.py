"""Values in reading order in, numbers by first appearance out: equal texts, vectors or groups share a number."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def number_by_first(values: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number distinct values by their first appearance.

    values : any dtype that sorts, shape (n_rows,)
    Returns: int64, shape (n_rows,), the number of each row's value; int64, shape (n_distinct,), the first row of each.
    """
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    rank = np.empty(first.size, np.int64)
    rank[np.argsort(first)] = np.arange(first.size)
    return rank[inverse.reshape(-1)], np.sort(first)


def fold_copies(
    digests: NDArray[np.uint64],
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int32]]:
    """Number distinct texts by their first appearance.

    digests : uint64, shape (n_records, 2), the two halves of a 128-bit digest, in reading order
    Returns: row int64, shape (n_records,), the number of each record's text; first bool, shape (n_records,), whether
        the record is the first with its text; copies int32, shape (n_texts,), records of each text.
    """
    n_records = len(digests)
    if n_records == 0:
        return np.empty(0, np.int64), np.empty(0, np.bool_), np.empty(0, np.int32)
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable: within equal digests the reading order stays
    ordered = digests[order]
    starts = np.ones(n_records, np.bool_)
    starts[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    leader = np.empty(n_records, np.int64)  # the first record with the same text
    leader[order] = order[np.flatnonzero(starts)][np.cumsum(starts) - 1]
    first = leader == np.arange(n_records)
    row = (np.cumsum(first) - 1)[leader]
    return row, first, np.bincount(row).astype(np.int32)


def split_digests(digests: NDArray[np.uint64], n_pieces: int) -> list[NDArray[np.int32]]:
    """Places of digests by their first bits: equal digests are in the same piece, in reading order.

    digests : uint64, shape (n_records, 2), n_records < 2^31
    Returns: int32, ascending, for each of ``n_pieces`` ranges of about equal numbers of different digests.
    """
    piece = (digests[:, 0] >> np.uint64(32)) * np.uint64(n_pieces) >> np.uint64(32)
    order = np.argsort(piece, kind="stable").astype(np.int32)
    ends = np.cumsum(np.bincount(piece.astype(np.int64), minlength=n_pieces))
    return np.split(order, ends[:-1])
