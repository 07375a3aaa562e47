"""The words of texts in; vectors by TF-IDF of words and of pairs of adjacent words, projected by random signs, out.

They are dense and short, so that they stand beside those of an encoder, and count what that hardly knows: names and
numbers. A term is known by the first bits of its hash.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from clustering.kernels.sort import sort_pairs
from clustering.kernels.words import LEXICAL_DIM as DIM
from clustering.kernels.words.word_sets import Counts, Words, mix_word

PLACES, FEWEST_BITS, MOST_BITS = 32, 12, 24  # of the tables of terms: places for each text, and all in all
STEPS = 16  # of a weight: logarithms are rounded to sixteenths
SLICE = 1 << 20  # terms that are weighed at a time, in 40 MiB
Weights = NDArray[np.uint8]
_SIGNS = np.where(np.arange(256)[:, None] >> np.arange(8) & 1, 1, -1).astype(np.int32)  # of the bits of a byte
# Lengths of the dimensions. With equal ones, numbers repeat within a vector, and the rounding of a dot adds up.
_LENGTHS = (0.8 + 0.4 * (np.arange(1, DIM + 1) * 0.6180339887498949 % 1)).astype(np.float32).reshape(-1, 8)


def table_bits(n_texts: int) -> int:
    """The bits of a term's hash by which tables know it. n_texts : of all"""
    return min(max((PLACES * n_texts).bit_length(), FEWEST_BITS), MOST_BITS)


def count_terms(found: Words, bits: int) -> Counts:
    """How many texts have each term: uint32, shape (2^bits,)."""
    counts = np.zeros(1 << bits, np.uint32)
    _count(found.words, found.ends, np.uint32(32 - bits), counts)
    return counts


def weigh_terms(counts: Counts, n_texts: int) -> Weights:
    """The weight of each term, ln(n_texts / texts that have it), in sixteenths: uint8, the shape of ``counts``.

    A term of one text alone weighs nothing: it can be shared with no other.
    counts : of ``count_terms``, of all texts
    Source: Spärck Jones (1972).
    """
    weights = np.zeros(len(counts), np.uint8)
    for start in range(0, len(counts), SLICE):
        some = counts[start : start + SLICE]
        steps = np.rint(STEPS * np.log(n_texts / np.maximum(some, 1.0)))
        weights[start : start + SLICE] = np.where(some > 1, np.clip(steps, 0, 255), 0)
    return weights


def lexical_vectors(found: Words, weights: Weights) -> NDArray[np.float32]:
    """Vectors of texts by the weights of their terms: of unit length, or zeros for a text whose terms weigh nothing.

    The dot of two of them is the cosine of their TF-IDF, give or take 1 / sqrt(DIM). A term counts once a text.
    weights : of ``weigh_terms``
    Returns: float32, shape (n_texts, DIM)
    Source: random signs as in Achlioptas (2003).
    """
    vectors = np.zeros((len(found.ends) - 1, DIM), np.float32)
    _project(found.words, found.ends, np.uint32(33 - len(weights).bit_length()), weights, vectors)
    return vectors


@numba.njit(cache=True, nogil=True)
def _terms(words: Any, terms: Any) -> int:
    """Write the words of a text and the pairs of adjacent ones, each once, ascending; return their number."""
    count = 0
    for at in range(words.size):
        terms[count] = words[at]
        count += 1
        if at > 0:
            terms[count] = mix_word(((np.int64(words[at - 1]) * 0x01000193) & 0xFFFFFFFF) ^ np.int64(words[at]))
            count += 1
    own = terms[:count]
    sort_pairs(own, own)
    distinct = 0
    for at in range(count):
        if at == 0 or own[at] != own[distinct - 1]:
            own[distinct] = own[at]
            distinct += 1
    return distinct


@numba.njit(cache=True, nogil=True)
def _room(ends: Any) -> Any:
    """An array for the terms of the longest text."""
    longest = 0
    for text in range(ends.size - 1):
        longest = max(longest, ends[text + 1] - ends[text])
    return np.empty(2 * longest, np.uint32)


@numba.njit(cache=True, nogil=True)
def _count(words: Any, ends: Any, shift: Any, counts: Any) -> None:
    terms = _room(ends)
    for text in range(ends.size - 1):
        for at in range(_terms(words[ends[text] : ends[text + 1]], terms)):
            counts[terms[at] >> shift] += np.uint32(1)


@numba.njit(cache=True, nogil=True)
def _project(words: Any, ends: Any, shift: Any, weights: Any, vectors: Any) -> None:
    terms, sums = _room(ends), np.empty((DIM // 8, 8), np.int32)
    for text in range(ends.size - 1):
        sums[:] = 0
        for at in range(_terms(words[ends[text] : ends[text + 1]], terms)):
            weight = np.int32(weights[terms[at] >> shift])
            if weight == 0:
                continue
            for number in range(DIM // 32):  # 32 signs by a hash
                bits = mix_word((np.int64(terms[at]) + 0x9E3779B9 * (number + 1)) & 0xFFFFFFFF)
                for byte in range(4):
                    signs = (bits >> (8 * byte)) & 0xFF
                    for bit in range(8):
                        sums[4 * number + byte, bit] += weight * _SIGNS[signs, bit]
        squares = 0.0
        for byte in range(DIM // 8):
            for bit in range(8):
                squares += (sums[byte, bit] * _LENGTHS[byte, bit]) ** 2
        if squares > 0:
            scale = 1 / np.sqrt(squares)
            for byte in range(DIM // 8):
                for bit in range(8):
                    vectors[text, 8 * byte + bit] = sums[byte, bit] * _LENGTHS[byte, bit] * scale
