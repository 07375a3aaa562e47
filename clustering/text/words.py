"""A text in; its words with their place, and the key that the inflections of a word share, out."""

from __future__ import annotations

import importlib.util
import itertools
import re
import unicodedata
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from typing import Any, NamedTuple

from clustering.text.cleaning import unicode_form

# Scripts that put no spaces between words; without a segmenter their runs are cut into pairs of characters.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_MARKS = "".join(chr(c) for c in range(0x300, 0x10000) if unicodedata.category(chr(c)) in ("Mn", "Mc"))
_LETTER = rf"[^\W_{_UNSPACED}](?:(?![{_UNSPACED}])[{_MARKS}])*"
_WORD = re.compile(rf"[{_UNSPACED}]+|(?:{_LETTER})+(?:['’\-.&](?:{_LETTER})+)*")
_ASCII_WORD = re.compile(r"[A-Za-z0-9]+(?:['\-.&][A-Za-z0-9]+)*")  # the same of ASCII, faster
_UNSPACED_RUN = re.compile(rf"[{_UNSPACED}]")
_KANA, _HAN = re.compile("[\u3040-\u30ff]"), re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
FIRST_UNSPACED = "\u0e00"
LONGEST_WORD = 50  # characters; longer ones are URLs, keys or noise
SHORT = 3  # characters of an abbreviation whose point ends no sentence
SEGMENTED = 1000  # characters at once: jieba's time grows with the square of a run of characters that it does not know
KEPT_WORDS = 1 << 17  # whose keys a process remembers
# Two words look like forms of one where they begin alike for at least so many characters, and this share of the longer.
PART, ALIKE = 4, 0.6
# Snowball's stemmers by language.
STEMMERS = {
    "ar": "arabic", "ca": "catalan", "cs": "czech", "da": "danish", "de": "german", "el": "greek", "en": "english",
    "eo": "esperanto", "es": "spanish", "et": "estonian", "eu": "basque", "fi": "finnish", "fr": "french",
    "ga": "irish", "hi": "hindi", "hu": "hungarian", "hy": "armenian", "id": "indonesian", "it": "italian",
    "lt": "lithuanian", "nl": "dutch", "no": "norwegian", "pl": "polish", "pt": "portuguese",
    "ro": "romanian", "ru": "russian", "sr": "serbian", "sv": "swedish", "ta": "tamil", "tr": "turkish",
}  # fmt: skip


class Word(NamedTuple):
    """A word of a text."""

    key: str  # the stem in lower case; "" for a word that is no term
    start: int  # in the normalized text
    stop: int
    follows: bool  # only spaces, or nothing, lie between it and the word before
    pair: bool  # two characters of a run without spaces, which the next pair overlaps


def normalized(text: str) -> str:
    """The text whose places the words have."""
    return unicode_form(text, "NFKC")


def split_words(text: str, ignored: frozenset[str], language: str | None) -> list[Word]:
    """The words of a normalized text; stop words, single letters and what is too long have no key.

    Chinese, Japanese, Thai, Lao, Burmese and Khmer put no spaces between words. Chinese and Japanese are cut by jieba
    and fugashi where they are installed. Otherwise each run gives its pairs of characters, and no pair overlaps a stop
    word.
    ignored : stop words in lower case; language : whose inflections share a key; None: none do
    """
    keys = _keys(ignored, language)
    found: list[Word] = []
    before, short = 0, False
    for match in _pattern_of(text).finditer(text):
        start, stop = match.span()
        word = match[0]
        gap = text[before:start]
        follows = gap in ("", " ") or gap.isspace() or (short and gap in (". ", "."))  # as in Mt. Gox
        before, short = stop, stop - start <= SHORT
        if word[0] >= FIRST_UNSPACED and _UNSPACED_RUN.match(word):
            found += _unspaced_words(word, start, follows, ignored)
        else:
            key, cut = keys[word]
            found.append(Word(key, start, stop - cut, follows, False))
    return found


def word_keys(text: str) -> set[str]:
    """The keys that ``split_words`` gives a normalized text without stop words and inflections, in less time."""
    keys = _keys(frozenset(), None)
    found: set[str] = set()
    for word in _pattern_of(text).findall(text):
        if word[0] >= FIRST_UNSPACED and _UNSPACED_RUN.match(word):
            found.update(one.key for one in _unspaced_words(word, 0, False, frozenset()))
        else:
            found.add(keys[word][0])
    return found


def _pattern_of(text: str) -> re.Pattern[str]:
    return _ASCII_WORD if text.isascii() else _WORD


class _Keys(dict[str, tuple[str, int]]):
    """The keys of words as they are written, and how many characters at the end belong to none."""

    def __init__(self, ignored: frozenset[str], language: str | None) -> None:
        self.ignored, self.stem = ignored, _stemmer(language) if language in STEMMERS else None

    def __missing__(self, word: str) -> tuple[str, int]:
        lower = word.lower().replace("’", "'")
        cut = 2 * lower.endswith("'s")
        lower = lower.removesuffix("'s")
        is_term = len(lower) <= LONGEST_WORD and lower not in self.ignored and (len(lower) > 1 or lower.isdigit())
        if len(self) >= KEPT_WORDS:
            self.clear()
        self[word] = (self.stem(lower) if self.stem else lower) if is_term else "", cut
        return self[word]


@lru_cache(64)
def _keys(ignored: frozenset[str], language: str | None) -> _Keys:
    return _Keys(ignored, language)


@lru_cache(1 << 16)
def has_letters(key: str) -> bool:
    """Whether a key says something alone, which a number and a date do not."""
    return any(sign.isalpha() and sign not in "年月日号號" for sign in key)


@cache
def _stemmer(language: str) -> Callable[[str], str] | None:
    """A stemmer of words in lower case; None where PyStemmer does not know the language.

    Source: Porter's Snowball stemmers (BSD), by PyStemmer.
    """
    import Stemmer

    name = STEMMERS[language]
    return Stemmer.Stemmer(name).stemWord if name in Stemmer.algorithms() else None


def same_word(one: str, other: str) -> bool:
    """Whether two words look like forms of one word: they begin alike, or one is a part of the other."""
    one, other = one.lower(), other.lower()
    if len(one) > len(other):
        one, other = other, one
    if one in other and (len(one) > PART or one == other or one in other.split("-")):
        return True
    if one[:PART] != other[:PART]:  # as of nearly all pairs
        return False
    alike = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))
    return alike >= PART and alike >= ALIKE * len(other)


def _unspaced_words(run: str, start: int, follows: bool, ignored: frozenset[str]) -> Iterator[Word]:
    segment = _segmenter("ja" if _KANA.search(run) else "zh" if _HAN.search(run) else "")
    if segment is not None:
        pieces = (run[at : at + SEGMENTED] for at in range(0, len(run), SEGMENTED))
        for word in itertools.chain.from_iterable(map(segment, pieces)):
            key = word.lower() if len(word) > 1 and word.lower() not in ignored else ""
            yield Word(key, start, start + len(word), follows, False)
            start, follows = start + len(word), True
        return
    if len(run) == 1:
        yield Word(run if run not in ignored else "", start, start + 1, follows, False)
    at = 0
    for piece in _unspaced(ignored).split(run):
        at = run.index(piece, at) if piece else at
        for place in range(at, at + len(piece) - 1):
            yield Word(run[place : place + 2], start + place, start + place + 2, place > at, True)
        at += len(piece)


@lru_cache(8)
def _unspaced(stop_words: frozenset[str]) -> re.Pattern[str]:
    """A pattern of the stop words of two or more characters in scripts without spaces, the longest first.

    One-character stop words are left out: they are part of too many other words.
    """
    longer = [word for word in stop_words if len(word) > 1 and _UNSPACED_RUN.match(word)]
    return re.compile("|".join(map(re.escape, sorted(longer, key=lambda word: (-len(word), word)))) or "(?!)")


@cache
def _segmenter(language: str) -> Callable[[str], list[str]] | None:
    """Cuts a run of characters into words; None where no package for the language is installed (extra ``cjk``)."""
    if language == "zh" and importlib.util.find_spec("jieba"):
        import jieba

        jieba.setLogLevel(60)
        return jieba.lcut  # type: ignore[no-any-return]
    if language == "ja" and importlib.util.find_spec("fugashi") and importlib.util.find_spec("unidic_lite"):
        import fugashi

        tagger: Any = fugashi.Tagger()
        return lambda run: [word.surface for word in tagger(run)]
    return None
