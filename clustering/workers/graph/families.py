"""Texts of some groups in; the leader of each text's family, in parallel, out.

A piece is the keys in one range, so that all texts that share a key meet there::

    scan group  -> words of its texts, and how many end in each tail
    sets group  -> word sets without names of outlets, and how many have each word
    keys group  -> keys of its texts, by piece
    share piece -> the texts of each key that several have; by group, those whose sets are needed
    send both   -> the sets of these texts
    pair piece  -> the near-duplicates
    lead        -> the leader of each text, its row and its records

Only the rows, 13 bytes a text, and the pairs are ever in one process as a whole.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clustering.kernels.words import near_copies, word_sets
from clustering.kernels.words.near_copies import IntArray, Sets
from clustering.workers.tasks import Starter, collect

PIECES = 16  # at least, so that only a part of the keys is sorted at a time
Measured = tuple[Any, Any]  # the value of a task, with its usage


class Families(NamedTuple):
    """What becomes of each text: arrays of shape (n_texts,), in the order of first appearance."""

    row: NDArray[Any]  # of its leader, among the leaders
    leads: NDArray[np.bool_]
    records: NDArray[np.int32]  # of the family that it leads


def scan_texts(texts: list[pa.Array], copies: NDArray[np.int32]) -> list[Any]:
    """The number of some texts, their words, how many end in each tail, and their copies."""
    found = [word_sets.scan_words(*text_buffers(one)) for one in texts]
    ends = np.cumsum([0, *(len(one.words) for one in found)])
    joined = word_sets.Words(
        np.concatenate([one.words for one in found]),
        np.concatenate([found[0].ends[:1], *(one.ends[1:] + end for one, end in zip(found, ends, strict=False))]),
        *(np.concatenate([one[field] for one in found]) for field in (2, 3, 4)),
    )
    return [len(copies), joined, word_sets.count_tails(joined), copies]


def text_buffers(texts: pa.Array) -> tuple[NDArray[np.uint8], IntArray]:
    """The bytes of some texts, and where each begins and the last one ends."""
    _, offsets, data = texts.buffers()
    bounds = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1] if offsets else [0]
    return np.frombuffer(data or b"\0", np.uint8), np.asarray(bounds, np.int64)


def find_families(start: Starter, scans: list[list[Any]]) -> tuple[list[Any], Any, Any, Any]:
    """Find the families of the texts of some groups.

    scans : of each group what ``scan_texts`` returns, as tasks or in this process
    Returns, as tasks or in this process: of each group the bytes of its texts before names of outlets; which tails are
        names; ``Families``; their figures.
    """
    n, n_pieces = len(scans), max(len(scans), PIECES)
    counts, words, tails, copies = (list(one) for one in zip(*scans, strict=True))
    scans.clear()  # what is not needed any more is freed
    named, sizes = start(2, _name_outlets, n, *counts, *tails)
    sets = [start(3, _make_sets, own, named) for own in words]
    del words, tails
    (frequency,) = start(1, _add_up, *(one[1] for one in sets))
    cuts = [one[2] for one in sets]
    keyed = [
        start(1 + n_pieces, _cut_keys, n_pieces, sizes, one[0], own, frequency)
        for one, own in zip(sets, copies, strict=True)
    ]
    del sets, frequency
    pairs = []
    for piece in range(n_pieces):
        shared = start(1 + n, _share_keys, sizes, *(one[1 + piece] for one in keyed))
        sent = [start(1, _send_sets, one[0], of)[0] for one, of in zip(keyed, shared[1:], strict=True)]
        pairs += start(1, _find_pairs, sizes, *shared, *sent)
    del keyed, shared, sent
    families, figures = start(2, _lead, n, *copies, *pairs)
    return cuts, named, families, figures


def _name_outlets(n: int, *given: Measured) -> list[Any]:
    """Which tails are names of outlets, and the texts of each group."""
    values = [collect(one) for one in given]
    sizes = np.array(values[:n], np.int64)
    return [word_sets.outlets(_sum(values[n:]), int(sizes.sum())), sizes]


def _sum(tables: list[NDArray[np.uint32]]) -> NDArray[np.uint32]:
    total = tables[0].copy()
    for table in tables[1:]:
        total += table
    return total


def _make_sets(words: Measured, named: Measured) -> list[Any]:
    """The word sets of a group, how many have each word, and the bytes of each text before names of outlets, or -1."""
    found: word_sets.Words = collect(words)
    off = word_sets.tails_off(found, named[0])
    own, ends = word_sets.word_sets(found, off)
    return [(own, ends), word_sets.count_words(own), word_sets.body_bytes(found, off)]


def _add_up(*counts: Measured) -> list[Any]:
    return [_sum([collect(one) for one in counts])]


def _cut_keys(n_pieces: int, sizes: Measured, sets: Measured, copies: Measured, frequency: Measured) -> list[Any]:
    """The sets of a group, the rarest words first, and for each piece its keys with the texts that have them."""
    words, ends = collect(sets)
    ordered = Sets(word_sets.order_by_rarity(words, ends, frequency[0]), ends, copies[0])
    rarest = near_copies.rare_bound(int(sizes[0].sum()))
    return [ordered, *near_copies.make_keys(ordered, rarest, n_pieces)]


def _share_keys(sizes: Measured, *cuts: Measured) -> list[Any]:
    """The texts of each key of a piece that several have, by their place among those; for each group, which it has."""
    found = [collect(cut) for cut in cuts]
    first = np.cumsum([0, *sizes[0][:-1]])
    keys = np.concatenate([own for own, _ in found])
    texts = np.concatenate([of + base for (_, of), base in zip(found, first, strict=True)])
    del found
    members, ends = near_copies.shared_keys(keys, texts)
    needed, places = np.unique(members, return_inverse=True)
    bounds = np.searchsorted(needed, first[1:])
    own = [(of - base).astype(np.int32) for of, base in zip(np.split(needed, bounds), first, strict=True)]
    return [(places.reshape(-1).astype(np.int32), ends), *own]


def _send_sets(sets: Measured, needed: Measured) -> list[Any]:
    """The sets of those texts of a group that a piece needs."""
    return [near_copies.take_sets(sets[0], needed[0])]


def _find_pairs(sizes: Measured, shared: Measured, *given: Measured) -> list[Any]:
    """The near-duplicates of a piece: numbers of texts, shape (n_pairs, 2), the one that comes first at the left.

    given : of each group which of its texts are needed, and then their sets
    """
    n = len(given) // 2
    members, ends = collect(shared)
    sets = near_copies.join_sets([collect(one) for one in given[n:]])
    first = np.cumsum([0, *sizes[0][:-1]])
    numbers = np.concatenate([one[0].astype(np.int64) + base for one, base in zip(given[:n], first, strict=True)])
    rarest = near_copies.rare_bound(int(sizes[0].sum()))
    return [numbers[near_copies.agreeing_pairs(members, ends, sets, rarest)]]


def _lead(n: int, *given: Measured) -> list[Any]:
    """``Families``, and figures. given : of each group its copies, then of each piece its pairs"""
    copies = np.concatenate([one[0] for one in given[:n]])
    pairs = np.concatenate([collect(one) for one in given[n:]])
    leader = near_copies.find_leaders(pairs, copies)
    leads = leader == np.arange(len(leader))
    row = (np.cumsum(leads) - 1)[leader]
    sizes = np.bincount(row)
    records = np.zeros(len(copies), np.int32)
    records[leads] = np.bincount(row, weights=copies).astype(np.int32)
    figures = {
        "texts": int(leads.sum()),
        "near_duplicates": int(len(leads) - leads.sum()),
        "families": int((sizes > 1).sum()),
        "largest_copies": int(records.max(initial=0)),
    }
    return [Families(row, leads, records), figures]
