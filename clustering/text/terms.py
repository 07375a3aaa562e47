"""Texts with their clusters in; how many texts of each cluster have a word, and the words that set it apart, out.

Counts are cut by term: whoever has all counts of a term knows how common it is, and needs of the others only how many
words each cluster has.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clustering.kernels.terms import class_tf_idf, common_terms
from clustering.kernels.topk import IntArray
from clustering.text.languages import all_stop_words, language_of, stop_words
from clustering.text.words import Word, normalized, split_words

Labels = NDArray[np.int32]
FEW_TEXTS = 3  # up to which a word of one text describes a cluster
PAIRS_AT_ONCE = 1 << 21  # of clusters and terms, that are added up or weighed


@dataclass(frozen=True)
class TermCounts:
    """How often clusters have terms; each pair of both once, ascending.

    label : int32, shape (n_pairs,); term : int32, shape (n_pairs,), the position in words
    count : int32 (int64 where one needs it), shape (n_pairs,)
    words : large_string, shape (n_terms,), each once; every one has a pair
    """

    label: Labels
    term: Labels
    count: NDArray[Any]
    words: pa.Array

    def __len__(self) -> int:
        return self.label.size

    def of_words(self, kept: NDArray[np.bool_]) -> TermCounts:
        """The counts of some words. kept : bool, shape (n_terms,)"""
        number = (np.cumsum(kept) - 1).astype(np.int32)
        pairs = kept[self.term]
        words = self.words.filter(pa.array(kept))
        return TermCounts(self.label[pairs], number[self.term[pairs]], self.count[pairs], words)

    def cut(self, n_pieces: int) -> list[TermCounts]:
        """The counts in pieces by term. A term is in the same piece on every machine."""
        if n_pieces == 1:
            return [self]
        piece = np.array([crc32(word.encode()) % n_pieces for word in self.words.to_pylist()], np.int64)
        return [self.of_words(piece == number) for number in range(n_pieces)]

    def cut_clusters(self, n_pieces: int) -> list[TermCounts]:
        """The counts in pieces by cluster, in turn."""
        if n_pieces == 1:
            return [self]
        return [self._of_pairs(self.label % n_pieces == piece) for piece in range(n_pieces)]

    def _of_pairs(self, kept: NDArray[np.bool_]) -> TermCounts:
        term, number = np.unique(self.term[kept], return_inverse=True)
        words = self.words.take(pa.array(term))
        return TermCounts(self.label[kept], number.reshape(-1).astype(np.int32), self.count[kept], words)

    def words_of(self, n_clusters: int) -> IntArray:
        """How many words each cluster has here: int64, shape (n_clusters,)."""
        return np.bincount(self.label, weights=self.count, minlength=n_clusters).astype(np.int64)


def summed(label: NDArray[Any], term: NDArray[Any], count: NDArray[Any], words: pa.Array) -> TermCounts:
    """The counts with the pairs that occur several times added up. label, term, count : shape (n_pairs,)"""
    key = label.astype(np.int64) * max(len(words), 1)
    key += term
    order = np.argsort(key, kind="stable")
    key = key[order]
    starts = np.flatnonzero(np.diff(key, prepend=-1))
    count = np.add.reduceat(count[order], starts, dtype=np.int64) if starts.size else count
    own_label, own_term = np.divmod(key[starts], max(len(words), 1))
    kind = np.int32 if count.max(initial=0) < 1 << 31 else np.int64
    return TermCounts(own_label.astype(np.int32), own_term.astype(np.int32), count.astype(kind), words)


def _by_label(pieces: list[TermCounts]) -> Iterator[list[slice]]:
    """The pairs of all clusters, some clusters at a time: their place in each piece."""
    stop = max((int(piece.label[-1]) + 1 for piece in pieces if len(piece)), default=0)
    held = np.zeros(stop, np.int64)
    for piece in pieces:
        held += np.bincount(piece.label, minlength=stop)
    firsts = np.flatnonzero(np.diff(np.cumsum(held) // PAIRS_AT_ONCE, prepend=-1))
    bounds = [np.searchsorted(piece.label, [*firsts, stop]).tolist() for piece in pieces]
    for number in range(firsts.size):
        yield [slice(*ends[number : number + 2]) for ends in bounds]


def merge_counts(pieces: list[TermCounts]) -> TermCounts:
    """The sums of several counts. Terms are numbered by first appearance."""
    if len(pieces) == 1:
        return pieces[0]
    words = pa.chunked_array([piece.words for piece in pieces], pa.large_string()).combine_chunks().dictionary_encode()
    numbers = np.split(words.indices.to_numpy(), np.cumsum([len(piece.words) for piece in pieces])[:-1])
    found = [TermCounts(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.int32), words.dictionary)]
    for places in _by_label(pieces):
        own = list(zip(pieces, numbers, places, strict=True))
        label, count = (
            np.concatenate([getattr(piece, name)[at] for piece, _, at in own]) for name in ("label", "count")
        )
        term = np.concatenate([number[piece.term[at]] for piece, number, at in own])
        found.append(summed(label, term, count, words.dictionary))
    label, term, count = (np.concatenate([getattr(one, name) for one in found]) for name in ("label", "term", "count"))
    return TermCounts(label, term, count, words.dictionary)


def once_each(layers: Labels) -> Labels:
    """The clusters of each text with -1 where a cluster repeats. layers : int32, shape (n_texts, n_layers)"""
    layers = layers.copy()
    for layer in range(1, layers.shape[1]):
        layers[(layers[:, :layer] == layers[:, [layer]]).any(axis=1), layer] = -1
    return layers


def first_appearance() -> dict[str, int]:
    """A dict that numbers strings by their first appearance, when they are looked up."""
    numbers: defaultdict[str, int] = defaultdict()
    numbers.default_factory = numbers.__len__
    return numbers


def count_terms(texts: Iterable[str], layers: Labels, languages: list[str]) -> TermCounts:
    """Count the texts of each cluster that have a term; a text without a cluster counts nowhere.

    layers : int32, shape (n_texts, n_layers), the clusters of each text, each once, -1 for none
    languages : whose stop words are no terms; where there are several, a text's stop words are those of its own
    """
    number = first_appearance()
    terms, lengths = array("i"), np.zeros(len(layers), np.int64)
    clustered = np.any(layers >= 0, axis=1)
    reader = Reader(languages)
    for row, (text, counts) in enumerate(zip(texts, clustered.tolist(), strict=True)):
        if counts:
            keys = dict.fromkeys(word.key for word in reader(text)[1] if word.key)  # in their order
            terms.extend(map(number.__getitem__, keys))
            lengths[row] = len(keys)
    words = pa.array(list(number), pa.large_string())
    groups, group = np.unique(layers, axis=0, return_inverse=True)  # texts with the same clusters in all layers
    repeated = np.repeat(group.reshape(-1), lengths)
    by_group = summed(repeated, np.asarray(terms, np.int64), np.ones(len(terms), np.int64), words)
    label, term, count = [], [], []
    for column in groups.T.astype(np.int64):
        own = column[by_group.label]
        inside = own >= 0
        label.append(own[inside])
        term.append(by_group.term[inside].astype(np.int64))
        count.append(by_group.count[inside])
    return summed(np.concatenate(label), np.concatenate(term), np.concatenate(count), words)


class Reader:
    """Reads the words of texts; where there are several languages, each text's own counts."""

    def __init__(self, languages: list[str]) -> None:
        self.every = all_stop_words(languages)
        self.ignored_in = {code: stop_words(code) for code in languages} if len(languages) > 1 else {}
        self.language = languages[0] if len(languages) == 1 else None

    def __call__(self, text: str) -> tuple[str, list[Word]]:
        """The normalized text and its words."""
        language = language_of(text) if self.ignored_in else self.language
        ignored = self.ignored_in.get(language or "", self.every) if self.ignored_in else self.every
        text = normalized(text)
        return text, split_words(text, ignored, language)


def without_common(counts: TermCounts, layer: Labels, texts: IntArray) -> TermCounts:
    """The counts without the terms that are common in the clusters of a layer.

    counts : all counts of their terms; layer : the clusters; texts : int64, shape (n_clusters,), of every cluster
    """
    position = np.full(texts.size, -1, np.int64)
    position[layer] = np.arange(layer.size)
    inside = np.flatnonzero(position[counts.label] >= 0)
    found = common_terms(position[counts.label[inside]], counts.term[inside], counts.count[inside], texts[layer])
    if not found.any():
        return counts
    common = np.zeros(len(counts.words), bool)
    common[: found.size] = found
    return counts.of_words(~common)


@dataclass(frozen=True)
class BestWords:
    """The strongest words of clusters, strongest first.

    label : int32, shape (n_found,), ascending; weight, share : float64, likewise; word : large_string, likewise
    """

    label: Labels
    weight: NDArray[np.float64]
    share: NDArray[np.float64]  # of the cluster's texts
    word: pa.Array

    @classmethod
    def merged(cls, pieces: list[BestWords], n_terms: int) -> BestWords:
        """The strongest terms of all pieces, which have different terms."""
        if len(pieces) == 1:
            return pieces[0]
        word = pa.chunked_array([piece.word for piece in pieces], pa.large_string()).combine_chunks()
        encoded = word.dictionary_encode()
        label, weight, share = (
            np.concatenate([getattr(piece, name) for piece in pieces]) for name in ("label", "weight", "share")
        )
        order = _strongest(label, weight, _alphabet(encoded.dictionary)[encoded.indices.to_numpy()], n_terms)
        return cls(label[order], weight[order], share[order], word.take(pa.array(order)))


def _alphabet(words: pa.Array) -> IntArray:
    return pc.rank(words, sort_keys="ascending", tiebreaker="dense").to_numpy()  # type: ignore[no-any-return]


def _strongest(label: Labels, weight: NDArray[np.float64], alphabet: IntArray, n_terms: int) -> IntArray:
    """The positions of at most n_terms of each cluster, strongest first.

    The alphabet orders equal weights, so that the order of the input does not count.
    """
    order = np.lexsort((alphabet, -weight, label))
    label = label[order]
    return order[np.arange(order.size) - np.searchsorted(label, label) < n_terms]


def best_words(
    counts: TermCounts, layers: list[Labels], parent: IntArray, texts: IntArray, words: IntArray, n_terms: int
) -> BestWords:
    """The strongest words of each cluster, which set it apart within the last of the layers that have it.

    counts : all counts of their terms; layers : the clusters of each layer
    parent : int64, shape (n_clusters,), the cluster around each one, -1 for none; texts : int64, likewise
    words : int64, shape (n_clusters,), terms of the texts of each cluster
    """
    last = np.full(words.size, -1, np.int64)
    for number, layer in enumerate(layers):
        last[layer] = number
    alphabet, n_words = _alphabet(counts.words), max(len(counts.words), 1)
    keys = counts.label * np.int64(n_words) + counts.term
    label, weight, share, term = [np.empty(0, np.int32)], [np.empty(0)], [np.empty(0)], [np.empty(0, np.int32)]
    for number, layer in enumerate(layers):
        inside = np.zeros(words.size, bool)
        inside[layer] = True
        uses = np.zeros(n_words, np.int64)
        for (at,) in _by_label([counts]):
            own = inside[counts.label[at]]
            np.add.at(uses, counts.term[at][own], counts.count[at][own])
        average = float(words[layer].sum()) / max(layer.size, 1)
        for (at,) in _by_label([counts]):
            enough = counts.count[at] >= np.where(texts[counts.label[at]] > FEW_TEXTS, 2, 1)
            own = np.flatnonzero((last[counts.label[at]] == number) & enough) + at.start
            own_label, own_term = counts.label[own], counts.term[own]
            own_share = counts.count[own] / texts[own_label]
            around = parent[own_label]
            place = np.minimum(np.searchsorted(keys, around * n_words + own_term), keys.size - 1)
            known = (around >= 0) & (keys[place] == around * n_words + own_term)
            others = np.where(known, counts.count[place] - counts.count[own], 0)
            beside = np.maximum(others, 0) / np.maximum(texts[around] - texts[own_label], 1)
            strength = class_tf_idf(own_term, own_share, beside, average, uses)
            best = _strongest(own_label, strength, alphabet[own_term], n_terms)
            label.append(own_label[best])
            weight.append(strength[best])
            share.append(own_share[best])
            term.append(own_term[best])
    found = np.concatenate(label)
    order = np.argsort(found, kind="stable")
    word = counts.words.take(pa.array(np.concatenate(term)[order]))
    return BestWords(found[order], np.concatenate(weight)[order], np.concatenate(share)[order], word)
