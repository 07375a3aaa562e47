"""graph/halo.py: local numbers, and the rows that shards need of each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from clustering.kernels.graph import halo
from clustering.kernels.graph.halo import (
    Routes,
    count_halo,
    match_rows,
    number_locally,
    sorted_positions,
    split_rows,
)


@st.composite
def shards(draw: st.DrawFn) -> tuple[list[NDArray[np.int64]], list[NDArray[Any]]]:
    """Rows of up to 6 shards, some of them empty, and the ends that the edges of each name."""
    n_texts = draw(st.integers(1, 60))
    owner = np.array(draw(st.lists(st.integers(0, 5), min_size=n_texts, max_size=n_texts)))
    rows = [np.flatnonzero(owner == shard) for shard in range(6)]
    ends = st.lists(st.integers(0, n_texts - 1), max_size=80)
    return rows, [np.array(draw(ends) if one.size else [], draw(st.sampled_from(["i4", "i8"]))) for one in rows]


@given(shards())
def test_local_numbers_name_own_rows_first_and_exactly_the_named_others(drawn: Any) -> None:
    for rows, indices in zip(*drawn, strict=True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(halo, "CHUNK", 7)
            local, others = number_locally(rows, indices)
        assert others.tolist() == sorted(set(indices.tolist()) - set(rows.tolist()))
        assert_array_equal(np.concatenate([rows, others])[local], indices)
        assert local.dtype == np.int32
        assert count_halo(rows, indices, 60) == others.size
        position, union = sorted_positions(rows, others)
        assert_array_equal(union, np.sort(np.concatenate([rows, others])))
        assert_array_equal(union[position], np.concatenate([rows, others]))


def test_a_single_shard_keeps_its_indices() -> None:
    indices = np.array([1, 2, 0, 2], np.int32)
    local, others = number_locally(np.arange(3), indices)
    assert local is indices
    assert others.size == 0


@given(shards(), st.integers(1, 9))
def test_routes_bring_each_shard_the_values_of_its_halo(drawn: Any, n_ranges: int) -> None:
    rows, indices = drawn
    n_texts, n_shards = sum(one.size for one in rows), len(rows)
    halos = [number_locally(*one)[1] for one in zip(rows, indices, strict=True)]
    own, wanted = ([split_rows(one, n_texts, n_ranges) for one in of_all] for of_all in (rows, halos))
    matched = [match_rows([one[at] for one in own], [one[at] for one in wanted]) for at in range(n_ranges)]
    routes = [Routes.of(rows[at], [one[at] for one in matched]) for at in range(n_shards)]
    values = np.random.default_rng(0).random((n_texts, 2))
    sent = [dict(zip(one.sends, one.slices(values[own]), strict=True)) for one, own in zip(routes, rows, strict=True)]
    for shard in range(n_shards):
        table = routes[shard].table(values[rows[shard]], [sent[other][shard] for other in routes[shard].receives])
        assert_array_equal(table, values[np.concatenate([rows[shard], halos[shard]])])
        assert {other for other in range(n_shards) if shard in sent[other]} == set(routes[shard].receives)
        assert all(one.size for one in routes[shard].sends.values())


def test_a_row_without_an_owner_is_named() -> None:
    with pytest.raises(ValueError, match="row 7 is in the halo of shard 1, and no shard owns it"):
        match_rows([np.array([1, 2]), np.array([5])], [np.array([5]), np.array([2, 7])])
