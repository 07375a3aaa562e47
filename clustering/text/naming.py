"""Phrases and telling texts of clusters in, a title for each cluster out: a headline, or its strongest phrases."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import combinations

from clustering.kernels.printable import one_line
from clustering.text.phrases import SHARED, Phrase, headline_words
from clustering.text.words import normalized, same_word, split_words

TITLE_CHARACTERS = 80
TITLE_PHRASES = 3
JOINT = " · "
MIXED = "Mixed: "  # before the phrases of a cluster that has nothing in common
SPREAD = 0.1  # share of the texts that a cluster's first phrases reach if they say what it is about
APART = 0.25  # share of the texts that the names of a cluster's parts tell of beyond its own, from which they are taken
WEAK = 0.2  # weight of a phrase, as a share of the first one's, from which on it is in the title
_ENDS = re.compile(r"\s+(?:[|–—-]+|::)\s+")  # of the pieces of a headline, one of which may be the outlet
_BRACKETS = re.compile(r"\s*[(\[【（][^()\[\]【】（）]{1,40}[)\]】）]\s*$")
LONGEST_REMARK = 44  # characters that it matches, where spaces are single
_CUT_OFF = re.compile(r"\s*(?:\.\.\.|…)\s*$")
_QUESTIONS = ("?", "？", "…")
_WORD_ENDS = " ,;:，、。；：,"


class Unique:
    """Gives titles to clusters, of which no two in a layer are equal."""

    def __init__(self) -> None:
        self.used: dict[int, set[str]] = defaultdict(set)  # of each layer
        self.numbers: dict[tuple[Sequence[int], str], int] = {}  # below which a title is taken in some layers

    def take(self, layers: Sequence[int], titles: Iterable[str]) -> str:
        """The first title that no cluster in these layers has; numbered where all are taken."""
        last = ""
        for title in titles:
            last = last or title
            if title and self._is_free(layers, title):
                break
        else:
            cut = last[: TITLE_CHARACTERS - 8]
            key = tuple(layers), cut.casefold()
            number = self.numbers.get(key, 2)
            while not self._is_free(layers, title := f"{cut} ({number})".lstrip()):
                number += 1
            self.numbers[key] = number + 1
        for layer in layers:
            self.used[layer].add(title.casefold())
        return title

    def _is_free(self, layers: Sequence[int], title: str) -> bool:
        return not any(title.casefold() in self.used[layer] for layer in layers)


def titles_of(headline: str, phrases: Sequence[Phrase], texts: Sequence[str], below: Sequence[Phrase]) -> Iterator[str]:
    """Titles for a cluster, the best one first.

    The names of its parts come first where they tell of many more of its texts than its headline: it is several
    stories.
    headline : of ``find_headline``
    phrases : strongest first; texts : the most telling ones, likewise
    below : the first phrases of the clusters within it, their shares those of this cluster's texts, largest first
    """
    parts = _joinable(below, TITLE_PHRASES)
    if len(parts) > 1 and sum(phrase.share for phrase in parts) >= APART + _told(headline, phrases):
        yield _join(parts)
    yield headline
    prefix = ""
    if max((phrase.share for phrase in phrases), default=0.0) < SPREAD:
        prefix = MIXED if sum(phrase.share for phrase in below[:TITLE_PHRASES]) < SHARED else ""
        phrases = [*below, *phrases]
    else:
        strong = [phrase for phrase in phrases if phrase.weight >= WEAK * phrases[0].weight]
        yield join_phrases(strong, TITLE_PHRASES)
    for most in range(TITLE_PHRASES, len(phrases) + 1):
        if line := join_phrases(phrases, most):
            yield prefix + line
    yield join_phrases(phrases, 1)
    short = [one_line(text, TITLE_CHARACTERS) for text in texts]
    yield from [line for line in short if not has_two_forms(line)] or short[:1]


def find_headline(phrases: Sequence[Phrase], texts: Sequence[str]) -> str:
    """The first text with two of the words that a large share of a cluster's texts has, rather than a question.

    "" where there are no two such words, or no text has them.
    """
    if headline_words(phrases) < 2:
        return ""
    question = ""
    for text in texts:
        line = shorten(text, phrases)
        if _shared_words(line, phrases) < 2 or has_two_forms(line):
            continue
        if not line.endswith(_QUESTIONS):
            return line
        question = question or line
    return question


def join_phrases(phrases: Sequence[Phrase], most: int) -> str:
    """The first phrases in a line, without two forms of one word."""
    return _join(_joinable(phrases, most))


def _joinable(phrases: Sequence[Phrase], most: int) -> list[Phrase]:
    found: list[Phrase] = []
    for phrase in phrases:
        line = _join([*found, phrase])
        if len(found) < most and len(line) <= TITLE_CHARACTERS - len(MIXED) and not has_two_forms(line):
            found.append(phrase)
    return found


def _join(phrases: Sequence[Phrase]) -> str:
    return JOINT.join(one_line(phrase.written) for phrase in phrases)


def _told(headline: str, phrases: Sequence[Phrase]) -> float:
    """The share of a cluster's texts that have the most frequent phrase of its headline; of all where it has none."""
    own = [phrase for phrase in phrases if _shared_words(headline, [phrase])]
    return max((phrase.share for phrase in (own if headline else phrases)), default=0.0)


def has_two_forms(title: str) -> bool:
    """Whether two words of a title look like forms of one word; in one of phrases, also a word and its beginning.

    Two phrases without spaces may not share two characters.
    """
    of_phrases, (words, pairs) = JOINT in title, _split(title)
    if of_phrases and len(set(pairs)) < len(pairs):
        return True
    # Two letters may begin anything; two Chinese characters are a word.
    ordered = sorted((word.lower() for word in words if len(word) > 2 - (not word.isascii())), key=len)
    return any(same_word(*two) or (of_phrases and two[1].startswith(two[0])) for two in combinations(ordered, 2))


@lru_cache(1024)
def _split(line: str) -> tuple[list[str], list[str]]:
    """The words of a line; and the pairs of characters of its runs without spaces."""
    line = normalized(line)
    words = split_words(line, frozenset(), None)
    return [line[word.start : word.stop] for word in words if not word.pair], [word.key for word in words if word.pair]


def _shared_words(line: str, phrases: Sequence[Phrase]) -> int:
    """How many of the words that a large share of a cluster's texts has are in a line."""
    words, pairs = _split(line)
    inside = f" {' '.join(words)} ".casefold()

    def is_in(phrase: Phrase) -> bool:
        own, own_pairs = _split(phrase.written)
        return f" {' '.join(own)} ".casefold() in inside and set(own_pairs) <= set(pairs)

    return headline_words([phrase for phrase in phrases if phrase.share >= SHARED and is_in(phrase)])


def shorten(text: str, phrases: Sequence[Phrase]) -> str:
    """A headline on a line, without the outlet, and without remarks in brackets that say nothing of the cluster."""
    words = {word.casefold() for phrase in phrases for word in phrase.written.split()}

    def tells(piece: str) -> bool:
        return any(word in piece.casefold() for word in words)

    line = _CUT_OFF.sub("…", " ".join(one_line(text).split()))
    end = len(line)
    while (brackets := _BRACKETS.search(line, max(end - LONGEST_REMARK, 0), end)) and not tells(brackets[0]):
        end = brackets.start()
    line = line[:end]
    pieces, at = [], 0
    for match in _ENDS.finditer(line):
        pieces.append((at, match.start()))
        at = match.end()
    telling = [piece for piece in [*pieces, (at, len(line))] if tells(line[slice(*piece)])]
    if telling:
        line = line[telling[0][0] : telling[-1][1]]
    line = line.strip().rstrip(".:;,，。").strip()
    if len(line) > TITLE_CHARACTERS:
        cut = max((line.rfind(end, TITLE_CHARACTERS // 2, TITLE_CHARACTERS) for end in _WORD_ENDS), default=-1)
        line = line[: cut if cut > 0 else TITLE_CHARACTERS - 1].rstrip(_WORD_ENDS + "-–") + "…"
    return line
