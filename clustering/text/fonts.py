"""Characters in; the fonts of this machine that have them out."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

USUAL = "DejaVu Sans"  # comes with matplotlib
LIKELY = ("cjk", "noto sans", "notosans", "wqy", "wenquanyi", "droid", "pingfang", "hiragino", "unifont")


def fonts_for(text: str) -> tuple[list[str], frozenset[str]]:
    """Families that draw a text, as matplotlib takes them, and the characters that none of them has.

    Other fonts are opened only for characters that the usual one lacks, likely ones first by the name of their file.
    """
    from matplotlib.font_manager import FontProperties, findfont, findSystemFonts, fontManager

    families = [USUAL]
    missing = {sign for sign in text if not sign.isspace() and unicodedata.category(sign) not in ("Cc", "Cf")}
    missing -= _glyphs(findfont(FontProperties(family=USUAL)), missing)
    for path in sorted(findSystemFonts(), key=_rank) if missing else []:
        found = _glyphs(path, missing)
        if found:
            fontManager.addfont(path)
            families.append(fontManager.ttflist[-1].name)
            missing -= found
        if not missing:
            break
    return families, frozenset(missing)


def _rank(path: str) -> tuple[bool, bool, str]:
    name = Path(path).name.lower()
    return not any(word in name for word in LIKELY), "regular" not in name, name


def _glyphs(path: str, characters: set[str]) -> set[str]:
    """The characters that a font file has glyphs for; none where matplotlib cannot draw with the font."""
    from matplotlib.ft2font import FT2Font

    if "color" in Path(path).name.lower():  # matplotlib does not draw the bitmaps of color fonts
        return set()
    try:
        font: Any = FT2Font(path)
        return {sign for sign in characters if font.get_char_index(ord(sign))}
    except (OSError, RuntimeError, ValueError):
        return set()
