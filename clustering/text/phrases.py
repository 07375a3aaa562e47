"""Texts and the strong words of their clusters in; phrases that name each cluster, and its most telling texts, out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clustering.kernels.topk import IntArray
from clustering.text.terms import BestWords, Labels, Reader, TermCounts, first_appearance, summed
from clustering.text.words import Word, has_letters

PHRASE_WORDS = 3
PHRASE_PAIRS = 5  # of a run without spaces: six characters
PLACE = 8  # more than the words of a phrase
LONG_TEXT = 90  # characters, beyond which a text is a worse headline
SPLIT = "\t"  # between the key of a phrase and how it is written
# A longer phrase takes the place of a shorter one where at least this share of the shorter one's texts have it,
LONGER = 0.55
# and where its words are adjacent this many standard deviations more often than by chance.
SIGNIFICANT = 2.0
SHARED = 0.35  # a headline names a cluster where two of its words are each in this share of the texts
# Characters that hardly begin or end, and hardly end, a Chinese or Japanese word.
PARTICLES, LINKS = frozenset("的了吗呢吧啊么着也你我他她它はがをにのへともで"), frozenset("是在和与就都还很被把有")


PHRASES = pa.schema(
    [("label", pa.int32()), ("written", pa.large_string()), ("share", pa.float64()), ("weight", pa.float64())]
)


class Phrase(NamedTuple):
    """A word or phrase of a cluster."""

    written: str  # as most texts have it
    share: float  # of the cluster's texts
    weight: float


@dataclass(frozen=True)
class StrongWords:
    """The strong words of clusters, so that they are found by cluster and word."""

    words: pa.Array  # large_string, each once
    keys: IntArray  # label x words + number of the word, ascending
    weight: NDArray[np.float32]
    share: NDArray[np.float32]

    @classmethod
    def of(cls, best: BestWords) -> StrongWords:
        words = best.word.dictionary_encode()
        keys = best.label.astype(np.int64) * max(len(words.dictionary), 1) + words.indices.to_numpy()
        order = np.argsort(keys)
        weight, share = best.weight[order].astype(np.float32), best.share[order].astype(np.float32)
        return cls(words.dictionary, keys[order], weight, share)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each word."""
        return {word: at for at, word in enumerate(self.words.to_pylist())}

    def weights(self, label: IntArray, word: IntArray) -> NDArray[np.float32]:
        """The weight of words in clusters, 0 for what is not strong there. word : -1 is no word"""
        if not self.keys.size:
            return np.zeros(label.size, np.float32)
        wanted = label * len(self.words) + word
        place = np.minimum(np.searchsorted(self.keys, wanted), self.keys.size - 1)
        found = (self.keys[place] == wanted) & (word >= 0) & (label >= 0)
        return np.where(found, self.weight[place], np.float32(0))

    def of_cluster(self, label: int) -> dict[str, float]:
        """The strong words of a cluster, each with the weight of a term that all texts have."""
        n_words = len(self.words)
        own = slice(*np.searchsorted(self.keys, [label * n_words, (label + 1) * n_words]).tolist())
        words = self.words.take(pa.array(self.keys[own] % max(n_words, 1))).to_pylist()
        return dict(zip(words, (self.weight[own] / self.share[own]).tolist(), strict=True))


def count_phrases(
    texts: Iterable[str], layers: Labels, languages: list[str], strong: StrongWords
) -> tuple[TermCounts, NDArray[np.float32]]:
    """Count the texts of each cluster that have a phrase of one to three of its strong words, and score the texts.

    layers : int32, shape (n_texts, n_layers), the clusters of each text, each once, -1 for none
    Returns: the counts, whose terms are the key of a phrase, SPLIT, and how it is written; and float32, shape
        (n_texts, n_layers), how much of what sets its cluster apart a text says for its length.
    """
    reader, clustered = Reader(languages), np.any(layers >= 0, axis=1)
    read: list[tuple[str, list[Word]]] = []
    for text, counts in zip(texts, clustered.tolist(), strict=True):
        read.append(reader(text) if counts else ("", []))
    n_words = np.array([len(words) for _, words in read], np.int64)
    numbers = strong.numbers
    row, size = np.repeat(np.arange(len(read)), n_words), int(n_words.sum())
    word = np.fromiter((numbers.get(one.key, -1) for _, words in read for one in words), np.int64, size)
    flags = [(one.key != "", one.follows, one.pair) for _, words in read for one in words]
    named, follows, pair = np.array(flags, np.bool_).reshape(-1, 3).T
    length = np.bincount(row[named], minlength=len(read))
    long = np.array([len(text) > LONG_TEXT for text, _ in read], bool)
    damping = np.sqrt(np.maximum(length, 1)) * np.where(long, 1.25, 1)
    _, once = np.unique(row * (len(numbers) + 1) + word + 1, return_index=True)  # a word that a text has twice
    score = np.zeros(layers.shape, np.float32)
    places: list[IntArray] = []  # of each layer: where phrases begin, and how many words they have
    for layer, clusters in enumerate(layers.T.astype(np.int64)):
        weight = strong.weights(clusters[row], word)
        score[:, layer] = np.bincount(row[once], weights=weight[once], minlength=len(read)) / damping
        places.append(_find_phrases(weight > 0, named, follows, pair, row))
    distinct = np.unique(np.concatenate(places))  # layers share most places, so each phrase is read once
    of_row, many = row[distinct // PLACE], distinct % PLACE
    start = distinct // PLACE - (np.cumsum(n_words) - n_words)[of_row]
    keys, written = first_appearance(), first_appearance()
    key, term = np.empty(distinct.size, np.int64), np.empty(distinct.size, np.int64)
    for at, (number, begin, size) in enumerate(zip(of_row.tolist(), start.tolist(), many.tolist(), strict=True)):
        text, words = read[number]
        own = words[begin : begin + size]
        phrase = _key(own, text)
        key[at], term[at] = keys[phrase], written[f"{phrase}{SPLIT}{text[own[0].start : own[-1].stop]}"]
    label, terms = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for layer, place in enumerate(places):
        found = np.searchsorted(distinct, place)
        _, kept = np.unique(of_row[found] * max(len(keys), 1) + key[found], return_index=True)  # each once in a text
        label.append(layers[of_row[found[kept]], layer].astype(np.int64))
        terms.append(term[found[kept]])
    names, every = pa.array(list(written), pa.large_string()), np.concatenate(terms)
    return summed(np.concatenate(label), every, np.ones(every.size, np.int64), names), score


def _key(words: list[Word], text: str) -> str:
    """The key of a phrase: what all its inflections share."""
    if words[0].pair:
        return text[words[0].start : words[-1].stop]
    return " ".join(word.key or text[word.start : word.stop].lower() for word in words)


def _find_phrases(
    strong: NDArray[np.bool_], named: NDArray[np.bool_], follows: NDArray[np.bool_], pair: NDArray[np.bool_],
    row: IntArray,
) -> IntArray:  # fmt: skip
    """Where phrases begin, times PLACE, and how many words they have, ascending. All : shape (n_words,)"""
    places = [np.flatnonzero(strong) * PLACE + 1]
    inner = strong | ~named  # a phrase begins and ends with a strong word; between them may be a stop word
    unbroken = strong.copy()  # whether the words from here on, as many as the size says, belong together
    for size in range(2, min(PHRASE_PAIRS, row.size) + 1):
        reach = row.size - size + 1
        end = slice(size - 1, None)
        unbroken = unbroken[:reach] & follows[end] & (row[end] == row[:reach]) & (pair[end] == pair[:reach])
        whole = unbroken & strong[end] & (pair[:reach] | (size <= PHRASE_WORDS))
        places.append(np.flatnonzero(whole) * PLACE + size)
        unbroken &= np.where(pair[:reach], strong[end], inner[end])
    return np.sort(np.concatenate(places))


def choose_phrases(
    counts: TermCounts, strong: StrongWords, texts: IntArray, n_terms: int
) -> Iterator[tuple[int, list[Phrase]]]:
    """The strongest phrases of each cluster, strongest first; no two share a word.

    counts : of all texts, as ``count_phrases`` leaves them; texts : int64, shape (n_clusters,), of each cluster
    """
    names = counts.words.to_pylist()
    ends = [*np.flatnonzero(np.diff(counts.label, prepend=-1)).tolist(), len(counts)]
    for first, stop in pairwise(ends):
        label = int(counts.label[first])
        forms: dict[str, dict[str, int]] = defaultdict(dict)
        for term, count in zip(counts.term[first:stop].tolist(), counts.count[first:stop].tolist(), strict=True):
            key, _, written = names[term].partition(SPLIT)
            forms[key][written] = count
        yield label, _Cluster(forms, strong.of_cluster(label), int(texts[label])).phrases(n_terms)


class _Cluster:
    """The phrases of a cluster."""

    def __init__(self, forms: dict[str, dict[str, int]], each: dict[str, float], n_texts: int) -> None:
        """forms : of each key, how often it is written in which way; each : see ``StrongWords.of_cluster``"""
        self.forms, self.n_texts = forms, n_texts
        self.held = {key: sum(counts.values()) for key, counts in forms.items()}
        self.parts = {key: _parts(key, each) for key in self.held}
        # All texts with a phrase have its words, so the rarest word's weight is the least that it can have.
        self.weight = {
            key: self.held[key] / n_texts * max(each.get(part, 0.0) for part in parts)
            for key, parts in self.parts.items()
        }
        self.longer: dict[str, list[str]] = defaultdict(list)  # of a word, the phrases that have it
        for key, parts in self.parts.items():
            if len(parts) > 1 and self._is_significant(key):
                for part in dict.fromkeys(parts):
                    self.longer[part].append(key)

    def phrases(self, n_terms: int) -> list[Phrase]:
        found: list[Phrase] = []
        used: set[str] = set()
        for key in sorted(self.held, key=lambda key: (-self.weight[key], key)):
            if len(found) == n_terms:
                break
            if len(self.parts[key]) > 1 and key not in self.longer[self.parts[key][0]]:
                continue
            key = self._widest(key)
            if used.intersection(self.parts[key]) or not _is_name(key, self.parts[key]):
                continue
            used.update(self.parts[key])
            written = min(self.forms[key], key=lambda one: (-self.forms[key][one], one))
            found.append(Phrase(written, self.held[key] / self.n_texts, self.weight[key]))
        return found

    def _widest(self, key: str) -> str:
        """The longest phrase that most of the texts with a phrase have."""
        while wider := [one for one in self.longer[self.parts[key][0]]
                        if _is_within(key, one) and self.held[one] >= LONGER * self.held[key]]:  # fmt: skip
            key = max(wider, key=lambda one: (len(self.parts[one]), self.held[one], one))
        return key

    def _is_significant(self, key: str) -> bool:
        """Whether words are adjacent more often than by chance, by Student's t, or most texts have them so.

        Source: Manning and Schuetze (1999), Foundations of Statistical Natural Language Processing, 5.3.
        """
        held = [self.held.get(part, 0) for part in self.parts[key]]
        if self.held[key] < (2 if self.n_texts > 3 else 1):
            return False
        chance = held[0] * held[-1] / self.n_texts
        return self.held[key] >= LONGER * min(held) or (self.held[key] - chance) / self.held[key] ** 0.5 >= SIGNIFICANT


def _parts(key: str, each: dict[str, float]) -> list[str]:
    """The strong words of a phrase."""
    if " " not in key and key not in each:
        return [key[at : at + 2] for at in range(len(key) - 1)]
    return [part for part in key.split(" ") if part in each]


def _is_within(key: str, longer: str) -> bool:
    return key != longer and (f" {key} " in f" {longer} " if " " in longer or " " in key else key in longer)


def _is_name(key: str, parts: list[str]) -> bool:
    """Whether a phrase can stand alone. A run without spaces neither begins nor ends with a particle."""
    return has_letters(key) and key[0] not in PARTICLES and key[-1] not in PARTICLES | LINKS


def headline_words(phrases: Sequence[Phrase]) -> int:
    """How many words a large share of a cluster's texts has; of two of them, a headline may be the title."""
    return sum(phrase.written.count(" ") + 1 for phrase in phrases if phrase.share >= SHARED)


def phrase_table(found: Iterable[tuple[int, list[Phrase]]]) -> tuple[pa.Table, list[int]]:
    """The phrases of clusters as PHRASES, in their order; and the clusters of which a headline may be the title."""
    rows, told = [], []
    for label, phrases in found:
        rows += [(label, *phrase) for phrase in phrases]
        if headline_words(phrases) > 1:
            told.append(label)
    columns = zip(*rows, strict=True) if rows else [()] * len(PHRASES)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, PHRASES, strict=True)]
    return pa.table(arrays, schema=PHRASES), told


def first_phrases(phrases: pa.Table, parent: IntArray, texts: IntArray) -> pa.Table:
    """The first phrase of each cluster that lies in another, by that other cluster, largest first, as PHRASES.

    The share is that of the other cluster's texts. Phrases that few of a cluster's own texts have are left out.
    phrases : PHRASES, ascending by label; parent, texts : int64, shape (n_clusters,)
    """
    label, share = phrases["label"].to_numpy(), phrases["share"].to_numpy()
    first = np.flatnonzero(np.diff(label, prepend=-1))
    first = first[(parent[label[first]] >= 0) & (share[first] >= SHARED)]
    own = label[first]
    part = share[first] * texts[own] / texts[parent[own]]
    order = np.lexsort((own, -part, parent[own]))
    found = phrases.take(pa.array(first[order]))
    columns = {"label": pa.array(parent[own][order], pa.int32()), "share": pa.array(part[order])}
    return pa.table([columns.get(name, found[name]) for name in PHRASES.names], schema=PHRASES)


def phrases_by_label(label: NDArray[np.int32], phrases: pa.Table) -> list[list[Phrase]]:
    """The phrases of each cluster. label : as for ``lists_by_label``; phrases : PHRASES, ascending by label"""
    of = phrases["label"].to_numpy()
    columns = (lists_by_label(label, of, phrases[name]).to_pylist() for name in PHRASES.names[1:])
    return [list(map(Phrase, *held)) for held in zip(*columns, strict=True)]


def lists_by_label(label: NDArray[np.int32], labels: NDArray[np.int32], values: Any) -> pa.Array:
    """A list for each cluster.

    label : clusters, ascending; labels : of each value, ascending, none of them between two of ``label``
    """
    offsets = np.searchsorted(labels, np.append(label, label[-1] + 1) if label.size else [0])
    own = values.slice(offsets[0], offsets[-1] - offsets[0])
    own = own.combine_chunks() if isinstance(own, pa.ChunkedArray) else own
    return pa.LargeListArray.from_arrays(pa.array(offsets - offsets[0]), own)
