"""graph.py and exact_search.py: what lists leave unknown, and the nearest text of another piece."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from clustering.kernels.graph.csr import MIN_DISTANCE
from clustering.runs.parts import parts
from clustering.stages.graph import list_radius
from clustering.workers import exact_search
from clustering.workers.exact_search import _block_outside
from tests.planted import blobs, pair_distances, write_vectors
from tests.strategies import exact_units


@pytest.mark.parametrize("longest", [None, 0.4])
@pytest.mark.parametrize("k", [1, 3, 11])
def test_what_a_list_lacks_is_no_shorter_than_its_radius(k: int, longest: float | None) -> None:
    distances = pair_distances(blobs(0, n_blobs=2, each=6).vectors).astype(np.float32)
    nearest = np.argsort(distances, axis=1)[:, :k]
    listed = np.take_along_axis(distances, nearest, axis=1)
    radius = list_radius(np.repeat(np.arange(12), k), listed.ravel(), 12, MIN_DISTANCE, longest)
    missing = distances.copy()
    np.put_along_axis(missing, nearest, np.float32(np.inf), axis=1)
    if longest is not None:
        missing[missing > longest] = np.inf
    assert (missing.min(axis=1) >= radius).all()
    if k < 11:
        within = np.isfinite(radius)
        assert within.any()
        assert_array_equal(radius[within], listed.max(axis=1)[within])
    else:
        assert np.isinf(radius).all()


def test_an_empty_list_proves_nothing() -> None:
    radius = list_radius(np.array([0, 0]), np.array([0.2, 0.0003], np.float32), 4, MIN_DISTANCE)
    assert_allclose(radius, [0.2, 0.001, 0.001, 0.001])


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
