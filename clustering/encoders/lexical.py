"""Texts in; an encoder's vectors beside those of the words, in one vector of unit length, out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from clustering.encoders.base import Encoded, Encoder, FloatArray
from clustering.kernels.words import LEXICAL_DIM as DIM
from clustering.kernels.words import lexical
from clustering.kernels.words.lexical import Weights
from clustering.kernels.words.word_sets import Words, scan_words


class LexicalEncoder:
    """Another encoder's vectors, and behind them those of the words by TF-IDF, each half scaled by its share.

    The cosine of two texts is the mean of both halves' cosines, by their shares. A text that one half has nothing of
    has the other one alone. A text that the other encoder knows, but gives no usable vector, has none here, either.
    """

    def __init__(self, encoder: Encoder, share: float, weights: Weights) -> None:
        """share : of the words, 0 to 1; weights : of all terms of the collection, see ``lexical.weigh_terms``"""
        self.encoder, self.share, self.weights = encoder, share, weights
        self.own_dim, self.dim = encoder.dim, encoder.dim + DIM

    def encode(self, texts: Sequence[str]) -> Encoded:
        encoded = self.encoder.encode(texts)
        words = lexical.lexical_vectors(words_of(texts), self.weights)
        words[~encoded.vectors.any(axis=1) & ~encoded.unread] = 0
        vectors = combine(encoded.vectors, words, self.share)
        return replace(encoded, vectors=vectors, unread=encoded.unread & ~words.any(axis=1))


def combine(vectors: FloatArray, words: FloatArray, share: float) -> FloatArray:
    """Vectors of which each holds two, scaled by the roots of their shares; where one is zeros, the other is whole.

    vectors, words : float32, shape (n_texts, dim) and (n_texts, DIM), of unit length or zeros; share : of the words
    """
    combined = np.empty((len(vectors), vectors.shape[1] + words.shape[1]), np.float32)
    combined[:, : vectors.shape[1]] = vectors * _root(np.where(words.any(axis=1), 1 - share, 1))
    combined[:, vectors.shape[1] :] = words * _root(np.where(vectors.any(axis=1), share, 1))
    return combined


def _root(share: FloatArray) -> FloatArray:
    return np.sqrt(share, dtype=np.float32)[:, None]


def words_of(texts: Sequence[str]) -> Words:
    """The words of some texts, in their order."""
    encoded = [text.encode() for text in texts]
    ends = np.cumsum([0, *map(len, encoded)])
    return scan_words(np.frombuffer(b"".join([*encoded, b"\0"]), np.uint8), ends)
