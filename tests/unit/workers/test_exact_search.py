"""exact_search.py: the nearest text of another piece."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from clustering.kernels.graph.csr import MIN_DISTANCE
from clustering.runs.parts import parts
from clustering.workers import exact_search
from clustering.workers.exact_search import _block_outside
from tests.planted import write_vectors
from tests.strategies import exact_units


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
