"""Sets of words in; pairs of texts whose sets agree, and a leader for each family of such texts, out.

Two texts are near-duplicates when their sets are equal and have two words at least, or when Jaccard's index of the sets
is at least AGREEMENT and they share two rare words. A set is ordered by rarity, so two such texts share two words among
the first few of each (prefix filtering: Bayardo, Ma and Srikant 2007; Xiao, Wang, Lin and Yu 2008). Each pair of rare
words among the first few is a key, and so is the whole set. Texts that share a key are compared::

    ordered sets -> keys of each text -> texts that share a key -> pairs that agree -> leaders
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from clustering.kernels.graph.diffusion import mix_bits
from clustering.kernels.sort import sort_pairs

IntArray = NDArray[np.int64]
Keys = NDArray[np.uint64]
AGREEMENT = (3, 5)  # Jaccard's index, as a fraction
RARE_SHARE, RARE_TEXTS = 0.02, 10  # a word is rare in so few texts: a share of all, or in any case so many
FIRST_WORDS = 10  # of a set, whose pairs are keys; the filter is exact for sets of up to 20 words
COMPARED = 256  # texts of a key that the others are compared with: those that come first as leaders


class Sets(NamedTuple):
    """Sets of words of some texts, the rarest word first.

    words : uint64, shape (n_words,), how many texts have the word, before its hash
    ends : int64, shape (n_texts + 1,); copies : int32, shape (n_texts,), records of each text
    """

    words: Keys
    ends: IntArray
    copies: NDArray[np.int32]


def take_sets(sets: Sets, texts: NDArray[np.int32]) -> Sets:
    """The sets of some texts. texts : int32, positions, shape (n_taken,)"""
    sizes = sets.ends[texts + 1] - sets.ends[texts]
    ends = np.append(0, np.cumsum(sizes))
    at = np.arange(ends[-1]) + np.repeat(sets.ends[texts] - ends[:-1], sizes)
    return Sets(sets.words[at], ends, sets.copies[texts])


def join_sets(parts: list[Sets]) -> Sets:
    """The sets of several, one after the other."""
    first = np.cumsum([0, *(part.ends[-1] for part in parts[:-1])])
    ends = [part.ends[1:] + base for part, base in zip(parts, first, strict=True)]
    words, copies = (np.concatenate([getattr(part, name) for part in parts]) for name in ("words", "copies"))
    return Sets(words, np.concatenate([parts[0].ends[:1], *ends]), copies)


def rare_bound(n_texts: int) -> int:
    """The most texts that have a rare word. n_texts : of all"""
    return max(RARE_TEXTS, int(RARE_SHARE * n_texts))


def make_keys(sets: Sets, rarest: int, n_pieces: int = 1) -> list[tuple[Keys, NDArray[np.int32]]]:
    """The keys of each text: uint64 and int32, shape (n_keys,), each with the position of its text, ascending.

    rarest : of ``rare_bound``
    Returns: the keys in each of so many ranges.
    """
    counts = np.zeros(n_pieces + 1, np.int64)
    _make_keys(sets.words, sets.ends, rarest, counts[1:], np.empty(0, np.uint64), np.empty(0, np.int32))
    bounds = np.cumsum(counts)
    keys, texts = np.empty(bounds[-1], np.uint64), np.empty(bounds[-1], np.int32)
    _make_keys(sets.words, sets.ends, rarest, bounds[:-1].copy(), keys, texts)
    return list(zip(np.split(keys, bounds[1:-1]), np.split(texts, bounds[1:-1]), strict=True))


@numba.njit(cache=True, nogil=True)
def _first_words(words: Any, start: int, stop: int, rarest: int) -> int:
    """How many of the first words of a set count: those that another set that agrees can have, and that are rare."""
    size = stop - start
    first = min(size - -(-3 * size // 5) + 2, size, FIRST_WORDS)
    while first and words[start + first - 1] >> np.uint64(32) > np.uint64(rarest):
        first -= 1
    return first


@numba.njit(cache=True, nogil=True)
def _make_keys(words: Any, ends: Any, rarest: int, at: Any, keys: Any, texts: Any) -> None:
    """Write the keys where those of their pieces go on, or only count them. at : of each piece, the next place"""
    for text in range(ends.size - 1):
        start, stop = ends[text], ends[text + 1]
        if stop < start + 2:
            continue
        first = _first_words(words, start, stop, rarest)
        whole = np.uint64(1)  # so that the key of a set of two words is not that of its pair
        for one in range(start, stop):
            whole = mix_bits(whole ^ words[one])
        _write_key(whole, text, at, keys, texts)
        for one in range(start, start + first):
            of_one = mix_bits(words[one])
            for other in range(one + 1, start + first):
                _write_key(mix_bits(of_one ^ words[other]), text, at, keys, texts)


@numba.njit(cache=True, nogil=True)
def _write_key(key: Any, text: int, at: Any, keys: Any, texts: Any) -> None:
    piece = (key >> np.uint64(32)) * np.uint64(at.size) >> np.uint64(32)
    if keys.size:
        keys[at[piece]] = key
        texts[at[piece]] = text
    at[piece] += 1


def shared_keys(keys: Keys, texts: NDArray[Any]) -> tuple[NDArray[Any], IntArray]:
    """The texts of each key that several texts have.

    keys, texts : shape (n_keys,), each with the number of a text, ascending
    Returns: numbers of texts, ascending within a key; int64, shape (n_shared + 1,), where the texts of each key end.
    """
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])) if keys.size else np.empty(0, np.int64)
    sizes = np.diff(np.append(starts, keys.size))
    shared = np.repeat(sizes > 1, sizes)
    return texts[order[shared]], np.append(0, np.cumsum(sizes[sizes > 1]))


def agreeing_pairs(members: IntArray, ends: IntArray, sets: Sets, rarest: int) -> NDArray[np.int32]:
    """The near-duplicates among the texts of each key, the one with more copies first, and then the earlier one.

    Of a key of more than COMPARED texts, each is compared with so many that come first.
    members, ends : int, positions in ``sets`` of the texts of each key, ascending, and where a key's texts end
    Returns: int32, shape (n_pairs, 2), positions in ``sets``, each pair once, ascending.
    """
    packed = _agreeing(members, ends, sets.words, sets.ends, sets.copies, rarest)
    packed = np.unique(packed)
    return np.stack([packed >> 32, packed & 0xFFFFFFFF], axis=1).astype(np.int32)


@numba.njit(cache=True, nogil=True)
def _agreeing(members: Any, ends: Any, words: Any, bounds: Any, copies: Any, rarest: int) -> Any:
    found = np.empty(1024, np.int64)
    count = 0
    for key in range(ends.size - 1):
        own = members[ends[key] : ends[key + 1]].copy()
        fewer = -copies[own].astype(np.int64)
        sort_pairs(fewer, own)
        for later in range(1, own.size):
            other = own[later]
            for place in range(min(later, COMPARED)):
                one = own[place]
                if one == other:  # two keys of a text with one hash
                    continue
                if sets_agree(words, bounds[one], bounds[one + 1], bounds[other], bounds[other + 1], rarest):
                    if count == found.size:
                        found = np.append(found, np.empty(count, np.int64))
                    found[count] = np.int64(one) << 32 | np.int64(other)
                    count += 1
    return found[:count]


@numba.njit(cache=True, nogil=True)
def sets_agree(words: Any, at: int, stop: int, other: int, other_stop: int, rarest: int) -> bool:
    """Whether two sets of at least two words make near-duplicates. at, stop, other, other_stop : places in ``words``"""
    size, other_size = stop - at, other_stop - other
    if 5 * min(size, other_size) < 3 * max(size, other_size):
        return False
    shared = rare = 0
    while at < stop and other < other_stop:
        if words[at] == words[other]:
            shared += 1
            rare += words[at] >> np.uint64(32) <= np.uint64(rarest)
            at += 1
            other += 1
        elif words[at] < words[other]:
            at += 1
        else:
            other += 1
    union = size + other_size - shared
    return shared == union or (rare >= 2 and 5 * shared >= 3 * union)


def find_leaders(pairs: NDArray[Any], copies: NDArray[np.int32]) -> NDArray[Any]:
    """The leader of each text's family, which is a near-duplicate of it: the text itself where it leads or is alone.

    Texts come in the order of their copies, most first, and then of their numbers. One that has no leader when it comes
    leads all its near-duplicates that have none yet.
    pairs : int, shape (n_pairs, 2), numbers of texts, the one that comes first at the left; copies : of each text
    Returns: the dtype of ``pairs``, shape (n_texts,)
    """
    leader = np.arange(len(copies), dtype=pairs.dtype)
    order = np.lexsort((pairs[:, 1], pairs[:, 0], -copies[pairs[:, 0]]))
    _lead(pairs, order, leader)
    return leader


@numba.njit(cache=True, nogil=True)
def _lead(pairs: Any, order: Any, leader: Any) -> None:
    for at in order:
        one, other = pairs[at, 0], pairs[at, 1]
        if leader[one] == one and leader[other] == other:
            leader[other] = one
