"""Texts and their strength in clusters in; the strongest of each and of its parts, and a few that differ, out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clustering.kernels.topk import IntArray
from clustering.text.words import has_letters, normalized, word_keys

# A candidate for a cluster's exemplars; part: its cluster in the next finer layer that parts this one, -1 for none.
MEMBER = np.dtype(
    [("label", np.int32), ("part", np.int32), ("strength", np.float32), ("copies", np.int32), ("row", np.int64)]
)
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

    layers : int32, shape (n_texts, n_layers), the broadest first, each cluster once, see ``once_each``
    strength : of the same shape; row, copies : shape (n_texts,)
    """
    part = np.full(layers.shape, -1, np.int32)
    for finer in range(layers.shape[1] - 1, 0, -1):
        part[:, finer - 1] = np.where(layers[:, finer] >= 0, layers[:, finer], part[:, finer])
    at, layer = np.nonzero(layers >= 0)
    found = np.empty(at.size, MEMBER)
    found["label"], found["row"], found["copies"] = layers[at, layer], row[at], copies[at]
    found["strength"], found["part"] = strength[at, layer], part[at, layer]
    return found


def strongest_of(members: NDArray[Any], n_exemplars: int) -> NDArray[Any]:
    """Of each cluster the members with the highest strength, then with the most copies, then with the smallest row."""
    order = np.lexsort((members["row"], -members["copies"], -members["strength"], members["label"]))
    return _first_of_each(members[order], n_exemplars)


def representatives_of(members: NDArray[Any], texts: IntArray, n_exemplars: int) -> NDArray[Any]:
    """Of each cluster the strongest members of its parts, so that a broad one is seen as what it holds.

    Parts take turns by the square roots of their texts: the m-th member of a part of n texts has the quotient
    sqrt(n) / m, and the largest quotients are chosen, in their order. Where there are no parts, they are those of
    ``strongest_of``. Of what is chosen of some members and of others, the same are chosen as of all at once.
    texts : of each cluster
    """
    order = np.lexsort((members["row"], -members["copies"], -members["strength"], members["part"], members["label"]))
    members = members[order]
    begins = np.ones(members.size, np.bool_)
    begins[1:] = (members["label"][1:] != members["label"][:-1]) | (members["part"][1:] != members["part"][:-1])
    place = np.arange(members.size)
    rank = place - np.maximum.accumulate(np.where(begins, place, 0))
    size = np.where(members["part"] >= 0, texts[members["part"]], 1)
    quotient = np.sqrt(size) / (rank + 1)
    order = np.lexsort((members["row"], -members["copies"], -members["strength"], -quotient, members["label"]))
    return _first_of_each(members[order], n_exemplars)


def _first_of_each(members: NDArray[Any], most: int) -> NDArray[Any]:
    """The first members of each cluster. members : ascending by label"""
    label = members["label"]
    return members[np.arange(label.size) - np.searchsorted(label, label) < most]
