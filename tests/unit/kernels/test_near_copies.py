"""kernels/near_copies.py: near-duplicates and their leaders against all pairs."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from clustering.kernels.words import near_copies
from clustering.kernels.words.near_copies import Sets, find_leaders
from tests import oracles

texts_of = st.lists(st.frozensets(st.integers(0, 14), max_size=9), max_size=14)
CopiesList = st.lists(st.integers(1, 3), min_size=14, max_size=14)


def as_sets(sets: list[frozenset[int]], copies: list[int]) -> Sets:
    """The sets with the rarest word first; a word's hash is its number."""
    counts = oracles.word_counts(sets)
    words = [sorted(counts[word] << 32 | word for word in one) for one in sets]
    ends = np.cumsum([0, *map(len, words)]).astype(np.int64)
    return Sets(np.array([word for one in words for word in one], np.uint64), ends, np.array(copies, np.int32))


def pairs_of(sets: Sets, rarest: int) -> NDArray[np.int32]:
    members, ends = near_copies.shared_keys(*near_copies.make_keys(sets, rarest)[0])
    return near_copies.agreeing_pairs(members, ends, sets, rarest)


@given(texts_of, CopiesList, st.integers(1, 6))
def test_pairs_are_those_of_all_pairs(sets: list[frozenset[int]], copies: list[int], rarest: int) -> None:
    found = pairs_of(as_sets(sets, copies[: len(sets)]), rarest)
    assert {frozenset(pair) for pair in found.tolist()} == oracles.near_duplicates(sets, rarest)
    assert len(np.unique(found, axis=0)) == len(found)
    for one, other in found.tolist():
        assert (-copies[one], one) < (-copies[other], other)


@given(texts_of, CopiesList, st.integers(1, 6))
def test_leaders_are_those_of_the_slow_reference(sets: list[frozenset[int]], copies: list[int], rarest: int) -> None:
    own = copies[: len(sets)]
    leader = find_leaders(pairs_of(as_sets(sets, own), rarest).astype(np.int64), np.array(own, np.int32))
    assert leader.tolist() == oracles.family_leaders(sets, own, rarest)


def test_a_chain_does_not_run_away() -> None:
    """Each set shares four of six words with the next; the ends share none."""
    sets = [frozenset(range(at, at + 8)) for at in range(0, 20, 2)]
    leader = find_leaders(pairs_of(as_sets(sets, [1] * 10), 10).astype(np.int64), np.ones(10, np.int32))
    assert leader.tolist() == [0, 0, 2, 2, 4, 4, 6, 6, 8, 8]


def test_the_text_with_most_copies_leads_and_then_the_earliest() -> None:
    sets = [frozenset(range(8)) - {at} for at in range(3)]
    for copies, expected in (([1, 1, 1], 0), ([1, 3, 2], 1), ([1, 2, 2], 1)):
        found = find_leaders(pairs_of(as_sets(sets, copies), 10).astype(np.int64), np.array(copies, np.int32))
        assert found.tolist() == [expected] * 3


def test_common_words_alone_make_no_near_duplicates_but_equal_sets_do() -> None:
    many = [frozenset([1, 2, 3, 4, 5 + at]) for at in range(20)]
    assert len(pairs_of(as_sets(many, [1] * 20), 19)) == 0
    assert len(pairs_of(as_sets(many, [1] * 20), 20)) == 190
    assert pairs_of(as_sets([*many, many[3]], [1] * 21), 10).tolist() == [[3, 20]]


def test_large_families_cost_what_their_size_does() -> None:
    """Of 3,000 texts with the same two rare words, each is compared with the first ones only, and follows the first."""
    sets = [frozenset([*range(6), 10 + at]) for at in range(3000)]
    found = pairs_of(as_sets(sets, [1] * 3000), 3000)
    assert len(found) <= 3000 * near_copies.COMPARED
    assert set(find_leaders(found.astype(np.int64), np.ones(3000, np.int32)).tolist()) == {0}


def test_keys_are_cut_by_their_range() -> None:
    sets = as_sets([frozenset(range(at, at + 6)) for at in range(30)], [1] * 30)
    ((keys, texts),) = near_copies.make_keys(sets, 30)
    cut = near_copies.make_keys(sets, 30, 4)
    assert len(cut) == 4
    assert sorted(zip(keys, texts, strict=True)) == sorted(pair for own in cut for pair in zip(*own, strict=True))
    for number, (own, of) in enumerate(cut):
        assert (own >> np.uint64(62) == number).all()
        assert (np.diff(of) >= 0).all()


def test_sets_are_taken_and_joined() -> None:
    sets = as_sets([frozenset([1, 2]), frozenset(), frozenset([3]), frozenset([2, 4, 5])], [1, 2, 3, 4])
    taken = [near_copies.take_sets(sets, np.array(rows, np.int32)) for rows in ([3, 1], [], [0])]
    joined = near_copies.join_sets(taken)
    assert joined.copies.tolist() == [4, 2, 1]
    assert joined.ends.tolist() == [0, 3, 3, 5]
    assert joined.words.tolist() == [*sets.words[3:], *sets.words[:2]]
