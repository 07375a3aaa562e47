"""Texts as bytes in; the set of word hashes of each text out, without the name of an outlet at its end."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from clustering.kernels.sort import sort_pairs

TAIL_WORDS, BODY_WORDS = 5, 3  # most words of an outlet at the end of a text, least words before it
FREQUENT_TAIL, FREQUENT_SHARE = 4, 1e-4  # texts that end in a tail before it counts as an outlet: at least, and of all
TAIL_BITS, WORD_BITS = 20, 22  # of the tables that count tails and words by their hashes
_WORD, _UNSPACED, _SPACE, _SEPARATOR, _OPENING = 1, 2, 3, 4, 5
_LAST = 0x20000  # code points from here on are ideographs
_UNSPACED_RANGES = ((0xE00, 0xEFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x3400, 0x4DBF),
                    (0x4E00, 0x9FFF), (0xF900, 0xFAFF))  # fmt: skip
_SEPARATORS = "|:~/\u00b7\u2022\u00bb\u203a\u00a6\u2502\uff5c"
Counts = NDArray[np.uint32]


class Words(NamedTuple):
    """The words of some texts, in the order of the text, with up to two tails that may be names of outlets.

    words : uint32, shape (n_words,), hashes; ends : int64, shape (n_texts + 1,)
    tails : int32, shape (n_texts, 2), words before the last and the next to last tail, -1 without one
    bytes : int32, likewise, the bytes of the text before it
    names : uint32, shape (n_texts, 2), hashes of the tails
    """

    words: Counts
    ends: NDArray[np.int64]
    tails: NDArray[np.int32]
    bytes: NDArray[np.int32]
    names: Counts


@lru_cache(1)
def _characters() -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """The kind and the lower case of each code point below _LAST."""
    kind, lower = np.zeros(_LAST, np.uint8), np.arange(_LAST, dtype=np.int32)
    for code in range(_LAST):
        letter = chr(code)
        category = unicodedata.category(letter)
        if category[0] in "LNM":
            kind[code] = _WORD
            small = letter.lower()
            lower[code] = ord(small) if len(small) == 1 else code
        elif letter.isspace():
            kind[code] = _SPACE
        elif category == "Pd" or letter in _SEPARATORS:
            kind[code] = _SEPARATOR
        elif category == "Ps":
            kind[code] = _OPENING
    for first, last in _UNSPACED_RANGES:
        own = kind[first : last + 1]
        own[own == _WORD] = _UNSPACED
    return kind, lower


def scan_words(data: NDArray[np.uint8], offsets: NDArray[Any]) -> Words:
    """Find the words of texts: runs of letters and digits in lower case; pairs of characters in scripts without spaces.

    Tags and entities of HTML and URLs have no words. A tail is what follows a dash, bar or colon between spaces, or an
    opening bracket, in at most TAIL_WORDS words.
    data, offsets : uint8 and int, shape (n_texts + 1,), the texts in UTF-8
    """
    n_texts = len(offsets) - 1
    words = np.empty(int(offsets[-1] - offsets[0]) // 2 + n_texts + 1, np.uint32)
    ends = np.zeros(n_texts + 1, np.int64)
    tails, names = np.full((n_texts, 2), -1, np.int32), np.zeros((n_texts, 2), np.uint32)
    before = np.zeros((n_texts, 2), np.int32)
    _scan(data, offsets, *_characters(), words, ends, tails, before, names)
    return Words(words[: ends[-1]].copy(), ends, tails, before, names)


@numba.njit(cache=True, nogil=True)
def _decode(data: Any, at: int) -> tuple[int, int]:
    """The code point at a position of UTF-8, and the position behind it."""
    byte = int(data[at])
    if byte < 0x80:
        return byte, at + 1
    if byte < 0xE0:
        return ((byte & 0x1F) << 6) | (int(data[at + 1]) & 0x3F), at + 2
    if byte < 0xF0:
        return ((byte & 0xF) << 12) | ((int(data[at + 1]) & 0x3F) << 6) | (int(data[at + 2]) & 0x3F), at + 3
    high = ((byte & 7) << 18) | ((int(data[at + 1]) & 0x3F) << 12)
    return high | ((int(data[at + 2]) & 0x3F) << 6) | (int(data[at + 3]) & 0x3F), at + 4


@numba.njit(cache=True, nogil=True)
def mix_word(bits: Any) -> Any:
    """A hash of 32 bits. Source: the finalizer of MurmurHash3, Appleby (2011)."""
    bits = ((bits ^ (bits >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    bits = ((bits ^ (bits >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    return bits ^ (bits >> 16)


@numba.njit(cache=True, nogil=True)
def _is_letter(byte: int) -> bool:
    return 97 <= (byte | 32) <= 122


@numba.njit(cache=True, nogil=True)
def _skipped(data: Any, at: int, stop: int, inside: bool) -> int:
    """The position behind a tag, an entity or a URL that begins here; the same position where none does.

    inside : whether a word goes on here, so that no URL begins
    """
    byte = data[at]
    if byte == 60 and at + 1 < stop and (_is_letter(data[at + 1]) or data[at + 1] == 47 or data[at + 1] == 33):
        for end in range(at + 1, min(stop, at + 500)):
            if data[end] == 62:
                return end + 1
            if data[end] == 60:
                break
    elif byte == 38:
        for end in range(at + 1, min(stop, at + 12)):
            if data[end] == 59:
                return end + 1 if end > at + 2 else at
            if not (_is_letter(data[end]) or 48 <= data[end] <= 57 or data[end] == 35):
                break
    elif (byte == 104 or byte == 72 or byte == 119 or byte == 87) and not inside and at + 8 < stop:
        end = at
        if byte | 32 == 104:  # http
            while end < stop and _is_letter(data[end]):
                end += 1
            known = end + 2 < stop and data[end] == 58 and data[end + 1] == 47 and data[end + 2] == 47
            known = known and end - at in (4, 5) and data[at + 1] | 32 == 116 and data[at + 3] | 32 == 112
        else:
            known = data[at + 1] | 32 == 119 and data[at + 2] | 32 == 119 and data[at + 3] == 46
        if known:
            while end < stop and 32 < data[end] < 127 and data[end] not in (34, 41, 60, 62, 93):
                end += 1
            return end
    return at


@numba.njit(cache=True, nogil=True)
def _scan(
    data: Any, offsets: Any, kind: Any, lower: Any, words: Any, ends: Any, tails: Any, bytes_: Any, names: Any
) -> None:  # pragma: no cover - compiled
    count = 0
    for text in range(offsets.size - 1):
        at, stop, first = offsets[text], offsets[text + 1], count
        before, last, inside, held = 3, 0, 0, 0  # kinds of character and word, and the hash or character of the word
        cut, earlier = -1, -1  # words before the last tail and the one before
        cut_at, earlier_at, mark = at, at, at  # and the places where their separators begin
        waiting = False  # a separator behind a space, which counts when a space follows
        while True:
            code, now, behind = 0, 0, at
            if at < stop:
                behind = _skipped(data, at, stop, inside == 1)
                if behind == at:
                    code, behind = _decode(data, at)
                    now = kind[code] if code < 0x20000 else 2
                else:
                    now = 3
            alone = inside == 2 and now != 2 and last == 1  # a character without a pair
            if alone or (inside == 1 and now != 1):
                words[count] = mix_word(held)
                count += 1
            if at >= stop:
                break
            if now == 1:
                if inside != 1:
                    held = 0x811C9DC5
                held = ((held ^ lower[code]) * 0x01000193) & 0xFFFFFFFF
            elif now == 2:
                last = last + 1 if inside == 2 else 1
                if last > 1:
                    words[count] = mix_word((held * 0x01000193 ^ code) & 0xFFFFFFFF)
                    count += 1
                held = code
            inside = now if now == 1 or now == 2 else 0
            if now == 5 or (waiting and now == 3):
                if count - first != cut:
                    earlier, cut = cut, count - first
                    earlier_at, cut_at = cut_at, at if now == 5 else mark
                waiting = False
            elif now == 4:
                if before == 3:
                    waiting, mark = True, at
            elif now != 3:
                waiting = False
            before, at = now, behind
        ends[text + 1] = count
        stop_word = count - first
        for number in range(2):
            if cut < BODY_WORDS or not 0 < stop_word - cut <= TAIL_WORDS:
                break
            name = 0x811C9DC5
            for word in range(first + cut, first + stop_word):
                name = ((name ^ words[word]) * 0x01000193) & 0xFFFFFFFF
            tails[text, number], names[text, number] = cut, mix_word(name)
            bytes_[text, number] = cut_at - offsets[text]
            stop_word, cut, cut_at = cut, earlier, earlier_at


def count_tails(found: Words) -> Counts:
    """How many texts end in each tail: uint32, shape (2^TAIL_BITS,), by the first bits of its hash."""
    own = found.names[found.tails >= 0] >> np.uint32(32 - TAIL_BITS)
    return np.bincount(own, minlength=1 << TAIL_BITS).astype(np.uint32)


def outlets(tails: Counts, n_texts: int) -> NDArray[np.bool_]:
    """Which tails are frequent enough for the name of an outlet. tails : of ``count_tails``; both of all texts"""
    return tails >= max(FREQUENT_TAIL, int(FREQUENT_SHARE * n_texts))


def tails_off(found: Words, named: NDArray[np.bool_]) -> NDArray[np.int32]:
    """How many tails of each text are names of outlets: 0 to 2, int32, shape (n_texts,). named : of ``outlets``"""
    last, earlier = ((found.tails >= 0) & named[found.names >> np.uint32(32 - TAIL_BITS)]).T
    return np.asarray(last.astype(np.int32) + (last & earlier), np.int32)


def body_bytes(found: Words, off: NDArray[np.int32]) -> NDArray[np.int32]:
    """The bytes of each text before the names of outlets, -1 where it has none: int32, shape (n_texts,)."""
    bytes_ = np.full(len(off), -1, np.int32)
    texts = np.flatnonzero(off)
    bytes_[texts] = found.bytes[texts, off[texts] - 1]
    return bytes_


def word_sets(found: Words, off: NDArray[np.int32]) -> tuple[Counts, NDArray[np.int64]]:
    """The words of each text once, ascending, without the names of outlets.

    off : of ``tails_off``
    Returns: uint32, shape (n_words,), and int64, shape (n_texts + 1,), where each set ends.
    """
    stops, texts = found.ends[1:].copy(), np.flatnonzero(off)
    stops[texts] = found.ends[texts] + found.tails[texts, off[texts] - 1]
    ends, words = np.zeros(len(found.ends), np.int64), found.words.copy()
    _distinct(words, found.ends[:-1], stops, ends)
    return words[: ends[-1]].copy(), ends


@numba.njit(cache=True, nogil=True)
def _distinct(words: Any, starts: Any, stops: Any, ends: Any) -> None:
    count = 0
    for text in range(starts.size):
        own = words[starts[text] : stops[text]]
        sort_pairs(own, own)
        for at in range(own.size):
            if at == 0 or own[at] != own[at - 1]:
                words[count] = own[at]  # never beyond what is read
                count += 1
        ends[text + 1] = count


def count_words(words: Counts) -> Counts:
    """How many sets have each word: uint32, shape (2^WORD_BITS,), by the first bits of its hash."""
    return np.bincount(words >> np.uint32(32 - WORD_BITS), minlength=1 << WORD_BITS).astype(np.uint32)


def order_by_rarity(words: Counts, ends: NDArray[np.int64], frequency: Counts) -> NDArray[np.uint64]:
    """The sets with the rarest words first: uint64, shape (n_words,), the frequency before the hash of each word.

    frequency : of ``count_words``, of all texts
    """
    found: NDArray[np.uint64] = np.left_shift(frequency[words >> np.uint32(32 - WORD_BITS)], 32, dtype=np.uint64)
    found |= words
    _sort_sets(found, ends)
    return found


@numba.njit(cache=True, nogil=True)
def _sort_sets(words: Any, ends: Any) -> None:
    for text in range(ends.size - 1):
        own = words[ends[text] : ends[text + 1]]
        sort_pairs(own, own)
