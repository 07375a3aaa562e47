"""kernels/sort.py: pairs in order, whatever their number and ties."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from clustering.kernels.sort import sort_pairs


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(-5, 5)), max_size=300))
def test_pairs_come_in_order(pairs: list[tuple[int, int]]) -> None:
    first = np.array([one for one, _ in pairs], np.float32)
    second = np.array([two for _, two in pairs], np.int64)
    order = np.lexsort((second, first))
    expected = first[order], second[order]
    sort_pairs(first, second)
    assert_array_equal(first, expected[0])
    assert_array_equal(second, expected[1])


def test_one_array_may_stand_for_both() -> None:
    keys = np.random.default_rng(0).integers(0, 500, 4000).astype(np.uint64)
    expected = np.sort(keys)
    sort_pairs(keys, keys)
    assert_array_equal(keys, expected)
