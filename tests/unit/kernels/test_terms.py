"""kernels/terms.py: what sets a cluster's words apart."""

from __future__ import annotations

import numpy as np
from numpy.testing import assert_allclose

from clustering.kernels.terms import class_tf_idf, common_terms


def test_a_word_of_one_cluster_stands_out_against_a_word_of_all() -> None:
    # both words are in half of the texts of a cluster of four terms; one of them in another cluster, too
    weight = class_tf_idf(np.array([0, 1]), np.array([0.5, 0.5]), np.zeros(2), 4.0, np.array([4, 2]))
    assert_allclose(weight, [0.5 * np.log(2), 0.5 * np.log(3)])


def test_a_word_that_the_clusters_beside_have_as_often_counts_half() -> None:
    weight = class_tf_idf(np.array([0, 0, 0]), np.full(3, 0.4), np.array([0, 0.4, 1.2]), 4.0, np.array([4]))
    assert_allclose(weight / weight[0], [1, 0.5, 0.25])


def counts_of(texts: list[list[str]]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """The arguments of common_terms for clusters of texts, and the terms."""
    terms = sorted({word for cluster in texts for text in cluster for word in text.split()})
    pairs = {}
    for label, cluster in enumerate(texts):
        for word in " ".join(cluster).split():
            pairs[label, terms.index(word)] = pairs.get((label, terms.index(word)), 0) + 1
    label, term = np.array(list(pairs)).T
    return label, term, np.array(list(pairs.values())), np.array([len(cluster) for cluster in texts]), terms


def test_words_spread_over_the_clusters_are_common_unless_they_stand_out_in_one() -> None:
    # "we" in two of 21 texts of each cluster; "apple" there, too, and in all of cluster 3; "flood" in cluster 4 alone
    texts = [[f"subject{n}"] * 18 + [f"subject{n} we", f"subject{n} apple", f"subject{n} apple we"] for n in range(30)]
    texts[3] = ["apple we"] + ["apple"] * 20
    texts[4] = ["flood"] * 20
    *counts, terms = counts_of(texts)
    assert [terms[place] for place in np.flatnonzero(common_terms(*counts))] == ["we"]


def test_few_clusters_do_not_tell_what_is_common() -> None:
    *counts, _ = counts_of([[f"subject{n} we"] * 20 + ["we"] * 20 for n in range(19)])
    assert not common_terms(*counts).any()
