"""kernels/copies.py: equal texts share a row, numbered by first appearance."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from clustering.kernels.copies import fold_copies
from tests import oracles

HALVES = [0, 1, 2**63, 2**64 - 1]
keys = st.lists(st.tuples(st.sampled_from(HALVES), st.sampled_from(HALVES)), max_size=30)


def digests(pairs: list[tuple[int, int]]) -> NDArray[np.uint64]:
    return np.array(pairs, np.uint64).reshape(-1, 2)


@given(keys)
def test_folding_matches_a_dict(pairs: list[tuple[int, int]]) -> None:
    row, first, copies = fold_copies(digests(pairs))
    assert (row.tolist(), first.tolist(), copies.tolist()) == oracles.fold_copies(pairs)
    assert (row.dtype, first.dtype, copies.dtype) == (np.int64, np.bool_, np.int32)


@given(keys, st.data())
def test_later_records_do_not_change_earlier_rows(pairs: list[tuple[int, int]], data: st.DataObject) -> None:
    end = data.draw(st.integers(0, len(pairs)))
    whole, head = fold_copies(digests(pairs)), fold_copies(digests(pairs[:end]))
    assert whole[0][:end].tolist() == head[0].tolist()
    assert whole[1][:end].tolist() == head[1].tolist()


def test_digests_that_share_a_half_are_different_texts() -> None:
    row, _, copies = fold_copies(digests([(1, 2), (1, 3), (2, 2), (1, 2)]))
    assert row.tolist() == [0, 1, 2, 0]
    assert copies.tolist() == [2, 1, 1]
