"""What hypothesis draws: edge lists, graphs, forests, vectors whose inner products are exact, odd texts."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import csr_array

from clustering.kernels.graph.csr import MIN_DISTANCE
from tests.planted import undirected_graph

# Few values, so that ties are common; zero and lengths around the floor among them.
_COMMON = [0.0, 1e-7, MIN_DISTANCE / 2, MIN_DISTANCE, 0.25, 0.5, 0.75, 1.0, 2.0]
distances = st.sampled_from(_COMMON) | st.floats(0, 2, width=32)


class Edges(NamedTuple):
    """Directed neighbor edges as the search leaves them."""

    rows: NDArray[np.int64]
    cols: NDArray[np.int64]
    distances: NDArray[np.float32]
    n_texts: int


@st.composite
def edge_lists(draw: st.DrawFn, fewest_texts: int = 1, most_texts: int = 9, most_edges: int = 40) -> Edges:
    """Edges with twins, self loops and zero distances."""
    n_texts = draw(st.integers(fewest_texts, most_texts))
    end = st.integers(0, n_texts - 1)
    edges = draw(st.lists(st.tuples(end, end, distances), max_size=most_edges))
    rows, cols, lengths = zip(*edges, strict=True) if edges else ((), (), ())
    return Edges(np.array(rows, np.int64), np.array(cols, np.int64), np.array(lengths, np.float32), n_texts)


def graphs(**sizes: int) -> st.SearchStrategy[csr_array]:
    """Distance graphs, often in several pieces."""
    return edge_lists(**sizes).map(lambda edges: undirected_graph(*edges))


@st.composite
def full_graphs(draw: st.DrawFn) -> csr_array:
    """Graphs with an edge between any two texts."""
    n_texts = draw(st.integers(2, 9))
    low, high = np.triu_indices(n_texts, 1)
    lengths = draw(st.lists(distances, min_size=low.size, max_size=low.size))
    return undirected_graph(low, high, np.array(lengths, np.float32), n_texts)


@st.composite
def exact_vectors(draw: st.DrawFn, most: int = 20) -> NDArray[np.float32]:
    """Rows of small whole numbers: inner products are exact in any order of summation, and ties are common."""
    n_rows = draw(st.integers(2, most))
    row = st.lists(st.integers(-2, 2), min_size=3, max_size=3)
    return np.array(draw(st.lists(row, min_size=n_rows, max_size=n_rows)), np.float32)


@st.composite
def exact_units(draw: st.DrawFn, most: int = 14) -> NDArray[np.float32]:
    """Rows of four halves with signs: of unit length, and every inner product is a multiple of a half."""
    n_rows = draw(st.integers(2, most))
    row = st.lists(st.sampled_from([-0.5, 0.5]), min_size=4, max_size=4)
    return np.array(draw(st.lists(row, min_size=n_rows, max_size=n_rows)), np.float32)


def cuts(n_rows: int) -> st.SearchStrategy[list[slice]]:
    """Ways to cut 0..n_rows - 1 into blocks."""

    def blocks(inner: set[int]) -> list[slice]:
        ends = [0, *sorted(inner), n_rows]
        return [slice(start, end) for start, end in pairwise(ends)]

    return st.sets(st.integers(1, n_rows - 1), max_size=4).map(blocks) if n_rows > 1 else st.just([slice(0, n_rows)])


_ODD = "ae\u0301\u0308 \t\n\u2028\xa0\ud83d😀ש中"  # combining marks, white space, a lone surrogate
odd_texts = st.text(st.characters(exclude_categories=())) | st.text(st.sampled_from(_ODD))
