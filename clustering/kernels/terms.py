"""Texts and token counts of clusters in, the terms that distinguish each cluster out."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Scripts that put no spaces between words; their runs are cut into pairs of characters.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_MARKS = "".join(chr(c) for c in range(0x300, 0x10000) if unicodedata.category(chr(c)) in ("Mn", "Mc"))
_LETTER = rf"[^\W_{_UNSPACED}](?:(?![{_UNSPACED}])[{_MARKS}])*"
_WORD = re.compile(rf"[{_UNSPACED}]+|(?:{_LETTER})+(?:['’\-.&](?:{_LETTER})+)*")
LONGEST_WORD = 50  # characters; longer ones are URLs, keys or noise
# A term is common if more than these shares of clusters and texts have it,
COMMON_CLUSTERS, COMMON_TEXTS = 0.18, 0.006
# unless some cluster of at least OUT_TEXTS texts has it in this share of them. Fewer clusters are too few to judge.
STANDS_OUT, OUT_TEXTS, MANY_CLUSTERS = 0.25, 20, 20
_UNSPACED_RUN = re.compile(rf"[{_UNSPACED}]")


def tokenize(text: str, stop_words: frozenset[str] = frozenset()) -> list[str]:
    """Split a text into lower-case words of 2 to LONGEST_WORD characters, without stop words and bare numbers.

    Chinese, Japanese, Thai, Lao, Burmese and Khmer put no spaces between words: they give pairs of characters, and no
    pair overlaps a stop word.
    """
    words: list[str] = []
    for match in _WORD.finditer(unicodedata.normalize("NFKC", text).lower()):
        word = match.group()
        if _UNSPACED_RUN.match(word):
            pieces = _unspaced(stop_words).split(word)
            words += [piece[at : at + 2] for piece in pieces for at in range(len(piece) - 1)]
            words += [word] if len(word) == 1 else []
            continue
        word = word.replace("’", "'").removesuffix("'s")
        if 1 < len(word) <= LONGEST_WORD and word not in stop_words and any(map(str.isalpha, word)):
            words.append(word)
    return words


@lru_cache(8)
def _unspaced(stop_words: frozenset[str]) -> re.Pattern[str]:
    """A pattern of the stop words of two or more characters in scripts without spaces, the longest first.

    One-character stop words are left out: they are part of too many other words.
    """
    longer = [word for word in stop_words if len(word) > 1 and _UNSPACED_RUN.match(word)]
    return re.compile("|".join(map(re.escape, sorted(longer, key=lambda word: (-len(word), word)))) or "(?!)")


def class_tf_idf(
    label: NDArray[Any], term: NDArray[Any], count: NDArray[Any], words: NDArray[np.int64], uses: NDArray[np.int64]
) -> NDArray[np.float64]:
    """c-TF-IDF: how much a term distinguishes its cluster from all clusters.

    label, term, count : integers, shape (n_pairs,), how often a term occurs in a cluster, each pair once; some or all
    words : int64, shape (n_clusters,), words of each cluster
    uses : int64, shape (n_terms,), uses of each term in all clusters
    Returns: float64, shape (n_pairs,), share of the term in its cluster x log(1 + mean words of a cluster / uses of
        the term in all clusters).
    Source: Grootendorst (2022), BERTopic, arXiv:2203.05794.
    """
    average = words.sum() / max(words.size, 1)
    return count / words[label] * np.log1p(average / uses[term])  # type: ignore[no-any-return]


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
