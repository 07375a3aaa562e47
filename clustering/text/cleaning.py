"""Texts as they came in; texts as they are compared and embedded out: entities decoded, tags and extra space gone."""

from __future__ import annotations

import html
import re
import sys
import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import Literal

# Elements of HTML; anything else between angle brackets (<3, <name@host>, <unk>) is text.
_INLINE = "b|i|em|strong|u|s|sub|sup|mark|small|wbr|font|big|tt"
_BLOCK = (
    "a|abbr|address|article|aside|audio|blockquote|body|br|button|caption|center|cite|code|col|colgroup|dd|del|details|"
    "dfn|div|dl|dt|embed|fieldset|figcaption|figure|footer|form|frame|frameset|h[1-6]|head|header|hr|html|iframe|img|"
    "input|ins|kbd|label|legend|li|link|main|map|meta|nav|noscript|object|ol|option|p|param|picture|pre|q|samp|script|"
    "section|select|source|span|strike|style|summary|svg|table|tbody|td|textarea|tfoot|th|thead|time|title|tr|ul|var|"
    "video"
)
_HIDDEN = re.compile(r"<(script|style)\b[^<>]*>|(<!--)|<!\[CDATA\[|\]\]>|<!doctype\b[^<>]*>", re.I)
_ENDS = {
    "script": re.compile(r"</script\s*>", re.I),
    "style": re.compile(r"</style\s*>", re.I),
    "<!--": re.compile("-->"),
}
# A tag has attributes with =, which sets <q cite="x"> apart from p<q and r>s; so has one that the end cuts off.
_REST = r"(?:\s*/?>|\s[^<>=]*=[^<>]*(?:>|$))"
_INLINE_TAG = re.compile(rf"</?(?:{_INLINE})\b{_REST}", re.I)
_TAG = re.compile(rf"</?(?:{_BLOCK})\b{_REST}", re.I)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});")
_URL = re.compile(r"\b(?:https?://|www\.)[!#-;=?-~]+", re.I)  # of ASCII, so that Chinese behind one stays
_SHORT = 1000  # characters, among which even marks alone are put in order within a millisecond
_HASHTAG = re.compile(r"(?<![\w&/])#(\w+)")


@dataclass(frozen=True)
class Cleaning:
    """What is done with a text before it is compared and embedded."""

    markup: bool = True  # entities are decoded, tags removed
    urls: str = "drop"  # keep, drop: but a text that has nothing else keeps them
    hashtags: str = "keep"  # keep, words (without #), drop
    case: str = "keep"  # keep, lower

    def __call__(self, text: str) -> str:
        """The text after these steps and ``normalized``."""
        if self.markup and ("<" in text or "&" in text):
            text = without_markup(text)
        if self.urls == "drop" and ("://" in text or "www." in text.lower()):
            without = _URL.sub(" ", text)
            text = without if any(map(str.isalnum, without)) else text
        if self.hashtags != "keep":
            text = _HASHTAG.sub(r"\1" if self.hashtags == "words" else " ", text)
        if self.case == "lower":
            text = text.lower()
        return normalized(text)

    @property
    def keeps_plain_ascii(self) -> bool:
        """Whether printable ASCII without markup and URLs, and with single spaces, stays as it is."""
        return (self.hashtags, self.case) == ("keep", "keep")


def normalized(text: str) -> str:
    """Unicode NFC with single spaces, ``encodable``."""
    return encodable(" ".join(unicode_form(text, "NFC").split()))


def encodable(text: str) -> str:
    """The text with a question mark for each lone surrogate, which JSON may hold and which has no UTF-8 form."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def unicode_form(text: str, form: Literal["NFC", "NFKC"]) -> str:
    """The text in a normalization form of Unicode.

    Marks that combine with the character before are put in order, in time that grows with the square of their number.
    In a long text, U+034F keeps 30 in a row apart from the next: Unicode's Stream-Safe Text Format, UAX #15.
    """
    if text.isascii():
        return text
    if len(text) >= _SHORT:
        possible, run = _runs_of_marks()
        text = run.sub("\\g<0>\u034f", text) if possible.search(text) else text
    return unicodedata.normalize(form, text)


@cache
def _runs_of_marks() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What finds soon where 31 marks in a row may stand, for which rare ones count with their neighbors; 30 of 31."""
    marks = "".join(filter(unicodedata.combining, map(chr, range(0x300, sys.maxunicode))))
    soon = "".join(mark for mark in marks if mark < "\U00010000")
    return re.compile(f"[{soon}\U00010000-\U0010ffff]{{31}}"), re.compile(f"[{marks}]{{30}}(?=[{marks}])")


def without_markup(text: str) -> str:
    """A text without HTML tags, with entities decoded: up to three times, since both may be written as entities."""
    for _ in range(3):
        plain = _ENTITY.sub(lambda found: html.unescape(found[0]), text)
        if plain == text:
            break
        text = plain
    if "<" not in text:
        return text
    return _TAG.sub(" ", _INLINE_TAG.sub("", _without_hidden(text)))


def _without_hidden(text: str) -> str:
    """A text without scripts, styles and comments. One without an end stays; its end is searched for only once."""
    kept: list[str] = []
    at = search = 0
    endless: set[str] = set()
    while found := _HIDDEN.search(text, search):
        search = found.end()
        kind = (found[1] or found[2] or "").lower()
        if kind in endless:
            continue
        end = _ENDS[kind].search(text, search) if kind else found
        if end is None:
            endless.add(kind)
            continue
        kept += [text[at : found.start()], " "]
        at = search = end.end()
    return "".join([*kept, text[at:]])
