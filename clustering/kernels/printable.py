"""Untrusted text in; text that is safe to show on a page, in a picture, in a log or on a terminal out."""

from __future__ import annotations

import re

# Control characters, which a terminal may obey; lone surrogates, which cannot be encoded; marks that reverse the
# direction of the text after them. Line ends and tabs become spaces.
_SPACES = re.compile("[\t\n\v\f\r\x85\u2028\u2029]+")
_CONTROLS = re.compile(
    "\r(?!\n)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u061c\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
# A URI with a user, or with a user and a password, which may contain /. A later @ is part of the path.
CREDENTIALS = re.compile(r"://([^/?#]*|[^/?#@:]+:(?!\d+[/?#]).*)@", re.DOTALL)
_USER = re.compile(r"^(\w+://)?.*@", re.DOTALL)
_FORMULAS = tuple("=+-@\uff1d\uff0b\uff0d\uff20")  # also in full width, as in Chinese and Japanese
CELL_CHARACTERS = 32_000  # of a cell; a spreadsheet holds 32,767
REPLACEMENT = "\ufffd"  # shown instead of an unsafe character


def printable(text: str) -> str:
    """Keep the lines of the text; replace each character that a terminal or a page would obey with \ufffd."""
    return _CONTROLS.sub(REPLACEMENT, text)


def one_line(text: str, max_length: int | None = None) -> str:
    """Put the printable text on one line, cut to ``max_length`` characters with an ellipsis."""
    line = _CONTROLS.sub(REPLACEMENT, _SPACES.sub(" ", text)).strip()
    return line if max_length is None or len(line) <= max_length else line[: max_length - 1] + "…"


def spreadsheet_cell(text: str) -> str:
    """A line that a spreadsheet shows as it is: it would compute one that begins with =, +, - or @."""
    line = one_line(text, CELL_CHARACTERS)
    return f"'{line}" if line.startswith(_FORMULAS) else line


def hide_credentials(uri: str) -> str:
    """Replace the user and password of a URI with ***."""
    return _USER.sub(r"\1***@", uri)
