"""Texts and their strength in clusters in; the strongest of each, and a few that say different things, out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clustering.kernels.topk import IntArray
from clustering.text.words import has_letters, normalized, word_keys

# A candidate for a cluster's exemplars.
MEMBER = np.dtype([("label", np.int32), ("strength", np.float32), ("copies", np.int32), ("row", np.int64)])
SAME_WORDS = 0.6  # share of the shorter text's words that the other one has, from which they say the same


def spread_texts(texts: list[str], count: int) -> list[str]:
    """The first texts that say different things, at most ``count``: each differs from the ones before by its words.

    Headlines that differ in the name of an outlet or in their last words say the same. A cluster of nothing else has
    one exemplar.
    """
    chosen: list[str] = []
    known: list[set[str]] = []
    for text in texts:
        words = set(filter(has_letters, word_keys(normalized(text)))) or {text}
        if all(len(words & other) < SAME_WORDS * min(len(words), len(other)) for other in known):
            chosen.append(text)
            known.append(words)
            if len(chosen) == count:
                break
    return chosen


def candidates_of(
    layers: NDArray[np.int32], strength: NDArray[Any], row: IntArray, copies: NDArray[Any]
) -> NDArray[Any]:
    """A candidate (MEMBER) for each cluster of each text.

    layers, strength : shape (n_texts, n_layers); row, copies : shape (n_texts,)
    """
    at, layer = np.nonzero(layers >= 0)
    found = np.empty(at.size, MEMBER)
    found["label"], found["row"], found["copies"] = layers[at, layer], row[at], copies[at]
    found["strength"] = strength[at, layer]
    return found


def strongest_of(members: NDArray[Any], n_exemplars: int) -> NDArray[Any]:
    """Of each cluster the members with the highest strength, then with the most copies, then with the smallest row."""
    order = np.lexsort((members["row"], -members["copies"], -members["strength"], members["label"]))
    label = members["label"][order]
    return members[order[np.arange(label.size) - np.searchsorted(label, label) < n_exemplars]]
