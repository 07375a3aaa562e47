"""Digests of texts in reading order in, row numbers out: equal texts share a row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def fold_copies(
    digests: NDArray[np.uint64],
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int32]]:
    """Number distinct digests by their first appearance.

    digests : uint64, shape (n_records, 2), the two halves of a 128-bit digest, in reading order
    Returns: row int64 (n_records,), the number of each record's text; first bool (n_records,), whether the record
        is the first with its text; copies int32 (n_texts,), how many records carry each text.
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
