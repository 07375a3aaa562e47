"""exact_search.py: the nearest texts of queries, and the nearest text of another piece."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from clustering.kernels.graph.csr import MIN_DISTANCE
from clustering.runs.parts import parts
from clustering.workers import exact_search
from clustering.workers.exact_search import ExactQuery, _block_outside
from tests.planted import write_vectors
from tests.strategies import exact_units


@pytest.mark.parametrize("metric", ["L2", "COSINE", "IP"])
@given(vectors=exact_units(), data=st.data())
def test_queries_get_their_nearest_texts_and_equal_vectors_have_no_distance(
    tmp_path_factory: pytest.TempPathFactory, vectors: NDArray[np.float32], data: st.DataObject, metric: str
) -> None:
    vectors = np.concatenate([vectors, vectors[::3]])
    vectors[data.draw(st.lists(st.integers(0, len(vectors) - 1), max_size=1))] = 0  # a text without a vector
    rows = np.flatnonzero(vectors.any(axis=1))[:: data.draw(st.integers(1, 3))]
    k = data.draw(st.integers(1, len(vectors) + 1))
    folder = write_vectors(tmp_path_factory.mktemp("vectors"), vectors, part_rows=data.draw(st.integers(1, 9)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact_search, "QUERY_ROWS", data.draw(st.integers(1, 5)))
        patch.setattr(exact_search, "BLOCK_BYTES", 4 * vectors.shape[1] * data.draw(st.integers(1, 4)))
        ids, distances, counts = ExactQuery(folder, metric, k).neighbors(rows, vectors[rows])
    known = np.flatnonzero(vectors.any(axis=1))
    assert counts.tolist() == [min(k, len(known) - 1)] * len(rows)
    apart = np.linalg.norm(vectors[rows, None].astype(np.float64) - vectors[None], axis=2)
    apart = apart if metric == "L2" else apart**2 / 2
    for row, own, found, away in zip(rows, apart, np.split(ids, np.cumsum(counts)[:-1]),
                                     np.split(distances, np.cumsum(counts)[:-1]), strict=True):  # fmt: skip
        others = known[known != row]
        assert_allclose(away, np.sort(own[others])[: len(found)], rtol=1e-4, atol=1e-6)
        assert_allclose(own[found], away, rtol=1e-4, atol=1e-6)
        assert len({*found.tolist()} - {row}) == len(found)
        assert (np.diff(away) >= 0).all()
        assert (away[(vectors[found] == vectors[row]).all(axis=1)] == 0).all()


def test_near_vectors_are_told_apart_by_more_digits_than_an_inner_product_has(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(1, 64)) + np.linspace(0, 1e-3, 40)[:, None] * rng.normal(size=(1, 64))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    folder = write_vectors(tmp_path, vectors, part_rows=7)
    _, distances, _ = ExactQuery(folder, "L2", 39).neighbors(np.arange(40), vectors)
    exact = np.linalg.norm(vectors[:, None].astype(np.float64) - vectors[None], axis=2)
    exact = np.sort(exact, axis=1)[:, 1:]
    assert_allclose(distances.reshape(40, 39), exact, rtol=1e-3)


@pytest.mark.parametrize("spread", [1e-5, 1e-4, 1e-3])
def test_the_nearest_of_a_crowd_are_its_nearest_and_copies_stay_with_each_other(spread: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(1, 64)) + spread * rng.normal(size=(60, 64))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    vectors = np.concatenate([vectors, exact_apart(rng, 30), vectors])
    folder = write_vectors(tmp_path, vectors, part_rows=32)
    ids, distances, _ = ExactQuery(folder, "L2", 50).neighbors(np.arange(150), vectors)
    apart = np.linalg.norm(vectors[:, None].astype(np.float64) - vectors[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    for row, found in enumerate(ids.reshape(150, 50)):
        assert_allclose(apart[row, found], np.sort(apart[row])[:50], rtol=1e-3)
    in_crowd = np.r_[:60, 90:150]
    assert ids.reshape(150, 50)[in_crowd, 0].tolist() == [*range(90, 150), *range(60)]
    assert (distances.reshape(150, 50)[in_crowd, 0] == 0).all()


def test_lists_are_equal_to_the_bit_whatever_parts_and_queries_are_compared_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(2)
    vectors = np.repeat(rng.normal(size=(20, 256)), 25, axis=0) + 0.5 * rng.normal(size=(500, 256))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    rows, found = np.arange(500), []
    for part_rows, query_rows in ((500, 500), (37, 500), (250, 7), (500, 1)):
        folder = write_vectors(tmp_path / f"{part_rows}-{query_rows}", vectors, part_rows=part_rows)
        monkeypatch.setattr(exact_search, "QUERY_ROWS", query_rows)
        found.append(ExactQuery(folder, "L2", 50).neighbors(rows, vectors))
    for ids, distances, _ in found[1:]:
        assert_array_equal(ids, found[0][0])
        assert_array_equal(distances, found[0][1])


@pytest.mark.parametrize("copies", [1, 3])
def test_lists_of_a_large_crowd_are_its_nearest_whatever_is_compared_together(
    copies: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of its vectors are as near as the k-th, but for how a product rounds, than are compared."""
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(1, 256)) + 0.004 * rng.normal(size=(6000 // copies, 256))
    vectors = np.repeat((vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), copies, axis=0)
    rows, found = np.arange(0, 6000, 150), []
    for part_rows, query_rows in ((6000, 1024), (333, 1024), (6000, 7)):
        folder = write_vectors(tmp_path / f"{part_rows}-{query_rows}", vectors, part_rows=part_rows)
        monkeypatch.setattr(exact_search, "QUERY_ROWS", query_rows)
        found.append(ExactQuery(folder, "L2", 50).neighbors(rows, vectors[rows]))
    for ids, distances, _ in found[1:]:
        assert_array_equal(ids, found[0][0])
        assert_array_equal(distances, found[0][1])
    apart = np.linalg.norm(vectors[rows, None].astype(np.float64) - vectors[None], axis=2)
    apart[np.arange(len(rows)), rows] = np.inf
    assert_allclose(found[0][1].reshape(-1, 50), np.sort(apart, axis=1)[:, :50], rtol=1e-4, atol=1e-7)


def exact_apart(rng: np.random.Generator, n_rows: int) -> NDArray[np.float32]:
    """Unit vectors far from each other."""
    vectors = rng.normal(size=(n_rows, 64))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("longest", [None, 0.7])
@pytest.mark.parametrize("metric", ["L2", "COSINE"])
@given(vectors=exact_units(), data=st.data())
def test_a_block_gives_the_nearest_of_another_piece(
    tmp_path_factory: pytest.TempPathFactory,
    vectors: NDArray[np.float32],
    data: st.DataObject,
    metric: str,
    longest: float | None,
) -> None:
    n_texts = len(vectors)
    piece = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n_texts, max_size=n_texts)))
    core = np.array(
        data.draw(st.lists(st.sampled_from([0.1, 0.5, 1.2]), min_size=n_texts, max_size=n_texts)), np.float32
    )
    folder = write_vectors(tmp_path_factory.mktemp("vectors"), vectors, part_rows=n_texts)
    rows = np.arange(n_texts)[:: data.draw(st.integers(1, 3))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact_search, "BLOCK_BYTES", 4 * n_texts * data.draw(st.integers(1, 4)))
        other, reach = _block_outside(
            parts(folder)[0], (vectors[rows], rows), core, piece, metric, MIN_DISTANCE, longest
        )
    lengths = np.linalg.norm(vectors[:, None].astype(np.float64) - vectors[None], axis=2)
    lengths = np.maximum(lengths if metric == "L2" else lengths**2 / 2, MIN_DISTANCE)
    for row, found, away in zip(rows, other, reach, strict=True):
        ways = [
            (max(lengths[row, to], core[row], core[to]), to)
            for to in range(n_texts)
            if piece[to] != piece[row] and (longest is None or lengths[row, to] <= longest)
        ]
        if ways:
            assert_allclose(away, min(ways)[0], rtol=1e-6)
            assert found in [to for way, to in ways if way <= min(ways)[0] * (1 + 1e-6)]
        else:
            assert np.isinf(away)
