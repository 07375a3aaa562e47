"""Somebody's text in; the same out as a page, a picture, a log or a terminal may show it."""

from __future__ import annotations

import re

# Control characters, of which a terminal obeys some; lone surrogates, which nothing can write; marks that turn the
# direction of all that follows around. Line ends and tabs are spaces.
_SPACES = re.compile("[\t\n\v\f\r\x85\u2028\u2029]+")
_CONTROLS = re.compile(
    "\r(?!\n)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u061c\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
# A URI with a user, or with a user and a password, in which / may stand. An @ further on is part of a path.
CREDENTIALS = re.compile(r"://([^/?#]*|[^/?#@:]+:(?!\d+[/?#]).*)@", re.DOTALL)
_USER = re.compile(r"^(\w+://)?.*@", re.DOTALL)
REPLACED = "\ufffd"  # stands visibly for a character that is not shown


def printable(text: str) -> str:
    """The text with its lines, without characters that a terminal or a page would obey: each is shown as \ufffd."""
    return _CONTROLS.sub(REPLACED, text)


def one_line(text: str, most: int | None = None) -> str:
    """The printable text in one line, cut to ``most`` characters with an ellipsis."""
    line = _CONTROLS.sub(REPLACED, _SPACES.sub(" ", text)).strip()
    return line if most is None or len(line) <= most else line[: most - 1] + "…"


def hide_credentials(address: str) -> str:
    """An address without the user and password before its host."""
    return _USER.sub(r"\1***@", address)
