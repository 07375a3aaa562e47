"""Token counts of clusters in, the terms that set each cluster apart out."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# Scripts written without spaces between words; runs of them are cut into pairs of characters.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_MARKS = "".join(chr(c) for c in range(0x300, 0x10000) if unicodedata.category(chr(c)) in ("Mn", "Mc"))
_LETTER = rf"[^\W_{_UNSPACED}](?:(?![{_UNSPACED}])[{_MARKS}])*"
_WORD = re.compile(rf"[{_UNSPACED}]+|(?:{_LETTER})+(?:['’\-.&](?:{_LETTER})+)*")
LONGEST_WORD = 50  # characters; what is longer is an address, a key, or noise
COMMON_CLUSTERS, COMMON_TEXTS = 0.18, 0.006  # a term in more of the clusters and texts says nothing of a subject,
STANDS_OUT = 0.25  # unless it stands in so many of the texts of one cluster,
OUT_TEXTS = 20  # of those of so many texts;
MANY_CLUSTERS = 20  # fewer clusters do not tell
_UNSPACED_RUN = re.compile(rf"[{_UNSPACED}]")


def tokenize(text: str, stop_words: frozenset[str] = frozenset()) -> list[str]:
    """Lower-cased words of 2 to LONGEST_WORD characters, without stop words and bare numbers.

    Chinese, Japanese, Thai, Lao, Burmese and Khmer, which put no spaces between words, give pairs of characters, none
    of which reaches into a stop word.
    """
    found: list[str] = []
    for match in _WORD.finditer(unicodedata.normalize("NFKC", text).lower()):
        word = match.group()
        if _UNSPACED_RUN.match(word):
            pieces = _unspaced(stop_words).split(word)
            found += [piece[at : at + 2] for piece in pieces for at in range(len(piece) - 1)]
            found += [word] if len(word) == 1 else []
            continue
        word = word.replace("’", "'").removesuffix("'s")
        if 1 < len(word) <= LONGEST_WORD and word not in stop_words and any(map(str.isalpha, word)):
            found.append(word)
    return found


@lru_cache(8)
def _unspaced(stop_words: frozenset[str]) -> re.Pattern[str]:
    """Matches the stop words of two characters or more in scripts without spaces, the longest first.

    Those of one character are part of too many other words: runs are not cut at them.
    """
    longer = [word for word in stop_words if len(word) > 1 and _UNSPACED_RUN.match(word)]
    return re.compile("|".join(map(re.escape, sorted(longer, key=lambda word: (-len(word), word)))) or "(?!)")


def class_tf_idf(
    label: NDArray[np.int64], term: NDArray[np.int64], count: NDArray[np.int64], n_clusters: int
) -> NDArray[np.float64]:
    """c-TF-IDF: how much a term stands out in its cluster against all clusters.

    label, term, count : shape (n_pairs,), how often a term stands in a cluster, each pair once
    Returns: float64, shape (n_pairs,): share of the term in the cluster x log(1 + words a cluster / uses of the term).
    Source: Grootendorst (2022), BERTopic, arXiv:2203.05794.
    """
    in_cluster = np.bincount(label, weights=count, minlength=n_clusters)
    uses = np.bincount(term, weights=count)
    average = in_cluster.sum() / max(n_clusters, 1)
    return count / in_cluster[label] * np.log1p(average / uses[term])  # type: ignore[no-any-return]


def common_terms(
    label: NDArray[np.int64], term: NDArray[np.int64], count: NDArray[np.int64], texts: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which terms are spread so evenly that they name no cluster: stop words of a language or a trade.

    label, term, count : shape (n_pairs,), how often a term stands in a cluster, each pair once
    texts : shape (n_clusters,), texts of each cluster
    Returns: bool, shape (n_terms,); none of fewer than MANY_CLUSTERS clusters.
    """
    clusters, uses = np.bincount(term), np.bincount(term, weights=count)
    if texts.size < MANY_CLUSTERS:
        return np.zeros(clusters.size, bool)
    share = np.zeros(clusters.size)
    large = texts[label] >= OUT_TEXTS
    np.maximum.at(share, term[large], count[large] / texts[label[large]])
    common: NDArray[np.bool_] = (clusters > COMMON_CLUSTERS * texts.size) & (uses > COMMON_TEXTS * texts.sum())
    return common & (share < STANDS_OUT)
