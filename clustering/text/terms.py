"""Texts with their clusters in; how often each cluster has each term, and the terms that set it apart, out.

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

from clustering.kernels.terms import class_tf_idf, common_terms, tokenize
from clustering.kernels.topk import IntArray
from clustering.text.languages import all_stop_words, language_of, stop_words

Labels = NDArray[np.int32]
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

    def words_of(self, n_clusters: int) -> IntArray:
        """How many words each cluster has here: int64, shape (n_clusters,)."""
        return np.bincount(self.label, weights=self.count, minlength=n_clusters).astype(np.int64)


def _summed(label: NDArray[Any], term: NDArray[Any], count: NDArray[Any], words: pa.Array) -> TermCounts:
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
        found.append(_summed(label, term, count, words.dictionary))
    label, term, count = (np.concatenate([getattr(one, name) for one in found]) for name in ("label", "term", "count"))
    return TermCounts(label, term, count, words.dictionary)


def once_each(layers: Labels) -> Labels:
    """The clusters of each text with -1 where a cluster repeats. layers : int32, shape (n_texts, n_layers)"""
    layers = layers.copy()
    for layer in range(1, layers.shape[1]):
        layers[(layers[:, :layer] == layers[:, [layer]]).any(axis=1), layer] = -1
    return layers


def count_terms(texts: Iterable[str], layers: Labels, languages: list[str]) -> TermCounts:
    """Count each term in each cluster; a text without a cluster counts nowhere.

    layers : int32, shape (n_texts, n_layers), the clusters of each text, each once, -1 for none
    languages : whose stop words are no terms; where there are several, a text's stop words are those of its own
    """
    every = all_stop_words(languages)
    ignored_in = {code: stop_words(code) for code in languages} if len(languages) > 1 else {}
    number: dict[str, int] = defaultdict()
    number.default_factory = number.__len__  # type: ignore[attr-defined]
    terms, lengths = array("i"), np.zeros(len(layers), np.int64)
    groups, group = np.unique(layers, axis=0, return_inverse=True)  # texts with the same clusters in all layers
    group = group.reshape(-1)
    clustered = np.any(layers >= 0, axis=1)
    for row, (text, counts) in enumerate(zip(texts, clustered.tolist(), strict=True)):
        if counts:
            ignored = ignored_in.get(language_of(text) or "", every) if ignored_in else every
            before = len(terms)
            terms.extend(map(number.__getitem__, tokenize(text, ignored)))
            lengths[row] = len(terms) - before
    words = pa.array(list(number), pa.large_string())
    by_group = _summed(np.repeat(group, lengths), np.asarray(terms, np.int64), np.ones(len(terms), np.int64), words)
    label, term, count = [], [], []
    for column in groups.T.astype(np.int64):
        own = column[by_group.label]
        inside = own >= 0
        label.append(own[inside])
        term.append(by_group.term[inside].astype(np.int64))
        count.append(by_group.count[inside])
    return _summed(np.concatenate(label), np.concatenate(term), np.concatenate(count), words)


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
class BestTerms:
    """The strongest terms of clusters, strongest first.

    label : int32, shape (n_found,), ascending; weight : float64, likewise; word : large_string, likewise
    """

    label: Labels
    weight: NDArray[np.float64]
    word: pa.Array

    @classmethod
    def merged(cls, pieces: list[BestTerms], n_terms: int) -> BestTerms:
        """The strongest terms of all pieces, which have different terms."""
        if len(pieces) == 1:
            return pieces[0]
        word = pa.chunked_array([piece.word for piece in pieces], pa.large_string()).combine_chunks()
        encoded = word.dictionary_encode()
        label, weight = (np.concatenate([getattr(piece, name) for piece in pieces]) for name in ("label", "weight"))
        order = _strongest(label, weight, _alphabet(encoded.dictionary)[encoded.indices.to_numpy()], n_terms)
        return cls(label[order], weight[order], word.take(pa.array(order)))


def _alphabet(words: pa.Array) -> IntArray:
    return pc.rank(words, sort_keys="ascending", tiebreaker="dense").to_numpy()  # type: ignore[no-any-return]


def _strongest(label: Labels, weight: NDArray[np.float64], alphabet: IntArray, n_terms: int) -> IntArray:
    """The positions of at most n_terms of each cluster, strongest first.

    The alphabet orders equal weights, so that the order of the input does not count.
    """
    order = np.lexsort((alphabet, -weight, label))
    label = label[order]
    return order[np.arange(order.size) - np.searchsorted(label, label) < n_terms]


def best_terms(counts: TermCounts, layers: list[Labels], words: IntArray, n_terms: int) -> BestTerms:
    """The strongest terms of each cluster, which set it apart within the last of the layers that have it.

    counts : all counts of their terms; layers : the clusters of each layer
    words : int64, shape (n_clusters,), words of each cluster, those of all terms
    """
    last = np.full(words.size, -1, np.int64)
    for number, layer in enumerate(layers):
        last[layer] = number
    alphabet = _alphabet(counts.words)
    label, weight, term = [np.empty(0, np.int32)], [np.empty(0)], [np.empty(0, np.int32)]
    for number, layer in enumerate(layers):
        position = np.full(words.size, -1, np.int64)
        position[layer] = np.arange(layer.size)
        uses = np.zeros(len(counts.words), np.int64)
        for (at,) in _by_label([counts]):
            inside = position[counts.label[at]] >= 0
            np.add.at(uses, counts.term[at][inside], counts.count[at][inside])
        for (at,) in _by_label([counts]):
            own = np.flatnonzero(last[counts.label[at]] == number) + at.start
            own_label, own_term = counts.label[own], counts.term[own]
            strength = class_tf_idf(position[own_label], own_term, counts.count[own], words[layer], uses)
            best = _strongest(own_label, strength, alphabet[own_term], n_terms)
            label.append(own_label[best])
            weight.append(strength[best])
            term.append(own_term[best])
    found = np.concatenate(label)
    order = np.argsort(found, kind="stable")
    word = counts.words.take(pa.array(np.concatenate(term)[order]))
    return BestTerms(found[order], np.concatenate(weight)[order], word)
