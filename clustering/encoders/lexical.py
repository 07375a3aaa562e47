"""Texts in; an encoder's vectors beside those of the words, in one vector of unit length, out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from clustering.encoders.base import Encoded, Encoder, FloatArray
from clustering.kernels.words import lexical
from clustering.kernels.words.lexical import DIM, Weights
from clustering.kernels.words.word_sets import Words, scan_words


class LexicalEncoder:
    """Another encoder's vectors, and behind them those of the words by TF-IDF, each half scaled by its share.

    The cosine of two texts is the mean of both halves' cosines, by their shares. A text that one half has nothing of
    has the other one alone. A text that the other encoder knows, but gives no usable vector, has none here, either.
    """

    def __init__(self, encoder: Encoder, share: float, weights: Weights) -> None:
        """share : of the words, 0 to 1; weights : of all terms of the collection, see ``lexical.weigh_terms``"""
        self.encoder, self.share, self.weights = encoder, share, weights
        self.dim = encoder.dim + DIM

    def encode(self, texts: Sequence[str]) -> Encoded:
        encoded = self.encoder.encode(texts)
        words = lexical.lexical_vectors(words_of(texts), self.weights)
        known = encoded.vectors.any(axis=1)
        words[~known & ~encoded.unread] = 0
        has_words = words.any(axis=1)
        vectors = np.empty((len(texts), self.dim), np.float32)
        vectors[:, :-DIM] = encoded.vectors * _root(np.where(has_words, 1 - self.share, 1))
        vectors[:, -DIM:] = words * _root(np.where(known, self.share, 1))
        return replace(encoded, vectors=vectors, unread=encoded.unread & ~has_words)


def _root(share: FloatArray) -> FloatArray:
    return np.sqrt(share, dtype=np.float32)[:, None]


def words_of(texts: Sequence[str]) -> Words:
    """The words of some texts, in their order."""
    encoded = [text.encode() for text in texts]
    ends = np.cumsum([0, *map(len, encoded)])
    return scan_words(np.frombuffer(b"".join([*encoded, b"\0"]), np.uint8), ends)
