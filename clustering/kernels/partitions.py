"""Coarse partitions of the vectors, numbered so that near texts can be worked on together."""

from __future__ import annotations

import numpy as np

from clustering.kernels.topk import FloatArray, IntArray

PARTITION_TEXTS = 4096  # texts of a partition, on average
MAX_PARTITIONS = 256
SAMPLE_TEXTS = 40  # texts a partition, by which the centers are found


def count_partitions(n_texts: int, partition_texts: int = PARTITION_TEXTS) -> int:
    """How many partitions so many texts are cut into; below 2 they stay together."""
    return min(MAX_PARTITIONS, n_texts // partition_texts)


def order_centers(centers: FloatArray) -> FloatArray:
    """Centers in such an order that near ones follow each other.

    centers : float32, shape (n_partitions, dim)
    Source: Bar-Joseph, Gifford and Jaakkola (2001): the leaves of an average-linkage tree, in their optimal order.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage

    order = leaves_list(linkage(centers, "average", optimal_ordering=True))
    return np.ascontiguousarray(centers[order], np.float32)


def assign_partitions(vectors: FloatArray, centers: FloatArray) -> IntArray:
    """The partition with the nearest center.

    vectors : float32, shape (n_texts, dim); centers : float32, shape (n_partitions, dim), or (1, 0) of a single one
    Returns: int64, shape (n_texts,).
    """
    if not centers.shape[1]:
        return np.zeros(len(vectors), np.int64)
    squares = np.einsum("ij,ij->i", centers, centers)
    found: IntArray = (vectors @ centers.T - squares / 2).argmax(axis=1)
    return found
