"""The graph and the neighbor lists of a block of near rows, as arrays: what a stage that works on blocks takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from clustering.kernels.graph.diffusion import Keys
from clustering.kernels.topk import FloatArray, IntArray


@dataclass(frozen=True)
class Block:
    """Some rows of the run with all that lies at them; entries name rows of the whole run.

    rows : int64, shape (n_rows,), ascending
    indptr, indices, data : the rows of the symmetric distance graph, in the metric's unit: int64, shape (n_rows + 1,);
        int32 or int64, and float32, shape (n_edges,); columns ascend within a row
    radius : float32, shape (n_rows,): no edge that a row's list lacks is shorter
    list_indptr, list_indices, list_distances : the rows' own neighbor lists, the nearest first, of the same dtypes and
        unit; distances as the search found them, without entries beyond the longest edge of the graph
    keys : uint64, shape (n_rows,), digests of the texts
    copies : int32, shape (n_rows,), records of each text
    """

    rows: IntArray
    indptr: IntArray
    indices: NDArray[Any]
    data: FloatArray
    radius: FloatArray
    list_indptr: IntArray
    list_indices: NDArray[Any]
    list_distances: FloatArray
    keys: Keys
    copies: NDArray[Any]

    def __len__(self) -> int:
        return int(self.rows.size)
