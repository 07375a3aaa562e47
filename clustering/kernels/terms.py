"""Counts of terms in clusters in, the terms that distinguish each cluster out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# A term is common if more than these shares of clusters and texts have it,
COMMON_CLUSTERS, COMMON_TEXTS = 0.18, 0.006
# unless some cluster of at least OUT_TEXTS texts has it in this share of them. Fewer clusters are too few to judge.
STANDS_OUT, OUT_TEXTS, MANY_CLUSTERS = 0.25, 20, 20


def class_tf_idf(
    term: NDArray[Any], share: NDArray[np.float64], beside: NDArray[np.float64], average: float, uses: NDArray[np.int64]
) -> NDArray[np.float64]:
    """c-TF-IDF by texts: how much a term distinguishes its cluster from all clusters, and from those beside it.

    term : integers, shape (n_pairs,), a term of some cluster, each pair once
    share : float64, shape (n_pairs,), of the cluster's texts, that have the term; over 0, at most 1
    beside : float64, shape (n_pairs,), of the other texts of the cluster's parent, likewise; 0 without a parent
    average : terms of a cluster, on average
    uses : int64, shape (n_terms,), texts with each term in all clusters
    Returns: float64, shape (n_pairs,), share x log(1 + average / uses) x share / (share + beside).
    Source: Grootendorst (2022), BERTopic, arXiv:2203.05794, without the last factor.
    """
    return share * np.log1p(average / uses[term]) * share / (share + beside)  # type: ignore[no-any-return]


def common_terms(
    label: NDArray[Any], term: NDArray[Any], count: NDArray[Any], texts: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Find terms that are spread so evenly that they describe no cluster, such as stop words of a language or a field.

    label, term, count : integers, shape (n_pairs,), how often a term occurs in a cluster, each pair once; all pairs of
        these terms
    texts : int64, shape (n_clusters,), texts of each cluster
    Returns: bool, shape (n_terms,), True for a common term; all False with fewer than MANY_CLUSTERS clusters.
    """
    clusters, uses = np.bincount(term), np.bincount(term, weights=count)
    if texts.size < MANY_CLUSTERS:
        return np.zeros(clusters.size, bool)
    share = np.zeros(clusters.size)
    large = texts[label] >= OUT_TEXTS
    np.maximum.at(share, term[large], count[large] / texts[label[large]])
    common: NDArray[np.bool_] = (clusters > COMMON_CLUSTERS * texts.size) & (uses > COMMON_TEXTS * texts.sum())
    return common & (share < STANDS_OUT)
